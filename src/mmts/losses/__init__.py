"""Losses: functions of two batches of embeddings and one positive value per sample; no file, rank or clock in them."""

from mmts.losses.cyclic_consistency import cyclic_consistency
from mmts.losses.decoupled_info_nce import decoupled_info_nce
from mmts.losses.dual_temperature import dual_temperature
from mmts.losses.hard_negative_info_nce import hard_negative_info_nce
from mmts.losses.info_nce import info_nce
from mmts.losses.max_margin import max_margin
from mmts.losses.multi_positive_info_nce import multi_positive_info_nce
from mmts.losses.no_temperature import no_temperature
from mmts.losses.normalize import unit
from mmts.losses.reweighted_info_nce import reweighted_info_nce
from mmts.losses.rince import rince
from mmts.losses.siglip import siglip
from mmts.losses.sms import sms

__all__ = [
    "cyclic_consistency",
    "decoupled_info_nce",
    "dual_temperature",
    "hard_negative_info_nce",
    "info_nce",
    "max_margin",
    "multi_positive_info_nce",
    "no_temperature",
    "reweighted_info_nce",
    "rince",
    "siglip",
    "sms",
    "unit",
]
