"""Many runs from one file: every rule tuned on val with the same number of trials, then judged on test."""

from mmts.sweep.run import run_sweep

__all__ = ["run_sweep"]
