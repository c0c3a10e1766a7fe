"""Which samples a run trains on, validates on and is judged on."""

from dataclasses import dataclass
from pathlib import Path

from mmts.console import console
from mmts.data.read import read_dataset
from mmts.data.readable import drop_unreadable, unreadable_media
from mmts.data.records import Dataset, Split
from mmts.errors import DataError
from mmts.training.recipe import Data
from mmts.training.run_directory import RunDirectory


@dataclass(frozen=True)
class Splits:
    """The splits of a run; `judged` is the one the run is judged on at the end."""

    root: Path
    train: Split
    val: Split | None
    judged: Split

    def to_judge(self) -> list[Split]:
        """Return the splits that are judged, during training or after it, each once."""
        return list({split.name: split for split in (self.val, self.judged) if split is not None}.values())


def judged_split(dataset: Dataset) -> str:
    """Return the split a run is judged on: test, else val, else train."""
    return next(name for name in ("test", "val", "train") if name in dataset.split_names)


def open_data(path: Path | None) -> Dataset:
    """Read a data set and say aloud what was noted on the way."""
    dataset = read_dataset(resolved(path))
    for note in dataset.notes:
        console.print(f"note: {note}", markup=False)
    return dataset


def resolved(path: Path | None) -> Path:
    """Return the one name of a path, whatever folder it is given from; raises DataError where none is given."""
    if path is None:
        raise DataError("no data: give --data PATH, or data.path in the recipe")
    return path.expanduser().resolve()


def load_splits(dataset: Dataset, settings: Data, run: RunDirectory) -> Splits:
    """Take train, val and test, leave out what cannot be decoded (named in unreadable.txt), and say what is missing.

    Raises DataError without training data, with fewer than two training media, or with too many unreadable ones.
    """
    splits: dict[str, Split] = {}
    unreadable: list[str] = []
    try:
        for name in ("train", "val", "test"):
            if name in dataset.split_names or name == "train":
                splits[name] = readable(_limited(dataset.split(name), settings.max_media), settings, unreadable)
    finally:
        if unreadable:
            run.unreadable_file.write_text("\n".join(unreadable) + "\n", encoding="utf-8")
            console.print(f"note: {len(unreadable)} unreadable media are named in {run.unreadable_file}")
    train = splits["train"]
    if train.num_media < 2:
        raise DataError(f"{dataset.root}: training needs at least 2 media to tell apart; train has {train.num_media}")
    val, judged = splits.get("val"), splits[judged_split(dataset)]
    if val is None:
        console.print("note: there is no val split, so the last checkpoint counts as the best")
    if judged.name != "test":
        chosen = ", where the best checkpoint is chosen too" if judged is val else ""
        console.print(f"note: there is no test split, so the run is judged on {judged.name}{chosen}")
    sizes = ", ".join(
        f"{name} {split.num_media:,} media {split.num_captions:,} captions" for name, split in splits.items()
    )
    console.print(f"data: {dataset.root} ({sizes})", markup=False)
    return Splits(dataset.root, train, val, judged)


def _limited(split: Split, max_media: int | None) -> Split:
    """Keep at most that many media, evenly spread over the split."""
    if max_media is None or split.num_media <= max_media:
        return split
    kept = {at * split.num_media // max_media for at in range(max_media)}
    return split.without(at for at in range(split.num_media) if at not in kept)


def readable(split: Split, settings: Data, named: list[str]) -> Split:
    """Leave out the media that cannot be decoded, adding a line for each to `named` (also where they are too many)."""
    if split.media_checked:
        return split
    reasons = unreadable_media(split.media)
    named.extend(f"{split.media[at].path}\t{reason}" for at, reason in reasons.items())
    return drop_unreadable(split, reasons, settings.max_unreadable)
