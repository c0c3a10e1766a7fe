"""Labels of media in parquet tables, joined by the ids of the media; the tables may hold those of other media, too."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmts.data.formats.parquet import open_parquet
from mmts.data.pair_table import text_hash
from mmts.data.records import Split
from mmts.errors import DataError, nearest, quoted
from mmts.files import why_missing

Numbers = npt.NDArray[np.int64]
_ROWS = 65_536  # read at a time


def read_labels(path: Path, column: str, key: str, split: Split) -> list[str | None]:
    """Return the value in `column` of each medium (M,) of a split as a string; None if its id has no row or no value.

    path: a parquet file, or a folder of them. key: the column of ids. Equal values share one string. Raises DataError
    naming a file that is missing or damaged, a column that it lacks, and an id that is there twice.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not path.exists() or not files:
        raise DataError(f"{path} {'has no *.parquet' if path.is_dir() else why_missing(path)}; it must hold labels")
    hashes = np.fromiter(map(text_hash, split.ids()), np.int64, split.num_media)
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    if (same := np.flatnonzero(hashes[1:] == hashes[:-1])).size:
        raise DataError(f"split {split.name!r} has two media with the id {quoted(split.media[order[same[0]]].id)}")
    numbers: dict[str, int] = {}
    number, is_known = np.full(split.num_media, -1, np.int32), np.zeros(split.num_media, bool)
    for file in files:
        with open_parquet(file) as table:
            for name in (key, column):
                if name not in (names := table.schema_arrow.names):
                    raise DataError(f"{file} has no column {name!r}; {nearest(name, names)}")
            if pa.types.is_nested(kind := table.schema_arrow.field(column).type):
                raise DataError(f"{file}: {column} cannot be read as labels, as it holds {kind}")
            for batch in table.iter_batches(batch_size=_ROWS, columns=[key, column]):
                keys = [str(each) for each in batch.column(key).to_pylist()]
                key_hashes = np.fromiter(map(text_hash, keys), np.int64, len(keys))
                place = np.minimum(np.searchsorted(hashes, key_hashes), len(hashes) - 1)
                row = np.flatnonzero(hashes[place] == key_hashes)
                at = order[place[row]]
                again = is_known[at]
                again[np.setdiff1d(np.arange(len(at)), np.unique(at, return_index=True)[1])] = True
                if again.any():
                    raise DataError(f"{file}: the {key} {quoted(keys[row[again.argmax()]])} is there twice")
                number[at], is_known[at] = _numbered(batch.column(column), numbers)[row], True
    values = np.array([*numbers, None], dtype=object)  # -1 takes the last
    labels: list[str | None] = values[number].tolist()
    return labels


def _numbered(values: pa.Array, numbers: dict[str, int]) -> Numbers:
    """Return the number of each value as a string, new ones counted on, and -1 for null."""
    encoded = pc.cast(values, pa.string()).dictionary_encode()
    known = [numbers.setdefault(value, len(numbers)) for value in encoded.dictionary.to_pylist()]
    of_batch = np.array([*known, -1])
    result: Numbers = of_batch[encoded.indices.fill_null(len(known)).to_numpy()]
    return result
