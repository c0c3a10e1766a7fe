"""`mmts prepare`: says what a public data set's folder lacks and where to get it; else writes its manifest."""

import json
import os
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from braceexpand import braceexpand

from mmts.console import console, progress_bar
from mmts.data.epic_kitchens import read_epic_kitchens
from mmts.data.formats.cc3m import read_cc3m
from mmts.data.formats.coco import karpathy_file, read_karpathy
from mmts.data.formats.youcook2 import read_youcook2
from mmts.data.records import Dataset, Medium
from mmts.errors import DataError, counted, nearest, percent
from mmts.evaluation.measures import coverage_in_words
from mmts.files import atomic_write, locked, why_missing

MANIFEST = "manifest.jsonl"
MISSING = "missing.txt"
_WIDTH = 80

READERS: dict[str, Callable[[Path], Dataset]] = {
    "flickr30k": lambda root: read_karpathy(karpathy_file(root, "flickr30k")),
    "coco": lambda root: read_karpathy(karpathy_file(root, "coco")),
    "cc3m": read_cc3m,
    "ek100": read_epic_kitchens,
    "youcook2": read_youcook2,
}
PUBLIC_SETS: dict[str, dict[str, Any]] = yaml.safe_load(
    resources.files("mmts.apps").joinpath("public_sets.yaml").read_text(encoding="utf-8")
)
"""For each public data set its title, sources with their parts, published counts by split, and a remark."""


def prepare(name: str, root: str | Path) -> Path:
    """Check a public data set's folder, write ROOT/manifest.jsonl, print the counts, and return the manifest.

    Raises DataError for an unknown name, missing parts, or data that cannot be read.
    """
    if name not in READERS:
        raise DataError(f"there is no public data set {name!r} to prepare; {nearest(name, READERS)}")
    about = PUBLIC_SETS[name]
    root = Path(os.path.abspath(os.path.expanduser(root)))
    if root.is_file():
        raise DataError(f"{root} is a file; --root is the data set's folder")
    _say(f"{about['title']} in {root}")
    if missing := _report(about["sources"], root):
        where = f"{root} lacks" if root.is_dir() else f"{root} {why_missing(root)}. Get"
        raise DataError(f"{where} {'; '.join(missing)}. The lines above say where to get them")
    try:
        dataset = READERS[name](root)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {str(root)!r}: {getattr(error, 'strerror', None) or error}") from None
    with locked(root / ".mmts.lock"):
        counts = write_manifest(dataset, root)
    for note in dataset.notes:
        _say(f"note: {note}")
    _print_counts(about, dataset, counts)
    console.print(f"manifest: {root / MANIFEST}")
    return root / MANIFEST


def write_manifest(dataset: Dataset, root: Path) -> defaultdict[str, Counter[str]]:
    """Write ROOT/manifest.jsonl, and ROOT/missing.txt with the files that are named but do not exist.

    Returns the number of media, captions, and media without a file ("absent"), by split. Media are read one at a time.
    """
    exists = lru_cache(maxsize=1024)(os.path.exists)  # the clips of one video follow each other
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    with (
        atomic_write(root / MANIFEST, "w") as manifest,
        atomic_write(root / MISSING, "w") as missing,
        progress_bar("writing manifest", len(dataset.media), "media") as bar,
    ):
        for medium in dataset.media:
            row = manifest_row(medium, root)
            manifest.write(json.dumps(row, ensure_ascii=False) + "\n")
            is_absent = not exists(medium.path)
            counts[medium.split or ""].update(media=1, captions=len(medium.captions), absent=is_absent)
            if is_absent:
                missing.write(f"{row[medium.kind]}\n")
            bar.advance()
        for split, identities in dataset.missing.items():
            counts[split]["absent"] += len(identities)
            missing.writelines(f"{identity}\n" for identity in identities)
    if not any(count["absent"] for count in counts.values()):
        (root / MISSING).unlink()
    return counts


def manifest_row(medium: Medium, root: Path) -> dict[str, Any]:
    """Return a medium as a line of captions.jsonl, without the keys that have no value."""
    row = {
        "id": medium.id,
        medium.kind: medium.path.relative_to(root).as_posix(),
        "captions": medium.captions,
        "labels": dict(medium.labels) or None,
    } | {key: getattr(medium, key) for key in ("split", "start", "end", "frames", "member")}
    return {key: value for key, value in row.items() if value is not None}


def _report(sources: Iterable[dict[str, Any]], root: Path) -> list[str]:
    """Say which parts exist, where to get the others, and where to put them; return the missing required parts."""
    missing = []
    for source in sources:
        is_complete = True
        for part in source["parts"]:
            patterns = [pattern for braces in part["patterns"] for pattern in braceexpand(braces)]
            if match := next((pattern for pattern in patterns if _exists(root, pattern)), None):
                _say(f"  found    {part['what']}: {match}", 11)
                continue
            is_complete, is_required = False, part.get("required", True)
            state = "missing" if is_required else "optional"
            _say(f"  {state:<8} {part['what']}: {part.get('place', patterns[0])} ({part['size']})", 11)
            missing += [part["what"]] if is_required else []
        if not is_complete:
            _say(f"    {source['address']}", 4)
            _say(f"    license: {source['license']}", 4)
    return missing


def _exists(root: Path, pattern: str) -> bool:
    """Return whether a file, or a folder that is not empty, matches the pattern."""
    return any(not path.is_dir() or any(path.iterdir()) for path in root.glob(pattern))


def _print_counts(about: dict[str, Any], dataset: Dataset, counts: defaultdict[str, Counter[str]]) -> None:
    _say(f"{'split':<6}{'media':>10}{'published':>11}{'captions':>10}{'published':>11}{'no file':>9}")
    for split in dict.fromkeys((*dataset.split_names, *about["published"])):
        count = counts[split]
        captions = len(dataset.graded[split].captions) if split in dataset.graded else count["captions"]
        media, texts = (f"{number:,}" if number else "" for number in about["published"].get(split, (0, 0)))
        _say(f"{split:<6}{count['media']:>10,}{media:>11}{captions:>10,}{texts:>11}{count['absent']:>9,}")
    for split, coverage in dataset.coverage.items():
        _say(f"{split} {coverage_in_words({'coverage': vars(coverage)})}")
    _say(about["remark"])
    if absent := sum(count["absent"] for count in counts.values()):
        total = sum(count["media"] for count in counts.values()) + sum(map(len, dataset.missing.values()))
        share = f"{counted(total, 'medium', 'media')} ({percent(absent / total)})"
        _say(f"no file for {absent:,} of {share}: see {MISSING}")


def _say(text: str, indent: int = 2) -> None:
    """Print a line, wrapped at 80 columns; addresses and paths stay whole."""
    lines = textwrap.wrap(text, _WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    console.print("\n".join(lines))
