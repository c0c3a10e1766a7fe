"""Speed and memory, each compared with a plain version in the same run: `make bench` or `python -m benchmarks`."""
