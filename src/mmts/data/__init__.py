"""Data: media with their captions, read from the formats of docs/datasets.md, decoded and put into batches."""
