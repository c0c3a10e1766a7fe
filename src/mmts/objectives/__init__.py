"""Objectives: a loss and a policy joined into what a training loop calls."""

from mmts.objectives.base import Objective, ObjectiveOutput, policy_values
from mmts.objectives.contrastive import InfoNCE, MaxMargin
from mmts.objectives.fastclip import FastCLIP
from mmts.objectives.siglip import SigLIP
from mmts.objectives.sms import SMS
from mmts.objectives.sogclr import ISogCLR, SogCLR
from mmts.objectives.tempnet import TemperatureNet, TempNet
from mmts.objectives.weighted import ReweightedInfoNCE, TeMo

__all__ = [
    "SMS",
    "FastCLIP",
    "ISogCLR",
    "InfoNCE",
    "MaxMargin",
    "Objective",
    "ObjectiveOutput",
    "ReweightedInfoNCE",
    "SigLIP",
    "SogCLR",
    "TeMo",
    "TempNet",
    "TemperatureNet",
    "policy_values",
]
