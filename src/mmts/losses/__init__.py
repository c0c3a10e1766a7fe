"""Losses: functions of two batches of embeddings and one positive value per sample; no file, rank or clock in them."""

from mmts.losses.cyclic_consistency import cyclic_consistency as cyclic_consistency
from mmts.losses.decoupled_info_nce import decoupled_info_nce as decoupled_info_nce
from mmts.losses.dual_temperature import dual_temperature as dual_temperature
from mmts.losses.hard_negative_info_nce import hard_negative_info_nce as hard_negative_info_nce
from mmts.losses.info_nce import info_nce as info_nce
from mmts.losses.max_margin import max_margin as max_margin
from mmts.losses.multi_positive_info_nce import multi_positive_info_nce as multi_positive_info_nce
from mmts.losses.no_temperature import no_temperature as no_temperature
from mmts.losses.normalize import unit as unit
from mmts.losses.reweighted_info_nce import reweighted_info_nce as reweighted_info_nce
from mmts.losses.rince import rince as rince
from mmts.losses.siglip import siglip as siglip
from mmts.losses.sms import sms as sms
