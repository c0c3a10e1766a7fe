"""The commands that stand beside training and evaluation."""
