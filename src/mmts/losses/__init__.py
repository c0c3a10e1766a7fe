"""Losses: functions of two batches of embeddings and one positive value per sample; no file, rank or clock in them."""

from mmts.losses.decoupled_info_nce import decoupled_info_nce
from mmts.losses.info_nce import info_nce
from mmts.losses.max_margin import max_margin
from mmts.losses.multi_positive_info_nce import multi_positive_info_nce
from mmts.losses.normalize import unit
from mmts.losses.reweighted_info_nce import reweighted_info_nce
from mmts.losses.siglip import siglip
from mmts.losses.sms import sms

__all__ = [
    "decoupled_info_nce",
    "info_nce",
    "max_margin",
    "multi_positive_info_nce",
    "reweighted_info_nce",
    "siglip",
    "sms",
    "unit",
]
