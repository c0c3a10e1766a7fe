"""A run in one short file: reading it, its components, its messages, and the folder of a run."""
