"""Policies: who gets which temperature (or margin) when.

A policy maps (progress, index) to a positive value: () for all samples, (B,) for one per sample, or (B, B) for one per
pair. It is an nn.Module, so tables move with `.to(device)` and learned values are trained and saved with the rest.
"""

from mmts.policies.base import Policy as Policy
from mmts.policies.basic import LDAM as LDAM
from mmts.policies.basic import Fixed as Fixed
from mmts.policies.basic import Learned as Learned
from mmts.policies.basic import Scheduled as Scheduled
from mmts.policies.basic import Shifted as Shifted
from mmts.policies.batch import MACL as MACL
from mmts.policies.batch import DySTreSS as DySTreSS
from mmts.policies.batch import SimilarityPolicy as SimilarityPolicy
from mmts.policies.batch import TeMoTemperature as TeMoTemperature

POLICIES: dict[str, type[Policy]] = {
    "fixed": Fixed,
    "learned": Learned,
    "scheduled": Scheduled,
    "shifted": Shifted,
    "ldam": LDAM,
    "macl": MACL,
    "dystress": DySTreSS,
    "temo": TeMoTemperature,
}
"""The policies by their names in recipes (`rule`)."""
