"""Objectives: a loss and a policy joined into what a training loop calls."""

from mmts.objectives.base import Objective, ObjectiveOutput, policy_values
from mmts.objectives.contrastive import InfoNCE, MaxMargin, sample_weights
from mmts.objectives.siglip import SigLIP
from mmts.objectives.sms import SMS

__all__ = ["SMS", "InfoNCE", "MaxMargin", "Objective", "ObjectiveOutput", "SigLIP", "policy_values", "sample_weights"]
