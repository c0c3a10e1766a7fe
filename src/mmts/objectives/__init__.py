"""Objectives: a loss and a policy combined into one call for a training loop."""

from mmts.objectives.base import Objective, ObjectiveOutput, Pairs, policy_values
from mmts.objectives.fastclip import FastCLIP
from mmts.objectives.info_nce import (
    RINCE,
    CyCLIP,
    DecoupledInfoNCE,
    DualTemperature,
    HardNegativeInfoNCE,
    InfoNCE,
    MultiPositiveInfoNCE,
    ReweightedInfoNCE,
)
from mmts.objectives.max_margin import MaxMargin
from mmts.objectives.no_temperature import NoTemperature
from mmts.objectives.nuclr import NUCLR
from mmts.objectives.prior import Prior
from mmts.objectives.row_weights import RowWeights
from mmts.objectives.siglip import SigLIP
from mmts.objectives.sms import SMS
from mmts.objectives.sogclr import ISogCLR, SogCLR
from mmts.objectives.temo import TeMo
from mmts.objectives.tempnet import TemperatureNet, TempNet

OBJECTIVES: dict[str, type[Objective]] = {
    "info_nce": InfoNCE,
    "decoupled_info_nce": DecoupledInfoNCE,
    "multi_positive_info_nce": MultiPositiveInfoNCE,
    "reweighted_info_nce": ReweightedInfoNCE,
    "dual_temperature": DualTemperature,
    "no_temperature": NoTemperature,
    "hard_negative_info_nce": HardNegativeInfoNCE,
    "rince": RINCE,
    "cyclip": CyCLIP,
    "temo": TeMo,
    "siglip": SigLIP,
    "max_margin": MaxMargin,
    "sms": SMS,
    "sogclr": SogCLR,
    "isogclr": ISogCLR,
    "fastclip": FastCLIP,
    "tempnet": TempNet,
    "nuclr": NUCLR,
}
"""The objectives by their names in recipes (`loss`)."""

__all__ = [
    "NUCLR",
    "OBJECTIVES",
    "RINCE",
    "SMS",
    "CyCLIP",
    "DecoupledInfoNCE",
    "DualTemperature",
    "FastCLIP",
    "HardNegativeInfoNCE",
    "ISogCLR",
    "InfoNCE",
    "MaxMargin",
    "MultiPositiveInfoNCE",
    "NoTemperature",
    "Objective",
    "ObjectiveOutput",
    "Pairs",
    "Prior",
    "ReweightedInfoNCE",
    "RowWeights",
    "SigLIP",
    "SogCLR",
    "TeMo",
    "TempNet",
    "TemperatureNet",
    "policy_values",
]
