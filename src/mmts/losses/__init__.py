"""Losses: functions of two batches of embeddings and one positive value per sample; no file, rank or clock in them."""

from mmts.losses.info_nce import info_nce
from mmts.losses.max_margin import max_margin
from mmts.losses.normalize import unit

__all__ = ["info_nce", "max_margin", "unit"]
