"""mmts: temperatures and margins that follow training progress and concept density, for embedding models on long-tail data."""

__version__ = "0.1.0"
