"""Tiny things the adapters' tests share: pairs, their concepts, and rules."""

import torch

from mmts import MMTSLoss
from mmts.objectives import InfoNCE, Objective
from mmts.policies import Shifted
from mmts.schedules import Cosine

WORDS = ["red", "green", "blue", "white", "shoe", "hat", "bag", "coat"]
COUNTS = torch.tensor([1, 2, 4, 8, 1, 2, 4, 8])  # sizes of the concepts of eight pairs
CAPTIONS = [f"{WORDS[i % 4]} {WORDS[4 + i // 2]}" for i in range(8)]
PICTURES = [f"{WORDS[4 + i // 2]} {WORDS[(i + 1) % 4]}" for i in range(8)]


def shifted() -> Objective:
    """MM-TS as an objective over eight pairs; one swing over the run."""
    return InfoNCE(Shifted(Cosine(-0.04, 0.04, cycles=1), torch.linspace(0.05, 0.2, 8)))


def published() -> MMTSLoss:
    """The same rule as MMTSLoss; a trainer's progress is all its total_steps are good for."""
    return MMTSLoss(total_steps=1, cycles=1, count_range=(1, 8))
