"""`mmts prepare`: what a public data set's folder lacks and where to get it; else its manifest and its counts."""

import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmts.apps.public_sets import PUBLIC_SETS, Part, PublicSet
from mmts.console import console, progress_bar
from mmts.data.records import Dataset, Medium
from mmts.errors import DataError, counted, nearest, percent
from mmts.files import atomic_write, locked, why_missing

MANIFEST = "manifest.jsonl"
MISSING = "missing.txt"
_WIDTH = 80


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
    root = Path(os.path.abspath(os.path.expanduser(root)))
    if root.is_file():
        raise DataError(f"{root} is a file; --root is the data set's folder")
    _say(f"{public.title} in {root}")
    lacking = [part.what for part in _report(public.parts, root) if part.required]
    if lacking:
        where = f"{root} lacks" if root.is_dir() else f"{root} {why_missing(root)}. Get"
        raise DataError(f"{where} {'; '.join(lacking)}. The lines above say where they are found")
    try:
        dataset = public.read(root)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {str(root)!r}: {getattr(error, 'strerror', None) or error}") from None
    with locked(root / ".mmts.lock"):
        counts = write_manifest(dataset, root)
    for note in dataset.notes:
        _say(f"note: {note}")
    _print_counts(public, dataset, counts)
    console.print(f"manifest: {root / MANIFEST}")
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
        try:
            return path.exists()
        except (OSError, ValueError):  # a name that is too long, a folder that may not be looked into
            return False

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
        for split, identities in dataset.missing.items():
            counts.setdefault(split, Counts()).absent += len(identities)
            missing.writelines(f"{identity}\n" for identity in identities)
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
    lacking: list[Part] = []
    for at, part in enumerate(parts):
        found = next((pattern for pattern in part.patterns if _is_there(root, pattern)), None)
        if found is not None:
            _say(f"  there    {part.what}: {found}", 11)
        else:
            lacking.append(part)
            state = "missing" if part.required else "without"
            _say(f"  {state}  {part.what}: {part.place or part.patterns[0]} ({part.size})", 11)
        is_last = at + 1 == len(parts) or parts[at + 1].address != part.address
        if is_last and lacking and lacking[-1].address == part.address:  # said once for parts from one place
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
        media, texts = (f"{number:,}" for number in public.published[split]) if split in public.published else ("", "")
        absent = f"{of_split.absent:,}"
        _say(f"{split:<6}{of_split.media:>10,}{media:>11}{captions:>10,}{texts:>11}{absent:>9}")
    for split, coverage in dataset.coverage.items():
        published = "" if coverage.published is None else f"; papers judge on {coverage.published:,}"
        _say(f"{split}: {coverage.judged:,} of {coverage.annotated:,} annotated media are there{published}")
    if public.remark:
        _say(public.remark)
    absent_media = sum(each.absent for each in counts.values())
    if absent_media:
        total = sum(each.media for each in counts.values()) + sum(map(len, dataset.missing.values()))
        of_all = f"{counted(total, 'medium', 'media')} ({percent(absent_media / total)})"
        _say(f"no file for {absent_media:,} of {of_all}: see {MISSING}")


def _say(text: str, indent: int = 2) -> None:
    """Print a line, folded to 80 columns; addresses and paths stay whole."""
    lines = textwrap.wrap(text, _WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    console.print("\n".join(lines))
