"""`mmts prepare`: says what a public data set's folder lacks and where to get it; else writes its manifest."""

import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from braceexpand import braceexpand

from mmts.apps.public_sets import PUBLIC_SETS, PublicSet, Source
from mmts.console import console, progress_bar
from mmts.data.records import Dataset, Medium
from mmts.errors import DataError, counted, nearest, percent
from mmts.files import atomic_write, locked, why_missing

MANIFEST = "manifest.jsonl"
MISSING = "missing.txt"
_WIDTH = 80


def prepare(name: str, root: str | Path) -> Path:
    """Check a public data set's folder, write ROOT/manifest.jsonl, print the counts, and return the manifest.

    The output lists which parts are there and which are missing; ROOT/missing.txt lists the files that the annotations
    name but that do not exist. Raises DataError for an unknown name, missing parts, or data that cannot be read.
    """
    if name not in PUBLIC_SETS:
        raise DataError(f"there is no public data set {name!r} to prepare; {nearest(name, PUBLIC_SETS)}")
    public = PUBLIC_SETS[name]
    root = Path(os.path.abspath(os.path.expanduser(root)))
    if root.is_file():
        raise DataError(f"{root} is a file; --root is the data set's folder")
    _say(f"{public.title} in {root}")
    if missing := _report(public.sources, root):
        where = f"{root} lacks" if root.is_dir() else f"{root} {why_missing(root)}. Get"
        raise DataError(f"{where} {'; '.join(missing)}. The lines above say where to get them")
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
    """The contents of a split of a manifest: media, their captions, and media without a file."""

    media: int = 0
    captions: int = 0
    absent: int = 0


def write_manifest(dataset: Dataset, root: Path) -> dict[str, Counts]:
    """Write ROOT/manifest.jsonl, and ROOT/missing.txt if files are missing; return the counts by split.

    Media are read one at a time, so that a table of millions never becomes a list of objects.
    """

    @lru_cache(maxsize=1024)  # the clips of one video follow each other
    def exists(path: Path) -> bool:
        try:
            return path.exists()
        except (OSError, ValueError):  # the name is too long, or the folder is not readable
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
            count = counts.setdefault(medium.split or "", Counts())
            count.media += 1
            count.captions += len(medium.captions)
            if not exists(medium.path):
                count.absent += 1
                missing.write(f"{row[medium.kind]}\n")
            bar.advance()
        for split, identities in dataset.missing.items():
            counts.setdefault(split, Counts()).absent += len(identities)
            missing.writelines(f"{identity}\n" for identity in identities)
    if not any(count.absent for count in counts.values()):
        (root / MISSING).unlink()
    return counts


def _row(medium: Medium, root: Path) -> dict[str, Any]:
    """Return a medium as a line of captions.jsonl, without the keys that have no value."""
    row = {
        "id": medium.id,
        medium.kind: medium.path.relative_to(root).as_posix(),
        "captions": medium.captions,
        "labels": dict(medium.labels) or None,
    } | {key: getattr(medium, key) for key in ("split", "start", "end", "frames", "member")}
    return {key: value for key, value in row.items() if value is not None}


def _report(sources: Sequence[Source], root: Path) -> list[str]:
    """Say which parts exist, where to get the others, and where to put them; return the missing required parts."""
    missing = []
    for source in sources:
        is_complete = True
        for part in source.parts:
            patterns = [pattern for braces in part.patterns for pattern in braceexpand(braces)]
            found = next((pattern for pattern in patterns if _exists(root, pattern)), None)
            if found is not None:
                _say(f"  found    {part.what}: {found}", 11)
                continue
            is_complete = False
            state = "missing" if part.required else "optional"
            _say(f"  {state:<8} {part.what}: {part.place or patterns[0]} ({part.size})", 11)
            missing += [part.what] if part.required else []
        if not is_complete:
            _say(f"    {source.address}", 4)
            _say(f"    license: {source.license}", 4)
    return missing


def _exists(root: Path, pattern: str) -> bool:
    """Return whether a file, or a folder that is not empty, matches the pattern."""
    return any(not path.is_dir() or any(path.iterdir()) for path in root.glob(pattern))


def _print_counts(public: PublicSet, dataset: Dataset, counts: Mapping[str, Counts]) -> None:
    _say(f"{'split':<6}{'media':>10}{'published':>11}{'captions':>10}{'published':>11}{'no file':>9}")
    for split in dict.fromkeys((*dataset.split_names, *public.published)):
        count = counts.get(split, Counts())
        captions = len(dataset.graded[split].captions) if split in dataset.graded else count.captions
        media, texts = (f"{number:,}" for number in public.published[split]) if split in public.published else ("", "")
        _say(f"{split:<6}{count.media:>10,}{media:>11}{captions:>10,}{texts:>11}{count.absent:>9,}")
    for split, coverage in dataset.coverage.items():
        published = "" if coverage.published is None else f"; papers judge on {coverage.published:,}"
        _say(f"{split}: {coverage.judged:,} of {coverage.annotated:,} annotated media are there{published}")
    if public.remark:
        _say(public.remark)
    absent = sum(count.absent for count in counts.values())
    if absent:
        total = sum(count.media for count in counts.values()) + sum(map(len, dataset.missing.values()))
        share = f"{counted(total, 'medium', 'media')} ({percent(absent / total)})"
        _say(f"no file for {absent:,} of {share}: see {MISSING}")


def _say(text: str, indent: int = 2) -> None:
    """Print a line, wrapped at 80 columns; addresses and paths stay whole."""
    lines = textwrap.wrap(text, _WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    console.print("\n".join(lines))
