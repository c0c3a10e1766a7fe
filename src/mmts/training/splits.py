"""Which samples a run trains on, validates on and is judged on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmts.console import console
from mmts.data.media.contents import shared_in_words
from mmts.data.media.read_warnings import tell_warnings
from mmts.data.media.readable import drop_unreadable, unreadable_media
from mmts.data.read import read_dataset
from mmts.data.records import SPLITS, Dataset, Split
from mmts.distributed.processes import once, process_index
from mmts.errors import DataError, RecipeError, counted, percent
from mmts.files import atomic_write, why_missing
from mmts.recipe.recipe import DATASETS, Data, Recipe
from mmts.recipe.run_directory import RunDirectory


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
    """Return the split a run is judged on: test, else val, else train. Raises DataError where none of them is there."""
    known = next((name for name in ("test", "val", "train") if name in dataset.split_names), None)
    if known is None:
        raise dataset.no_split("test")
    return known


def open_data(settings: Data, path: Path | None = None) -> Dataset:
    """Read the data of a recipe, or those at another path with the same settings, and print the reader's notes.

    Splits get the names that `data.splits` gives them; other data need not have all of them.
    """
    given = resolved(path or settings.path)
    dataset = read_dataset(given, settings.columns.model_dump(exclude_none=True))
    wanted: dict[str, str] = settings.splits.model_dump(exclude_none=True)
    if settings.path is not None and given != resolved(settings.path):
        wanted = {name: own for name, own in wanted.items() if dataset.find_split(own) is not None}
    if wanted:
        dataset = dataset.with_splits(wanted)
    for note in dataset.notes:
        console.print(f"note: {note}")
    tell_warnings()
    return dataset


def resolved(path: Path | None) -> Path:
    """Return the absolute path without links. Raises DataError for None or a dangling link."""
    if path is None:
        raise DataError("no data: give --data PATH, or data.path in the recipe")
    path = Path(os.path.expanduser(path))
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path} {why_missing(path)}")
    return Path(os.path.realpath(path))


def take_splits(dataset: Dataset, recipe: Recipe, judged_on: str | None = None) -> Splits:
    """Take train, val and test, say what is missing, and refuse what the recipe asks for and the data do not have.

    With `judged_on` that split is judged at the end, and test is left alone. Nothing is decoded yet. Raises DataError
    without training data, with fewer than two training media, without any medium of a split that papers judge on, or
    where there is no graded relevance and the recipe asks for it.
    """
    made_for = recipe.data.dataset
    if made_for is not None and dataset.name in DATASETS and dataset.name != made_for:
        console.print(f"note: the recipe was made for {made_for}, and this is {dataset.name}")
    for name, coverage in dataset.coverage.items():
        if not coverage.judged:
            raise DataError(
                f"{dataset.root}: none of the {coverage.annotated:,} annotated media of {name} has a file, so nothing "
                "can be judged"
            )
    if "train" not in dataset.split_names:
        raise dataset.no_split("train")
    at_the_end = judged_on or judged_split(dataset)
    told = {*SPLITS, *dataset.renamed.values()}
    unused = [f"{name} ({size:,} media)" for name, size in dataset.split_sizes.items() if name not in told]
    if unused:
        console.print(f"note: not used: {', '.join(unused)}; data.splits says which splits are train, val and test")
    names = dict.fromkeys(("train", *(["val"] if "val" in dataset.split_names else []), at_the_end))
    splits: dict[str, Split] = {name: limited(dataset.split(name), recipe.data.max_media) for name in names}
    train = splits["train"]
    if train.num_media < 2:
        raise DataError(f"{dataset.root}: training needs at least 2 media to tell apart; train has {train.num_media}")
    if recipe.data.captions != "own" and train.graded is None:
        raise RecipeError(
            f"data.captions {recipe.data.captions} draws by graded relevance, which this data does not have; take own"
        )
    val, judged = splits.get("val"), splits[at_the_end]
    if val is None:
        console.print("note: there is no val split, so the last checkpoint counts as the best")
    if judged.name != "test" and judged_on is None:
        length = recipe.train.epochs
        looks = judged is val and (length is None or recipe.train.evaluate_every < length)
        chosen = ", where the best checkpoint is chosen too" if looks else ""
        console.print(f"note: there is no test split, so the run is judged on {judged.name}{chosen}")
    taken = Splits(dataset.root, train, val, judged)
    for split in taken.to_judge():
        split.judged(recipe.data.relevance)
    return taken


def limited(split: Split, max_media: int | None) -> Split:
    """Keep at most that many media, evenly spread over the split."""
    if max_media is None or split.num_media <= max_media:
        return split
    kept = {at * split.num_media // max_media for at in range(max_media)}
    return split.without(at for at in range(split.num_media) if at not in kept)


def readable_splits(taken: Splits, dataset: Dataset, settings: Data, run: RunDirectory) -> Splits:
    """Leave out undecodable media, and list them in unreadable.txt. Raises DataError if there are too many."""
    named: list[str] = []
    try:
        check_read_beforehand(dataset, settings, named)
        splits = {split.name: readable(split, settings, named) for split in (taken.train, *taken.to_judge())}
    finally:
        tell_warnings()
        if named and process_index() == 0:
            with atomic_write(run.unreadable_file, "w") as file:
                file.write("\n".join(named) + "\n")
            them = counted(len(named), "unreadable medium is", "unreadable media are")
            console.print(f"note: {them} named in {run.unreadable_file}")
    sizes = ", ".join(
        f"{name} {counted(split.num_media, 'medium', 'media')} {counted(split.num_captions, 'caption')}"
        for name, split in splits.items()
    )
    console.print(f"data: {dataset.root} ({sizes})")
    say_shared([splits["train"], *(split for name, split in splits.items() if name != "train")])
    return Splits(dataset.root, splits["train"], splits.get("val"), splits[taken.judged.name])


def say_shared(splits: Sequence[Split]) -> None:
    """Print what the other splits share with the first, train: the same pictures, or clips of the same video."""
    for other in splits[1:]:
        for note in once(partial(shared_in_words, splits[0], other)):
            console.print(f"note: {note}")


def check_read_beforehand(dataset: Dataset, settings: Data, named: list[str]) -> None:
    """List the media that the reader found unreadable. Raises DataError if they are more than `max_unreadable`."""
    count, file = dataset.unreadable or (0, None)
    if not count or file is None:
        return
    named.extend(file.read_text(encoding="utf-8").splitlines())
    if count > settings.max_unreadable * (count + len(dataset.media)):
        raise DataError(
            f"{dataset.root}: {count:,} of {counted(count + len(dataset.media), 'image')} cannot be "
            f"decoded, more than the {percent(settings.max_unreadable)} allowed; they are named in {file}. Mend "
            "them, or raise data.max_unreadable"
        )


def readable(split: Split, settings: Data, named: list[str]) -> Split:
    """Leave out the media that cannot be decoded, adding a line for each to `named` (also where they are too many)."""
    if split.media_checked:
        return split
    reasons = once(lambda: unreadable_media(split.media))  # what one process leaves out, all must
    named.extend(f"{split.media[at].place}\t{reason}" for at, reason in reasons.items())
    return drop_unreadable(split, reasons, settings.max_unreadable)
