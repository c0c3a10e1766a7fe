"""The .npz file of embeddings that `mmts evaluate --save-embeddings` writes, and that anyone's model may write."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mmts.console import console
from mmts.data.records import Split
from mmts.errors import DataError, counted, first_line, listed, quoted
from mmts.files import atomic_write, why_missing
from mmts.recipe.sections import Data
from mmts.training.inputs import Inputs

_REQUIRED = ("media", "text")
_OPTIONAL = ("owner", "media_id", "text_id", "caption")
_OTHER_DATA = "These are embeddings of other data, of another split or of a part of it, or rows in another order"
_Array = npt.NDArray[Any]


def save_embeddings(path: Path, media: Tensor, text: Tensor, split: Split, about: Mapping[str, str]) -> None:
    """Write media (M, D) and text (N, D), rows in file order, as .npz without pickles.

    Also owner (N,), media_id (M,), caption (N,) and text_id (N,), which is ID#K for caption K (from 0) of a medium, the
    split's name and every entry of `about`.
    """
    strings: dict[str, Any] = {f"{side}_id": np.array(ids) for side, ids in _ids(split).items()}
    about = {"split": split.name, **about}
    strings |= {"caption": np.array(split.captions), **{name: np.array(value) for name, value in about.items()}}
    with atomic_write(path) as file:
        np.savez(file, media=media.numpy(), text=text.numpy(), owner=split.owner.numpy(), **strings)


def read_embeddings(file: Path, split: Split, settings: Data) -> Inputs:
    """Return the rows of a split's media (M, D) and captions (N, D), float32 of any norm, in the order of the data.

    The arrays are those of `save_embeddings`; only media and text are needed. Rows are found by media_id and text_id if
    the file has them; owner and caption are compared with the data. A medium whose id is not in the file is left out.

    Raises DataError naming the array and the row that is not of these data or has no direction, and if more media are
    left out than `data.max_unreadable` allows.
    """
    arrays = _arrays(file, (*_REQUIRED, *_OPTIONAL))
    for name in _REQUIRED:
        if name not in arrays:
            raise DataError(f"{file} has no array {name!r}: it needs media (M, D) and text (N, D) (docs/pretrained.md)")
    if "media_id" in arrays:
        missing = _missing(file, arrays["media_id"], split, settings.max_unreadable)
        for at in missing:
            console.print(f"note: left out {split.media[at].place}\t{file} has no row for it")
        split = split.without(missing)
    split = split.judged(settings.relevance)
    at_media, at_text = (_order(file, arrays, name, ids, split) for name, ids in _ids(split).items())
    if (owner := arrays.get("owner")) is not None:
        _check_same(file, "owner", owner[at_text].tolist(), at_media[split.owner.numpy()].tolist(), at_text)
    if (caption := arrays.get("caption")) is not None:
        _check_same(file, "caption", caption[at_text].tolist(), split.captions, at_text)
    media, text = (_numbers(file, name, arrays[name]) for name in _REQUIRED)
    if media.shape[1] != text.shape[1]:
        raise DataError(f"{file}: media are {media.shape[1]} numbers wide and text {text.shape[1]}; both must agree")
    return Inputs(split, media[at_media], text[at_text])


def split_of_embeddings(file: Path) -> str | None:
    """Return the name of the split that a file of embeddings says it is of, or None."""
    value = _arrays(file, ("split",)).get("split")
    return str(value) if value is not None and value.dtype.kind == "U" and not value.ndim else None


def _ids(split: Split) -> dict[str, list[str]]:
    ids, first = [medium.id for medium in split.media], split.first.tolist()
    return {"media": ids, "text": [f"{ids[at]}#{row - first[at]}" for row, at in enumerate(split.owner.tolist())]}


def _arrays(file: Path, names: Sequence[str]) -> dict[str, _Array]:
    """Read those of the named arrays that a file has. Raises DataError naming the array that cannot be read."""
    if not file.is_file():
        raise DataError(f"{file} {'is a folder' if file.is_dir() else why_missing(file)}; it must be an .npz file")
    place, arrays = str(file), {}
    try:
        with np.load(file, allow_pickle=False) as stored:
            for name in names:
                if name in stored:
                    place = f"{file}: the array {name!r}"
                    arrays[name] = stored[name]
                    if arrays[name].dtype.kind == "S":
                        arrays[name] = np.char.decode(arrays[name], "utf-8")
    except Exception as error:  # numpy and zipfile raise nearly anything on a damaged file
        why = "holds Python objects, which are not read" if "pickle" in str(error) else f"({first_line(error)})"
        raise DataError(f"{place} cannot be read as numbers or strings of an .npz file {why}") from None
    return arrays


def _missing(file: Path, ids: _Array, split: Split, max_share: float) -> list[int]:
    """Return the media of a split whose ids are not in the file; raises DataError if there are too many."""
    known = {*ids.astype(str).ravel().tolist()}
    missing = [at for at, medium in enumerate(split.media) if medium.id not in known]
    if len(missing) > max_share * split.num_media:
        media = counted(split.num_media, "medium", "media")
        raise DataError(
            f"{file}: media_id lacks {len(missing):,} of the {media} of split {split.name!r}, such as "
            f"{quoted(split.media[missing[0]].id)}; it has {listed(sorted(known)[:3])} and others. {_OTHER_DATA}"
        )
    return missing


def _order(file: Path, arrays: Mapping[str, _Array], name: str, ids: Sequence[str], split: Split) -> _Array:
    """Return the row of the array for each id (Q,) of the data, checking the arrays of this side against the data."""
    shape, count = arrays[name].shape, len(ids)
    if len(shape) != 2 or shape[0] != count:
        what = counted(count, "medium", "media") if name == "media" else counted(count, "caption")
        raise DataError(
            f"{file}: the array {name!r} has the shape {shape}, and split {split.name!r} has {what}: it must be "
            f"({count}, D). Name the split that it was made of by --split"
        )
    for other in ("media_id",) if name == "media" else ("text_id", "owner", "caption"):
        if other in arrays and arrays[other].shape != (count,):
            raise DataError(f"{file}: the array {other!r} has the shape {arrays[other].shape}; it must be ({count},)")
    if (id_array := f"{name}_id") not in arrays:
        return np.arange(count)
    wanted, place = {*ids}, dict[str, int]()
    for row, identity in enumerate(arrays[id_array].astype(str).tolist()):
        if identity not in wanted:
            lacks = f"row {row} is {quoted(identity)}, which split {split.name!r} does not have"
            raise DataError(f"{file}: {id_array}: {lacks}. {_OTHER_DATA}")
        if (first := place.setdefault(identity, row)) != row:
            raise DataError(f"{file}: {id_array}: {quoted(identity)} is in row {first} and in row {row}")
    return np.array([place[identity] for identity in ids])


def _check_same(file: Path, name: str, given: Sequence[Any], expected: Sequence[Any], at: _Array) -> None:
    """Raise DataError naming the first row of an array that differs from the data."""
    for row, value, right in zip(at.tolist(), given, expected, strict=True):
        if value != right:
            differs = f"row {row} is {quoted(value)}, and by the data it is {quoted(right)}"
            raise DataError(f"{file}: {name}: {differs}. {_OTHER_DATA}")


def _numbers(file: Path, name: str, values: _Array) -> npt.NDArray[np.float32]:
    """Return rows as float32. Raises DataError naming the row that has no direction."""
    if values.dtype.kind != "f":
        raise DataError(f"{file}: the array {name!r} holds {values.dtype}; it must be float16, float32 or float64")
    with np.errstate(over="ignore"):
        rows = values.astype(np.float32)
    for bad, why in ((~np.isfinite(rows).all(axis=1), "NaN or infinite"), (~rows.any(axis=1), "all zeros")):
        if bad.any():
            raise DataError(f"{file}: the array {name!r}: row {int(bad.argmax())} is {why}, so it has no direction")
    return rows
