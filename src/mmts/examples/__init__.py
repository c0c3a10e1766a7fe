"""Small generated data sets in the public formats, for `--tiny` runs and for tests: drawn pictures, true layouts."""
