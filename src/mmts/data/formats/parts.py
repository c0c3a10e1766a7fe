"""Data in files of one suffix (shards, parquet tables): a folder of them, one, a glob, or braces; and their splits."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from glob import glob
from itertools import islice
from pathlib import Path

from braceexpand import braceexpand

from mmts.data.formats.collect import notes_on_names, split_folders
from mmts.data.records import SPLITS, split_name
from mmts.errors import DataError, listed

_MAX_FILES = 100_000
_RANGE = re.compile(r"{(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?}")
_WORD = re.compile(r"[A-Za-z]+")
FilePart = tuple[Path, str | None]  # a file, and the split that its folder or name says


def files_in(folder: Path, suffix: str) -> list[Path]:
    """Return the files with a suffix in a folder and in its folders that are named like a split."""
    return [file for part in [folder, *split_folders(folder)] for file in _files(part, suffix)]


def find_files(pattern: Path, suffix: str) -> tuple[list[FilePart], list[str]]:
    """Return the files that a folder, a file, a glob or braces stand for, with their splits, and notes.

    Either all files have a split or none has. Raises DataError for none, for a file that is missing or named twice, or
    if the splits are unclear.
    """
    files = _find(pattern, suffix)
    in_names = _splits_in_names([path.stem for path, _ in files])
    result = [(path, split or name) for (path, split), name in zip(files, in_names, strict=True)]
    bare = [path.name for path, split in result if split is None]
    if 0 < len(bare) < len(result):
        name, split = next((path.name, split) for path, split in result if split is not None)
        raise DataError(
            f"{pattern}: {name} is named as part of {split}, and {bare[0]} has no split in its name; name the split of "
            f"all {suffix} files or of none"
        )
    names = {name: dict.fromkeys(path.parent.name for path, split in files if split == name) for name in SPLITS}
    notes = notes_on_names(names)
    if any(names.values()) and pattern.is_dir():
        others = {*filter(Path.is_dir, pattern.iterdir())} - {path.parent for path, _ in files}
        if left := sorted(item.name for item in others if _files(item, suffix)):
            notes.append(f"left out the {suffix} files in {listed(left)}, as the folders are not named like a split")
    return result, notes


def expanded(pattern: str) -> list[str]:
    """Return the names that a pattern with braces stands for. Raises DataError for more than 100,000, or none.

    >>> expanded("{train,val}-{08..10}.tar")
    ['train-08.tar', 'train-09.tar', 'train-10.tar', 'val-08.tar', 'val-09.tar', 'val-10.tar']
    """
    ranges = ((int(first), int(last), int(step or 1)) for first, last, step in _RANGE.findall(pattern))
    # braceexpand makes a list of each range, so their lengths are checked first.
    is_short = all(abs(last - first) < _MAX_FILES * max(step, 1) for first, last, step in ranges)
    try:
        names = list(islice(braceexpand(pattern), _MAX_FILES + 1)) if is_short else []
    except (ValueError, RecursionError):
        raise DataError(f'{pattern}: a brace is not closed; write files like "shards/{{00000..00331}}.tar"') from None
    if not 0 < len(names) <= _MAX_FILES:
        raise DataError(f"{pattern} names more than {_MAX_FILES:,} files")
    return names


def _find(pattern: Path, suffix: str) -> list[FilePart]:
    """Return the files with the split of their folder."""
    if pattern.is_file():
        return [(pattern, None)]
    if pattern.is_dir():
        here: list[FilePart] = [(file, None) for file in _files(pattern, suffix)]
        folders = split_folders(pattern)
        inside: list[FilePart] = [(file, split_name(part.name)) for part in folders for file in _files(part, suffix)]
        if here and inside:
            name = inside[0][0].parent.name
            raise DataError(f"{pattern} holds {suffix} files itself and in the folder {name}; keep them in one place")
        if not here and not inside:
            raise DataError(f"{pattern}: no {suffix} files in it, nor in folders named train, val and test")
        return here or inside
    names = expanded(str(pattern))
    matches = [sorted(filter(os.path.isfile, glob(name))) for name in names]
    if missing := [name for name, match in zip(names, matches, strict=True) if not match]:
        some = f"{len(missing):,} of the {len(names):,} files are missing, first {missing[0]}"
        raise DataError(f"{pattern}: {some if len(names) > 1 else 'there is no such file'}")
    paths = [Path(path) for match in matches for path in match]
    if len({*paths}) < len(paths):
        raise DataError(f"{pattern} names the file {Counter(paths).most_common(1)[0][0]} more than once")
    # The names of several folders distinguish the splits; the name of a single folder does not.
    folders = list(dict.fromkeys(path.parent for path in paths))
    splits = dict(zip(folders, _splits_in_names([folder.name for folder in folders]), strict=True))
    return [(path, splits[path.parent] if len(folders) > 1 else None) for path in paths]


def _files(folder: Path, suffix: str) -> list[Path]:
    return sorted(file for file in folder.glob(f"*{suffix}") if file.is_file() and not file.name.startswith("."))


def _splits_in_names(names: Sequence[str]) -> list[str | None]:
    """Return the split that a word in each name says.

    >>> _splits_in_names(["my-test-set-train-0", "my-test-set-validation-0"]), _splits_in_names(["latest-3"])
    (['train', 'val'], [None])
    """
    splits = [{split for word in _WORD.findall(name) if (split := split_name(word)) in SPLITS} for name in names]
    common = set.intersection(*splits)
    distinct = [split if len(split) == 1 else split - common for split in splits]
    return [split.pop() if len(split) == 1 else None for split in distinct]
