"""What every room may import: files, hashes, Keras, threads and processes, progress. It imports no room."""
