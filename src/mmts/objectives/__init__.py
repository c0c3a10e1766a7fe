"""Objectives: a loss and a policy combined into one call for a training loop."""

from mmts.objectives.adjustments import Prior as Prior
from mmts.objectives.adjustments import RowWeights as RowWeights
from mmts.objectives.base import Objective as Objective
from mmts.objectives.base import ObjectiveOutput as ObjectiveOutput
from mmts.objectives.base import Pairs as Pairs
from mmts.objectives.base import policy_values as policy_values
from mmts.objectives.fastclip import FastCLIP as FastCLIP
from mmts.objectives.info_nce import RINCE as RINCE
from mmts.objectives.info_nce import CyCLIP as CyCLIP
from mmts.objectives.info_nce import DecoupledInfoNCE as DecoupledInfoNCE
from mmts.objectives.info_nce import DualTemperature as DualTemperature
from mmts.objectives.info_nce import HardNegativeInfoNCE as HardNegativeInfoNCE
from mmts.objectives.info_nce import InfoNCE as InfoNCE
from mmts.objectives.info_nce import MultiPositiveInfoNCE as MultiPositiveInfoNCE
from mmts.objectives.info_nce import NoTemperature as NoTemperature
from mmts.objectives.info_nce import ReweightedInfoNCE as ReweightedInfoNCE
from mmts.objectives.max_margin import SMS as SMS
from mmts.objectives.max_margin import MaxMargin as MaxMargin
from mmts.objectives.nuclr import NUCLR as NUCLR
from mmts.objectives.siglip import SigLIP as SigLIP
from mmts.objectives.sogclr import ISogCLR as ISogCLR
from mmts.objectives.sogclr import SogCLR as SogCLR
from mmts.objectives.temo import TeMo as TeMo
from mmts.objectives.tempnet import TemperatureNet as TemperatureNet
from mmts.objectives.tempnet import TempNet as TempNet

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
