"""One reader per format of docs/datasets.md."""
