"""`mmts prepare`: what a public data set's folder lacks and where to get it; else its manifest and its counts."""

import json
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmts.console import console, progress_bar
from mmts.data.epic_kitchens import read_epic_kitchens
from mmts.data.karpathy import karpathy_file, read_karpathy
from mmts.data.records import Dataset, Medium
from mmts.errors import DataError, nearest
from mmts.files import atomic_write

MANIFEST = "manifest.jsonl"
MISSING = "missing.txt"
_WIDTH = 80


@dataclass(frozen=True)
class Part:
    """Something a data set's folder should hold: any one of `patterns` (globs from the folder) will do.

    `place` is where to put it, in words or as a path; the first pattern where that is not given.
    """

    what: str
    patterns: tuple[str, ...]
    address: str
    size: str
    licence: str
    required: bool = True
    place: str = ""


@dataclass(frozen=True)
class PublicSet:
    """A public data set: its parts, its reader, and the media and captions that were published, by split."""

    title: str
    parts: tuple[Part, ...]
    read: Callable[[Path], Dataset]
    published: Mapping[str, tuple[int, int]]
    remark: str = ""


_KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
_COCO_TERMS = "each photo's own Creative Commons licence, see https://cocodataset.org/#termsofuse"
_EPIC_ANNOTATIONS = "https://github.com/epic-kitchens/epic-kitchens-100-annotations"
_EPIC_LICENCE = "CC BY-NC 4.0"


def _karpathy_part(name: str) -> Part:
    file = f"dataset_{name}.json"
    return Part("Karpathy's splits", (file, f"annotations/{file}"), _KARPATHY, "about 40 MB", "none stated")


def _coco_part(name: str, size: str) -> Part:
    address = f"http://images.cocodataset.org/zips/{name}.zip"
    return Part(f"photos of {name}", (name, f"images/{name}"), address, size, _COCO_TERMS)


def _epic_part(what: str, inner: str, name: str, size: str, required: bool = True) -> Part:
    outer = ("", "annotations/", "epic-kitchens-100-annotations/")
    patterns = tuple(dict.fromkeys(f"{each}{folder}{name}" for each in outer for folder in (inner, "")))
    return Part(what, patterns, _EPIC_ANNOTATIONS, size, _EPIC_LICENCE, required)


PUBLIC_SETS: Mapping[str, PublicSet] = {
    "flickr30k": PublicSet(
        "Flickr30K",
        (
            _karpathy_part("flickr30k"),
            Part(
                "photos",
                ("flickr30k-images", "flickr30k_images", "images", "*.jpg"),
                "https://shannon.cs.illinois.edu/DenotationGraph/ (by a form)",
                "4.4 GB",
                "Flickr's terms of use; for non-commercial research and education",
            ),
        ),
        lambda root: read_karpathy(karpathy_file(root, "flickr30k")),
        {"train": (29_000, 145_000), "val": (1_014, 5_070), "test": (1_000, 5_000)},
        "31,783 photos are published; Karpathy's splits use 31,014 of them.",
    ),
    "coco": PublicSet(
        "MSCOCO",
        (_karpathy_part("coco"), _coco_part("train2014", "13 GB"), _coco_part("val2014", "6 GB")),
        lambda root: read_karpathy(karpathy_file(root, "coco")),
        {"train": (113_287, 566_747), "val": (5_000, 25_000), "test": (5_000, 25_000)},
        "Published for train: 82,783 photos of train and 30,504 of restval.",
    ),
    "ek100": PublicSet(
        "EPIC-KITCHENS-100 multi-instance retrieval",
        (
            *(
                _epic_part(f"{what} of {split}", "retrieval_annotations/", f"EPIC_100_retrieval_{split}{end}.csv", size)
                for split, sizes in (("train", ("about 8 MB", "1 MB")), ("test", ("1 MB", "0.1 MB")))
                for what, end, size in zip(("clips", "sentences"), ("", "_sentence"), sizes, strict=True)
            ),
            _epic_part("names of noun classes", "", "EPIC_100_noun_classes*.csv", "0.05 MB", required=False),
            _epic_part("names of verb classes", "", "EPIC_100_verb_classes.csv", "0.01 MB", required=False),
            Part(
                "videos (or chunks, frames, features)",
                (
                    *(
                        f"{base}/P[0-9][0-9]"
                        for base in ("videos", "video_320p_15sec", "EK100_320p_15sec_30fps_libx264")
                    ),
                    "EPIC-KITCHENS/P[0-9][0-9]",
                    "P[0-9][0-9]",
                    "features/*.npy",
                ),
                "https://github.com/epic-kitchens/epic-kitchens-download-scripts; in 15-second "
                "chunks at 320 pixels: https://utexas.box.com/v/ek100-320p-15sec-30fps",
                "about 1 TB as recorded",
                _EPIC_LICENCE,
                place="videos/P01/P01_01.MP4 and so on, or features/P01_01_0.npy and so on",
            ),
        ),
        read_epic_kitchens,
        {"train": (67_217, 15_989), "test": (9_668, 3_842)},
        "Captions are counted as the sentences that the split is judged with.",
    ),
}


def prepare(name: str, root: str | Path) -> Path:
    """Check a public data set's folder, write ROOT/manifest.jsonl, print the counts, and return the manifest.

    What is there and what is missing is printed part by part. Files that the annotations name and that are not there
    are listed in ROOT/missing.txt.

    Args:
        name: flickr30k, coco, cc3m, ek100 or youcook2.
        root: the folder.

    Raises:
        DataError: an unknown name, required parts that are missing, or what the reader raises.
    """
    if name not in PUBLIC_SETS:
        raise DataError(f"there is no public data set {name!r} to prepare; {nearest(name, PUBLIC_SETS)}")
    public = PUBLIC_SETS[name]
    root = Path(os.path.abspath(Path(root).expanduser()))
    _say(f"{public.title} in {root}")
    lacking = [part.what for part in _report(public.parts, root) if part.required]
    if lacking:
        where = f"{root} lacks" if root.is_dir() else f"{root} does not exist: get"
        raise DataError(f"{where} {'; '.join(lacking)}. The lines above say where they are found")
    dataset = public.read(root)
    counts = write_manifest(dataset, root)
    for note in dataset.notes:
        _say(f"note: {note}")
    _print_counts(public, dataset, counts)
    console.print(f"manifest: {root / MANIFEST}", markup=False)
    return root / MANIFEST


@dataclass
class Counts:
    """What a split of a manifest holds: media, their captions, and media whose file is not there."""

    media: int = 0
    captions: int = 0
    absent: int = 0


def write_manifest(dataset: Dataset, root: Path) -> dict[str, Counts]:
    """Write ROOT/manifest.jsonl, and ROOT/missing.txt where files are missing; return the counts by split.

    One medium at a time, so that a table of millions is never a list of objects.
    """

    @lru_cache(maxsize=1024)  # the clips of one video come one after the other
    def is_there(path: Path) -> bool:
        return path.exists()

    counts: dict[str, Counts] = {}
    with (
        atomic_write(root / MANIFEST, "w") as manifest,
        atomic_write(root / MISSING, "w") as missing,
        progress_bar("writing manifest", len(dataset.media), "media") as bar,
    ):
        for medium in dataset.media:
            row = _row(medium, root)
            manifest.write(json.dumps(row, ensure_ascii=False) + "\n")
            of_split = counts.setdefault(medium.split or "", Counts())
            of_split.media += 1
            of_split.captions += len(medium.captions)
            if not is_there(medium.path):
                of_split.absent += 1
                missing.write(f"{row[medium.kind]}\n")
            bar.advance()
    if not any(of_split.absent for of_split in counts.values()):
        (root / MISSING).unlink()
    return counts


def _row(medium: Medium, root: Path) -> dict[str, Any]:
    """Return a medium as a line of captions.jsonl; what it has not is left out."""
    row = {
        "id": medium.id,
        medium.kind: medium.path.relative_to(root).as_posix(),
        "captions": medium.captions,
        "labels": dict(medium.labels) or None,
        "split": medium.split,
        "start": medium.start,
        "end": medium.end,
        "frames": medium.frames,
        "member": medium.member,
    }
    return {name: value for name, value in row.items() if value is not None}


def _report(parts: Sequence[Part], root: Path) -> list[Part]:
    """Say of each part whether it is there, else where it goes and where it is found; return those that are not."""
    lacking = []
    for at, part in enumerate(parts):
        found = next((pattern for pattern in part.patterns if _is_there(root, pattern)), None)
        if found is not None:
            _say(f"  there    {part.what}: {found}", 11)
            continue
        lacking.append(part)
        state = "missing" if part.required else "without"
        _say(f"  {state}  {part.what}: {part.place or part.patterns[0]} ({part.size})", 11)
        if at + 1 == len(parts) or parts[at + 1].address != part.address:
            _say(f"    {part.address}", 4)
            _say(f"    licence: {part.licence}", 4)
    return lacking


def _is_there(root: Path, pattern: str) -> bool:
    """Return whether a file, or a folder with something in it, matches."""
    return any(not path.is_dir() or any(path.iterdir()) for path in root.glob(pattern))


def _print_counts(public: PublicSet, dataset: Dataset, counts: Mapping[str, Counts]) -> None:
    head = f"{'split':<6}{'media':>10}{'published':>11}{'captions':>10}{'published':>11}{'no file':>9}"
    _say(head)
    for split in dict.fromkeys((*dataset.split_names, *public.published)):
        of_split = counts.get(split, Counts())
        graded = dataset.graded.get(split)
        captions = of_split.captions if graded is None else len(graded.captions)
        media, texts = (f"{number:,}" for number in public.published.get(split, (0, 0)))
        absent = f"{of_split.absent:,}"
        _say(f"{split:<6}{of_split.media:>10,}{media:>11}{captions:>10,}{texts:>11}{absent:>9}")
    for split, coverage in dataset.coverage.items():
        published = "" if coverage.published is None else f"; papers judge on {coverage.published:,}"
        _say(f"{split}: {coverage.judged:,} of {coverage.annotated:,} annotated media are there{published}")
    if public.remark:
        _say(public.remark)
    absent_media = sum(each.absent for each in counts.values())
    if absent_media:
        total = sum(each.media for each in counts.values())
        _say(f"no file for {absent_media:,} of {total:,} media ({100 * absent_media / total:.2g} %): see {MISSING}")


def _say(text: str, indent: int = 2) -> None:
    """Print a line, folded to 80 columns; addresses and paths stay whole."""
    lines = textwrap.wrap(text, _WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    console.print("\n".join(lines), markup=False)
