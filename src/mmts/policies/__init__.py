"""Policies: who gets which temperature (or margin) when.

A policy maps (progress, index) to a positive value: () for all samples, (B,) for one per sample, or (B, B) for one per
pair. It is an nn.Module, so tables move with `.to(device)` and learned values are trained and saved with the rest.

>>> import torch
>>> from mmts.schedules import Cosine
>>> policy = Shifted(Cosine(-0.04, 0.04, cycles=5), torch.tensor([0.05, 0.20]))
>>> policy(0.1, torch.tensor([0, 1]))
tensor([0.0100, 0.1600], dtype=torch.float64)
"""

from mmts.policies.base import Policy
from mmts.policies.basic import Fixed, Learned, Scheduled, Shifted
from mmts.policies.batch import MACL, DySTreSS, SimilarityPolicy, TeMoTemperature

POLICIES: dict[str, type[Policy]] = {
    "fixed": Fixed,
    "learned": Learned,
    "scheduled": Scheduled,
    "shifted": Shifted,
    "macl": MACL,
    "dystress": DySTreSS,
    "temo": TeMoTemperature,
}
"""The policies by their names in recipes (`rule`)."""

__all__ = [
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
