"""Trained runs for other programs: ONNX files, and folders that sentence-transformers and transformers load."""

from mmts.export.command import export_run

__all__ = ["export_run"]
