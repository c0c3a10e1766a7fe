"""Which samples a run trains on, validates on and is evaluated on."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmts.console import console
from mmts.data.keys import read_keys
from mmts.data.media.checks import drop_unreadable, shared_in_words, unreadable_media
from mmts.data.media.reading import tell_warnings
from mmts.data.read import read_dataset
from mmts.data.records import SPLITS, Dataset, Medium, Split
from mmts.distributed.processes import from_main, led, main_first, once, process_index
from mmts.errors import DataError, RecipeError, counted, percent
from mmts.files import as_address, atomic_write, why_missing
from mmts.models.base import MediaTower, is_frozen
from mmts.models.features import why_unreadable_by_features
from mmts.recipe.recipe import Recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.recipe.sections import DATASETS, Data


@dataclass(frozen=True)
class Splits:
    """The splits of a run; `final` is the one that it is evaluated on at the end."""

    train: Split
    val: Split | None
    final: Split

    def evaluated(self) -> list[Split]:
        """Return the splits that are evaluated, during training or after it, each once."""
        return list({split.name: split for split in (self.val, self.final) if split is not None}.values())


def default_split(dataset: Dataset) -> str:
    """Return the split that a run is evaluated on: test, else val, else train. Raises DataError if there is none."""
    for name in ("test", "val", "train"):
        if name in dataset.split_names:
            return name
    raise dataset.no_split("test")


def open_data(settings: Data, data: Path | Dataset | None = None) -> Dataset:
    """Read the data of a recipe, or other data with the same settings, and print the reader's notes.

    Splits get the names that `data.splits` gives them; other data need not have all of them.
    """
    path = resolved(data.path if isinstance(data, Dataset) else data or settings.path)
    columns = settings.columns.model_dump(exclude_none=True)
    dataset = data if isinstance(data, Dataset) else read_dataset(path, columns)
    names: dict[str, str] = settings.splits.model_dump(exclude_none=True)
    if settings.path is not None and path != resolved(settings.path):
        names = {name: own for name, own in names.items() if dataset.find_split(own) is not None}
    if names:
        dataset = dataset.with_splits(names)
    for note in dataset.notes:
        console.print(f"note: {note}")
    tell_warnings()
    return dataset


def resolved(path: Path | None) -> Path:
    """Return the absolute path without links; an address as it is. Raises DataError for None or a dangling link."""
    if path is None:
        raise DataError("no data: give --data PATH, or data.path in the recipe")
    if as_address(path):
        return path
    path = path.expanduser()
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path} {why_missing(path)}")
    return Path(os.path.realpath(path))


def take_splits(dataset: Dataset, recipe: Recipe, evaluate_on: str | None = None) -> Splits:
    """Take train, val and test, print what is missing, and refuse what the recipe asks for and the data do not have.

    evaluate_on: the split to evaluate at the end; test is then not touched. Nothing is decoded yet.
    """
    made_for = recipe.data.dataset
    if made_for is not None and dataset.name in DATASETS and dataset.name != made_for:
        console.print(f"note: the recipe was made for {made_for}, and this is {dataset.name}")
    for name, coverage in dataset.coverage.items():
        if not coverage.judged:
            media = f"none of the {coverage.annotated:,} annotated media of {name} has a file"
            raise DataError(f"{dataset.root}: {media}, so there is nothing to evaluate")
    if "train" not in dataset.split_names:
        raise dataset.no_split("train")
    at_the_end = evaluate_on or default_split(dataset)
    known = {*SPLITS, *dataset.renamed.values()}
    if unused := [f"{name} ({size:,} media)" for name, size in dataset.split_sizes.items() if name not in known]:
        console.print(f"note: not used: {', '.join(unused)}; data.splits says which splits are train, val and test")
    own_val = ["val"] if recipe.data.val is None and "val" in dataset.split_names else []
    names = dict.fromkeys(("train", *own_val, at_the_end))
    splits = {name: dataset.split(name) for name in names}
    if recipe.data.keep is not None:
        splits["train"] = _kept(splits["train"], recipe.data.keep)
    splits = {name: limited(split, recipe.data.max_media) for name, split in splits.items()}
    train = splits["train"]
    if train.num_media < 2:
        raise DataError(f"{dataset.root}: training needs at least 2 media to tell apart; train has {train.num_media}")
    if recipe.data.captions != "own" and train.graded is None:
        why = "draws by graded relevance, which these data do not have; use own"
        raise RecipeError(f"data.captions {recipe.data.captions} {why}")
    val = splits["val"] if own_val else _other_val(recipe.data) if recipe.data.val is not None else None
    result = Splits(train, val, splits[at_the_end])
    if result.val is None:
        console.print("note: there is no val split, so the last checkpoint counts as the best")
    if at_the_end != "test" and evaluate_on is None:
        epochs = recipe.train.epochs
        chosen_on_it = result.val is result.final and (epochs is None or recipe.train.evaluate_every < epochs)
        also = ", which also chooses the best checkpoint" if chosen_on_it else ""
        console.print(f"note: there is no test split, so the run is evaluated on {at_the_end}{also}")
    for split in result.evaluated():
        split.judged(recipe.data.relevance)
    return result


def _kept(train: Split, file: Path) -> Split:
    """Return the training media whose ids are in a file. Raises DataError if there are none."""
    ids = {*once(lambda: read_keys(file))}
    places = [at for at, medium in enumerate(train.media) if medium.id not in ids]
    if len(places) == train.num_media:
        raise DataError(f"data.keep: no id in {file} is that of a training medium, such as {train.media[0].id!r}")
    console.print(f"data.keep: {train.num_media - len(places):,} of {train.num_media:,} training media")
    return train.without(places)


def _other_val(settings: Data) -> Split:
    """Return the val split of `data.val`, under a name that no split of the run's own data has."""
    other = main_first(lambda: open_data(Data(path=settings.val)))
    val = limited(other.split("val"), settings.max_media)
    val.name = f"val of {other.root}"
    return val


def limited(split: Split, max_media: int | None) -> Split:
    """Keep at most that many media, evenly spread over the split."""
    if max_media is None or split.num_media <= max_media:
        return split
    kept = {i * split.num_media // max_media for i in range(max_media)}
    return split.without(i for i in range(split.num_media) if i not in kept)


def readable_splits(
    chosen: Splits, dataset: Dataset, settings: Data, run: RunDirectory, tower: MediaTower | None
) -> Splits:
    """Leave out undecodable media, and list them in unreadable.txt. Raises DataError if there are too many.

    The features of a frozen media `tower` are computed and cached at the same time.
    """
    count, known = dataset.unreadable or (0, None)  # what the reader could not read, and the file that lists it
    lines = known.read_text(encoding="utf-8").splitlines() if known is not None and count else []
    try:
        if count > settings.max_unreadable * (count + len(dataset.media)):
            images = f"{count:,} of {counted(count + len(dataset.media), 'image')}"
            why = f"cannot be decoded, more than the {percent(settings.max_unreadable)} allowed (listed in {known})"
            raise DataError(f"{dataset.root}: {images} {why}. Repair them, or raise data.max_unreadable")
        splits = {split.name: readable(split, settings, lines, tower) for split in (chosen.train, *chosen.evaluated())}
    finally:
        tell_warnings()
        if lines and process_index() == 0:
            with atomic_write(run.unreadable_file, "w") as file:
                file.write("\n".join(lines) + "\n")
            media = counted(len(lines), "unreadable medium is", "unreadable media are")
            console.print(f"note: {media} listed in {run.unreadable_file}")
    sizes = ", ".join(
        f"{name} {counted(split.num_media, 'medium', 'media')} {counted(split.num_captions, 'caption')}"
        for name, split in splits.items()
    )
    console.print(f"data: {dataset.root} ({sizes})")
    say_shared([splits["train"], *(split for name, split in splits.items() if name != "train")])
    val = None if chosen.val is None else splits[chosen.val.name]
    return Splits(splits["train"], val, splits[chosen.final.name])


def say_shared(splits: Sequence[Split]) -> None:
    """Print what the other splits share with the first, train: the same pictures, or clips of the same video."""
    for other in splits[1:]:
        for note in once(partial(shared_in_words, splits[0], other)):
            console.print(f"note: {note}")


def noting_unreadable(chosen: Split, settings: Data, tower: MediaTower | None) -> Split:
    """Return a split as it is judged, without the media that cannot be decoded, each of which is printed."""
    lines: list[str] = []
    split = readable(chosen, settings, lines, tower)
    tell_warnings()
    for line in lines:
        console.print(f"note: left out {line}")
    return split.judged(settings.relevance)


def readable(split: Split, settings: Data, lines: list[str], tower: MediaTower | None = None) -> Split:
    """Leave out the media that cannot be decoded, and add a line for each to `lines`, even if there are too many.

    If the media `tower` is frozen, the features of the media are computed and cached at the same time.
    """
    if split.media_checked:
        return split
    if tower is not None and is_frozen(tower):
        reasons = _unreadable_by_features(split.media, tower)
    else:
        reasons = once(lambda: unreadable_media(split.media))  # all processes must leave out the same
    lines.extend(f"{split.media[i].place}\t{reason}" for i, reason in reasons.items())
    return drop_unreadable(split, reasons, settings.max_unreadable)


def _unreadable_by_features(media: Sequence[Medium], tower: MediaTower) -> dict[int, str]:
    """Return `unreadable_media` whose features are computed by all processes."""
    places = {id(medium): at for at, medium in enumerate(media)}

    def reasons(chosen: list[int]) -> Sequence[str | None]:
        return why_unreadable_by_features(tower, [media[at] for at in chosen])

    def check(together: Callable[[list[int]], Sequence[str | None]]) -> dict[int, str]:
        return unreadable_media(media, lambda part: together([places[id(medium)] for medium in part]))

    return from_main(led(check, reasons))
