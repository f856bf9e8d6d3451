"""Five published tutorials, done with featx alone. `python -m benchmarks.tutorials --help` says all."""
