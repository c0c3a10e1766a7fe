"""Objectives: a loss and a policy joined into what a training loop calls."""

from mmts.objectives.base import Objective, ObjectiveOutput, policy_values
from mmts.objectives.contrastive import InfoNCE, MaxMargin
from mmts.objectives.fastclip import FastCLIP
from mmts.objectives.siglip import SigLIP
from mmts.objectives.sms import SMS
from mmts.objectives.sogclr import ISogCLR, SogCLR
from mmts.objectives.tempnet import TemperatureNet, TempNet
from mmts.objectives.weighted import ReweightedInfoNCE, TeMo

OBJECTIVES: dict[str, type[Objective]] = {
    "info_nce": InfoNCE,
    "reweighted_info_nce": ReweightedInfoNCE,
    "temo": TeMo,
    "siglip": SigLIP,
    "max_margin": MaxMargin,
    "sms": SMS,
    "sogclr": SogCLR,
    "isogclr": ISogCLR,
    "fastclip": FastCLIP,
    "tempnet": TempNet,
}
"""The objectives by the names that recipes call them (`loss`)."""

__all__ = [
    "OBJECTIVES",
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
