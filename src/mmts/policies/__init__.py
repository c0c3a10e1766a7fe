"""Policies: who gets which temperature (or margin) when.

A policy maps (progress, index) to a positive value: () for all samples, (B,) for one per sample, or (B, B) for one per
pair. It is an nn.Module, so tables move with `.to(device)` and learned values are trained and saved with the rest.
"""

from mmts.policies.base import Policy
from mmts.policies.basic import LDAM, Fixed, Learned, Scheduled, Shifted
from mmts.policies.batch import MACL, DySTreSS, SimilarityPolicy, TeMoTemperature

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

__all__ = [
    "LDAM",
    "MACL",
    "POLICIES",
    "DySTreSS",
    "Fixed",
    "Learned",
    "Policy",
    "Scheduled",
    "Shifted",
    "SimilarityPolicy",
    "TeMoTemperature",
]
