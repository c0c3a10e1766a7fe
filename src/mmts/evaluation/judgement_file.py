"""Files behind the figures: judgement.npz, which keeps every query's rank, and embeddings."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from mmts.data.records import Split
from mmts.errors import DataError
from mmts.evaluation.figures import MediaLabel, Side, sides_of
from mmts.evaluation.rank import Judgement
from mmts.files import atomic_write
from mmts.recipe.run_directory import RunDirectory


def save_judgement(
    path: Path,
    judgement: Judgement,
    split: Split,
    root: Path,
    relevance: str,
    text_concepts: Tensor,
    text_groups: Tensor,
    media_groups: Tensor,
    labels: Mapping[str, MediaLabel] | None = None,
) -> None:
    """Write judgement.npz, so that runs can be compared query by query and results shown.

    text_concepts and text_groups (N,) are the concept (-1: unknown) and the group of every caption, media_groups (M,)
    that of every medium. The description says where each medium lies: its path; in tar files offset and length; of a
    clip start and end in seconds, first and last frame; and the labels that the run was judged by.
    """
    meta: dict[str, Any] = {
        "split": split.name,
        "kind": split.media[0].kind,
        "relevance": relevance,
        "data": str(root),
        "media_ids": [medium.id for medium in split.media],
        "media_paths": [os.path.relpath(medium.path, root) for medium in split.media],
        "captions": list(split.captions),
    }
    members = [medium.member for medium in split.media]
    if any(members):
        meta["media_members"] = members
    segments = [(medium.start, medium.end, *(medium.frames or (None, None))) for medium in split.media]
    if any(part is not None for segment in segments for part in segment):
        meta["media_segments"] = segments
    if labels:
        meta["labels"] = {name: {"values": label.values, "training": label.training} for name, label in labels.items()}
    with atomic_write(path) as file:
        np.savez_compressed(
            file,
            **{name: value.numpy() for name, value in vars(judgement).items() if value is not None},
            text_concepts=text_concepts.numpy(),
            text_groups=text_groups.to(torch.int8).numpy(),
            media_groups=media_groups.to(torch.int8).numpy(),
            owner=split.owner.numpy(),
            meta=np.array(json.dumps(meta)),
        )


def load_judgement(path: Path) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Read what `save_judgement` wrote: arrays by name, and the description."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return arrays, json.loads(str(arrays.pop("meta")))
    except FileNotFoundError:
        raise DataError(f"there is no {path}; `mmts evaluate` on the run writes it") from None
    except (ValueError, KeyError, OSError, EOFError, BadZipFile):
        raise DataError(f"{path} is damaged; `mmts evaluate` on the run rewrites it") from None


@dataclass(frozen=True)
class Judged:
    """One run's ranks and first results, as judgement.npz holds them."""

    path: Path
    arrays: dict[str, np.ndarray[Any, Any]]
    meta: dict[str, Any]

    @classmethod
    def load(cls, run: Path) -> "Judged":
        """Read the judgement.npz of a run directory; raises DataError if it has none."""
        return cls(run, *load_judgement(RunDirectory(run).judgement_file))

    @property
    def owner(self) -> Tensor:
        """(N,) int64, the medium of each caption."""
        return torch.from_numpy(self.arrays["owner"])

    @cached_property
    def sides(self) -> tuple[Side, Side]:
        """The queries of both directions, text to media first."""
        arrays = {name: torch.from_numpy(array) for name, array in self.arrays.items()}
        return sides_of(arrays, self.meta["kind"], self.owner)

    def has(self, measure: str) -> bool:
        """Whether queries have this measure: mAP and the like need graded relevance."""
        return measure in self.sides[0].measures

    @property
    def groups(self) -> tuple[Tensor, Tensor]:
        """The group of each text query (N,) and of each medium (M,): 0, 1, 2 = head, mid, tail."""
        return torch.from_numpy(self.arrays["text_groups"]), torch.from_numpy(self.arrays["media_groups"])

    @property
    def concepts(self) -> tuple[Tensor, Tensor | None]:
        """The training concept of each caption (N,), and of each medium (M,) that of its first caption; -1: unknown.

        None for media if the captions are not their own, as with graded relevance.
        """
        text, owner = torch.from_numpy(self.arrays["text_concepts"]), self.arrays["owner"]
        if self.meta["relevance"] == "graded":
            return text, None
        return text, text[np.searchsorted(owner, np.arange(len(self.arrays["media_ranks"])))]  # owners are in order

    @cached_property
    def labels(self) -> dict[str, MediaLabel]:
        """The labels that the run was judged by."""
        return {name: MediaLabel(**label) for name, label in self.meta.get("labels", {}).items()}

    def differs_from(self, other: "Judged") -> str:
        """Say how this run's queries differ from another's; empty if they are the same."""
        if self.meta["kind"] != other.meta["kind"]:
            return f"{self.meta['kind']}s, not {other.meta['kind']}s"
        for key in ("split", "relevance"):
            if self.meta[key] != other.meta[key]:
                return f"{key} {self.meta[key]}, not {other.meta[key]}"
        for key, word in (("media_ids", "media"), ("captions", "captions")):
            names, others = self.meta[key], other.meta[key]
            if names != others:
                if sorted(names) == sorted(others):
                    return f"the same {word} in another order"
                return f"{len(names):,} {word}, {len({*names} & {*others}):,} of them the same"
        return ""


def save_embeddings(path: Path, media: Tensor, text: Tensor, split: Split, about: Mapping[str, str]) -> None:
    """Write media (M, D) and text (N, D), rows in file order, with ids and captions, as .npz without pickles.

    Also owner (N,), media_id (M,), caption (N,) and text_id (N,), which is ID#K for caption K (from 0) of a medium; the
    split's name and every entry of `about` are strings.
    """
    ids = np.array([medium.id for medium in split.media])
    owner = split.owner.numpy()
    number = np.arange(len(owner)) - split.first.numpy()[owner]
    arrays: dict[str, Any] = {
        "media": media.numpy(),
        "text": text.numpy(),
        "owner": owner,
        "media_id": ids,
        "text_id": np.array([f"{ids[at]}#{k}" for at, k in zip(owner, number, strict=True)]),
        "caption": np.array(split.captions),
        "split": np.array(split.name),
        **{name: np.array(value) for name, value in about.items()},
    }
    with atomic_write(path) as file:
        np.savez(file, **arrays)
