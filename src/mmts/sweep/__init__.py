"""Many runs from one file: every variant tuned on val with the same number of trials, then evaluated on test."""

from mmts.sweep.run import run_sweep

__all__ = ["run_sweep"]
