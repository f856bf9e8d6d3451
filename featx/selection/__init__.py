"""Settings chosen on training rows: cross-validation over whole paths, few-shot curves, and sweeps."""
