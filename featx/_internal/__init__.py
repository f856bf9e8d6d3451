"""What every room may import: files, hashes, Keras, memory, threads and processes, progress. It imports no room."""
