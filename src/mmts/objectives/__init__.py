"""Objectives: a loss and a policy joined into what a training loop calls."""

from mmts.objectives.base import Objective, ObjectiveOutput, policy_values
from mmts.objectives.contrastive import InfoNCE, MaxMargin, sample_weights

__all__ = ["InfoNCE", "MaxMargin", "Objective", "ObjectiveOutput", "policy_values", "sample_weights"]
