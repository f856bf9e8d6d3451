"""Small networks on features: what they compute, their rows in chunks and batches, their epochs, compiled once."""
