"""The file behind the figures, judgement.npz, which keeps every query's rank."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmts.data.records import Medium, Split
from mmts.errors import DataError
from mmts.evaluation.classification import Classes
from mmts.evaluation.figures import MediaLabel
from mmts.evaluation.mismatch import Mismatches
from mmts.evaluation.rank import Side
from mmts.files import atomic_write
from mmts.recipe.run_directory import RunDirectory

SIDES = ("text", "media")
"""Whose queries: text to media, and media to text."""
_STORED = ("ranks", "top", "top_relevant", "graded")  # of a Side
_OF_CLASSES = ("templates", "names", "num_training")


def save_judgement(
    path: Path,
    sides: Sequence[Side],
    split: Split,
    root: Path,
    relevance: str,
    concepts: Tensor,
    groups: Sequence[Tensor],
    labels: Mapping[str, MediaLabel] = {},
    classes: Classes | None = None,
    class_top: Tensor | None = None,
    mismatches: Mismatches | None = None,
) -> None:
    """Write judgement.npz, so that runs can be compared query by query and results shown.

    concepts (N,) of the captions, -1 if unknown; groups (N,) of the captions and (M,) of the media. class_top
    (M, <= 5): the answers of a classification.
    """
    meta: dict[str, Any] = {"split": split.name, "kind": split.media[0].kind, "relevance": relevance, "data": str(root)}
    meta["media_ids"] = [medium.id for medium in split.media]
    meta["media_paths"] = [os.path.relpath(medium.path, root) for medium in split.media]
    meta["captions"] = list(split.captions)
    members = [medium.member for medium in split.media]
    if any(members):
        meta["media_members"] = members
    segments = [(medium.start, medium.end, *(medium.frames or (None, None))) for medium in split.media]
    if any(part is not None for segment in segments for part in segment):
        meta["media_segments"] = segments
    if labels:
        meta["labels"] = {name: vars(label) for name, label in labels.items()}
    arrays = {"owner": split.owner, "text_concepts": concepts}
    if classes is not None and class_top is not None:
        meta["classes"] = {name: list(getattr(classes, name)) for name in _OF_CLASSES} | {"label": classes.label}
        arrays |= {"class_target": classes.target, "class_top": class_top}
    if mismatches is not None:
        arrays |= {"text_mismatch": mismatches.scores}
        arrays |= {"media_nearest": mismatches.nearest, "media_nearest_cosine": mismatches.cosine}
    for name, side, group in zip(SIDES, sides, groups, strict=True):
        arrays |= {f"{name}_{key}": value for key in _STORED if (value := getattr(side, key)) is not None}
        arrays[f"{name}_groups"] = group.to(torch.int8)
    with atomic_write(path) as file:
        stored: dict[str, Any] = {name: value.numpy() for name, value in arrays.items()}
        np.savez_compressed(file, **stored, meta=np.array(json.dumps(meta)))


@dataclass(frozen=True)
class Judged:
    """One run's ranks and first results, as judgement.npz holds them."""

    path: Path
    arrays: dict[str, np.ndarray[Any, Any]]
    meta: dict[str, Any]

    @classmethod
    def load(cls, path: Path, file: Path | None = None) -> "Judged":
        """Read the judgement.npz of a run directory, or another file; raises DataError if it is missing or damaged."""
        file = file or RunDirectory(path).judgement_file
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            return cls(path, arrays, json.loads(str(arrays.pop("meta"))))
        except FileNotFoundError:
            raise DataError(f"there is no {file}; `mmts evaluate` on the run writes it") from None
        except Exception:  # numpy and zipfile raise nearly anything on a damaged file
            raise DataError(f"{file} is damaged; `mmts evaluate` on the run rewrites it") from None

    def _tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    @property
    def owner(self) -> Tensor:
        """(N,) int64, the medium of each caption."""
        return self._tensor("owner")

    @cached_property
    def sides(self) -> tuple[Side, Side]:
        """The queries of both directions, text to media first."""
        kind, every = self.meta["kind"], torch.arange(len(self.arrays["media_ranks"]))
        text, media = (
            {key: self._tensor(f"{name}_{key}") for key in _STORED if f"{name}_{key}" in self.arrays} for name in SIDES
        )
        return Side(f"text_to_{kind}", self.owner, **text), Side(f"{kind}_to_text", every, **media)

    def medium(self, number: int) -> Medium:
        """Return a medium, without its captions."""
        meta = self.meta
        segment: Any = meta["media_segments"][number] if "media_segments" in meta else [None] * 4
        member = meta["media_members"][number] if "media_members" in meta else None
        parts = {"start": segment[0], "end": segment[1], "frames": None if segment[2] is None else tuple(segment[2:])}
        name, path = meta["media_ids"][number], Path(meta["data"]) / meta["media_paths"][number]
        return Medium(name, path, (), kind=meta["kind"], member=member and tuple(member), **parts)

    def has(self, measure: str) -> bool:
        """Whether queries have this measure: mAP and the like need graded relevance."""
        return measure in self.sides[0].measures

    @property
    def groups(self) -> tuple[Tensor, Tensor]:
        """The group of each text query (N,) and of each medium (M,): 0, 1, 2 = head, mid, tail."""
        return self._tensor("text_groups"), self._tensor("media_groups")

    @property
    def concepts(self) -> tuple[Tensor, Tensor | None]:
        """The training concept of captions (N,), and of media (M,) by their first, or None if graded; -1: unknown."""
        text = self._tensor("text_concepts")
        if self.meta["relevance"] == "graded":
            return text, None
        return text, text[torch.searchsorted(self.owner, self.sides[1].media)]  # owners are in order

    @cached_property
    def labels(self) -> dict[str, MediaLabel]:
        """The labels that the run was judged by."""
        return {name: MediaLabel(**label) for name, label in self.meta.get("labels", {}).items()}

    @cached_property
    def classes(self) -> Classes | None:
        """The classes that the media were classified by; None if they were not."""
        about = self.meta.get("classes")
        return None if about is None else Classes(**about, target=self._tensor("class_target"))

    @property
    def mismatches(self) -> Mismatches | None:
        """Which captions may be wrong, and which media are alike; None if that was not found out."""
        names = ("text_mismatch", "media_nearest", "media_nearest_cosine")
        return Mismatches(*map(self._tensor, names)) if {*names} <= self.arrays.keys() else None

    @property
    def class_top(self) -> Tensor:
        """(M, <= 5) int64, the nearest classes of each medium, best first; -1 for media without a class."""
        return self._tensor("class_top")

    def differs_from(self, other: "Judged") -> str:
        """Say how this run's queries differ from another's; empty if they are the same."""
        if self.meta["kind"] != other.meta["kind"]:
            return f"{self.meta['kind']}s, not {other.meta['kind']}s"
        for key in ("split", "relevance"):
            if self.meta[key] != other.meta[key]:
                return f"{key} {self.meta[key]}, not {other.meta[key]}"
        for key, word in (("media_ids", "media"), ("captions", "captions")):
            names, others = self.meta[key], other.meta[key]
            if names != others and sorted(names) == sorted(others):
                return f"the same {word} in another order"
            if names != others:
                return f"{len(names):,} {word}, {len({*names} & {*others}):,} of them the same"
        return ""
