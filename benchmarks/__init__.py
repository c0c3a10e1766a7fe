"""Speed and memory, each as a ratio against a plain version in the same run: `make bench` or `python -m benchmarks`."""
