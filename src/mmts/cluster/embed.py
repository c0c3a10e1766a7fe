"""`mmts embed`: embeddings as float16 .npy parts, ids and hashes as parquet, in the layout of clip-retrieval."""

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import PositiveInt, TypeAdapter, ValidationError

from mmts.cluster.on_ray import connected, parse_part, run_tasks
from mmts.console import console, progress_bar
from mmts.data.media.checks import content_name
from mmts.data.media.reading import tell_warnings
from mmts.data.records import Split
from mmts.errors import DataError, RunError, check_one_of, counted, few
from mmts.files import atomic_write, content_hash, locked, read_json, write_json
from mmts.recipe.model_section import whole_start
from mmts.recipe.sections import Columns, Data
from mmts.training.encoder import Encoder, open_encoder
from mmts.training.splits import open_data, resolved

FOLDERS = {"text": "text_emb", "media": "img_emb"}
ABOUT = "embeddings.json"
_HASH = b"npy_hash"  # in the metadata of a parquet file: the hash of the .npy beside it
_SHARES = 8  # of the parts per Ray worker, so that a fast one takes more of them


@dataclass(frozen=True)
class EmbeddingsFolder:
    """A folder of embeddings in parts, as `embed` writes it; every part but the last has `rows_per_part` rows."""

    path: Path
    side: Literal["text", "media"]
    num_rows: PositiveInt
    width: PositiveInt
    rows_per_part: PositiveInt

    @property
    def num_parts(self) -> int:
        """The number of parts."""
        return -(-self.num_rows // self.rows_per_part)

    def rows(self, part: int) -> range:
        """Return the rows of a part."""
        first = part * self.rows_per_part
        return range(first, min(first + self.rows_per_part, self.num_rows))

    def array_file(self, part: int) -> Path:
        """Return the file of a part's embeddings."""
        name = FOLDERS[self.side]
        return self.path / name / f"{name}_{part:05d}.npy"

    def table_file(self, part: int) -> Path:
        """Return the file of a part's ids and hashes."""
        return self.path / "metadata" / f"metadata_{part:05d}.parquet"

    def write(self, part: int, rows: npt.NDArray[np.float16], table: pa.Table) -> None:
        """Write a part; the table last, which marks it as whole."""
        with atomic_write(self.array_file(part)) as file:
            np.save(file, rows)
        table = table.replace_schema_metadata({_HASH: _hash_of(rows).encode()})
        with atomic_write(self.table_file(part)) as file:
            pq.write_table(table, file)

    def read(self, part: int) -> tuple[npt.NDArray[np.float16], pa.Table]:
        """Return the embeddings and the table of a part. Raises DataError, naming the file, if it is not whole."""
        array, table = self.array_file(part), self.table_file(part)
        for file in (array, table):
            if not file.is_file():
                raise DataError(f"there is no {file}: part {part} is missing")
        try:
            rows, columns = np.load(array, allow_pickle=False), pq.read_table(table)
            is_whole = columns.schema.metadata[_HASH].decode() == _hash_of(rows)
            is_whole &= rows.shape == (len(self.rows(part)), self.width)
            is_whole &= {"id", "content"} <= {*columns.column_names}
        except Exception:  # numpy and pyarrow raise nearly anything on a damaged file
            is_whole = False
        if not is_whole:
            raise DataError(f"part {part} is damaged: {array} is not the one that {table} was written for")
        return rows, columns


def _hash_of(rows: npt.NDArray[np.float16]) -> str:
    return content_hash(str(rows.shape), np.ascontiguousarray(rows).tobytes())


@dataclass(frozen=True)
class _Job:
    """What is embedded by what: the rows of one side of the data."""

    encoder: Encoder
    split: Split
    side: str

    @classmethod
    def open(cls, data: Path, model: str, side: str, split_name: str | None, columns: Columns | None) -> "_Job":
        dataset = open_data(Data(columns=columns or Columns()), data)
        split = dataset.whole() if split_name is None else dataset.split(split_name)
        return cls(open_encoder(model, split.media), split, side)

    @cached_property
    def width(self) -> int:
        return int(self.encoder.text(["width"]).shape[1])

    @cached_property
    def ids(self) -> list[str]:
        """The id of every row: that of its medium, and of a caption its number there, as in "17#0"."""
        if self.side == "media":
            return [medium.id for medium in self.split.media]
        return [f"{medium.id}#{number}" for medium in self.split.media for number in range(len(medium.captions))]

    @cached_property
    def contents(self) -> str:
        """A hash of what the rows are made from: ids, captions, and the paths of media."""
        own = self.split.captions if self.side == "text" else [medium.place for medium in self.split.media]
        return content_hash(*self.ids, *own)

    def write(self, folder: EmbeddingsFolder, part: int) -> tuple[int, int]:
        """Compute and write a part; return its number of rows, and how many are zeros, of media that cannot be read."""
        rows = folder.rows(part)
        at = slice(rows.start, rows.stop)
        columns: dict[str, Any] = {"id": pa.array(self.ids[at], pa.string())}
        if self.side == "text":
            columns["caption"] = captions = list(self.split.captions[at])
            computed = self.encoder.text(captions)
            columns["content"] = [*map(content_hash, captions)]
        else:
            media = self.split.media[at]
            computed = self.encoder.media_or_zeros(media, self.width)
            is_read: Any = computed.any(axis=1).tolist()
            names = [content_name(medium) if read else None for medium, read in zip(media, is_read, strict=True)]
            columns["content"] = pa.array(names, pa.string())
        table = pa.table(columns)
        folder.write(part, computed.astype(np.float16), table)
        return len(rows), table["content"].null_count


def embed(
    data: Path,
    model: str,
    side: str,
    out: Path,
    *,
    part: str | None = None,
    ray: str | None = None,
    split_name: str | None = None,
    columns: Columns | None = None,
    rows_per_part: int = 16_384,
) -> EmbeddingsFolder:
    """Embed the captions or the media of data into the folder `out`, part by part, and return the folder.

    Parts that are there and whole are kept, damaged ones are computed again, so an interrupted command is resumed by
    repeating it. The folder must be on a disk that all processes see, or their folders are put together afterwards.

    model: a run, or a pretrained model (docs/pretrained.md).
    part: `I/N`, the I-th of N processes that share the work.
    ray: the address of a Ray cluster (see `connected`) that computes the parts; its nodes must see the data and `out`.
    split_name: None is all splits.

    Raises RunError if the folder holds embeddings of other data or by another model.
    """
    check_one_of("--side", side, FOLDERS)
    number, count = parse_part(part, ray)
    source = resolved(data), whole_start(model), side, split_name, columns
    job = _Job.open(*source)
    folder = _begin(job, out, rows_per_part, {"model": model, "data": str(source[0]), "split": split_name})
    mine = range(folder.num_parts)[number - 1 :: count]  # every count-th, so that all processes end together
    kind = "caption" if side == "text" else job.encoder.kind
    share = "" if count == 1 else f"{len(mine)} of "
    parts = f"{share}{counted(folder.num_parts, 'part')}"
    console.print(f"embedding {counted(folder.num_rows, kind)} by {model}: {parts}")
    missing, unreadable = [part for part in mine if not _is_whole(folder, part)], 0
    total, left = (sum(len(folder.rows(part)) for part in parts) for parts in (mine, missing))
    written = (job.write(folder, part) for part in missing) if ray is None else _on_ray(ray, source, folder, missing)
    with progress_bar(f"embedding {kind}s", total, f"{kind}s", total - left) as bar, closing(written):
        for num_rows, num_unreadable in written:
            unreadable += num_unreadable
            bar.advance(num_rows)
    tell_warnings()
    if unreadable:
        media = counted(unreadable, "medium", "media")
        console.print(f"note: {media} cannot be read; their rows are zeros, and their `content` is empty")
    done = len(mine) - len(missing)
    console.print(f"embeddings: {out}; {counted(len(missing), 'part')} computed, {done} already there")
    return folder


def _is_whole(folder: EmbeddingsFolder, part: int) -> bool:
    """Whether a part is there and whole; a damaged one is named."""
    try:
        folder.read(part)
    except DataError as error:
        if folder.table_file(part).exists():
            console.print(f"note: {error}; it is computed again")
        return False
    return True


def _on_ray(
    address: str, source: tuple[Any, ...], folder: EmbeddingsFolder, missing: Sequence[int]
) -> Generator[tuple[int, int]]:
    """Yield what `_Job.write` returns, summed over each share of the parts, as the tasks end."""
    if not missing:
        return
    with connected(address) as workers:
        n = min(len(missing), _SHARES * workers)
        tasks = [(source, replace(folder, path=folder.path.absolute()), missing[at::n]) for at in range(n)]
        yield from (written for _, written in run_tasks(_write_share, tasks))


_kept_job = lru_cache(1)(_Job.open)  # a process that gets another share opens the model and the data once


def _write_share(source: tuple[Any, ...], folder: EmbeddingsFolder, parts: Sequence[int]) -> tuple[int, int]:
    """Write those of the parts that an earlier attempt has not written, and check all of them."""
    open_folder(folder.path)  # a node that does not see the folder must not make one of its own
    job = _kept_job(*source)
    _begin(job, folder.path, folder.rows_per_part, {})
    for part in parts:
        if not _is_whole(folder, part):
            job.write(folder, part)
    unreadable = (folder.read(part)[1]["content"].null_count for part in parts)
    return sum(len(folder.rows(part)) for part in parts), sum(unreadable)


def _begin(job: _Job, out: Path, rows_per_part: int, names: dict[str, Any]) -> EmbeddingsFolder:
    """Record what the folder holds, or check that it holds the same."""
    about: dict[str, Any] = {"side": job.side, "num_rows": len(job.ids), "width": job.width}
    about |= {"rows_per_part": rows_per_part, "model_fingerprint": job.encoder.fingerprint, "contents": job.contents}
    if not (out / ABOUT).exists():
        with locked(out / ".lock", wait=True):
            if not (out / ABOUT).exists():
                write_json(out / ABOUT, {**names, **about})
    folder, stored = open_folder(out), read_json(out / ABOUT)
    for key, value in about.items():
        if stored.get(key) != value:
            raise RunError(
                f"{out} holds other embeddings: {key} is {stored.get(key)} there and {value} now; choose another --out"
            )
    return folder


def open_folder(path: Path) -> EmbeddingsFolder:
    """Return a folder that `embed` wrote. Raises RunError if it is something else."""
    if not (path / ABOUT).is_file():
        raise RunError(f"{path} is not a folder of embeddings: it lacks {ABOUT}, which `mmts embed` writes")
    about = read_json(path / ABOUT)
    try:
        return TypeAdapter(EmbeddingsFolder).validate_python({**about, "path": path})
    except (TypeError, ValidationError):
        raise RunError(f"{path / ABOUT} is damaged") from None


def join(path: Path) -> EmbeddingsFolder:
    """Raise DataError naming the parts of a folder of embeddings that are missing or damaged, or an id that repeats."""
    folder = open_folder(path)
    problems, ids, zeros = [], Counter[str](), 0
    with progress_bar("checking", folder.num_parts, "parts") as bar:
        for part in range(folder.num_parts):
            try:
                _, table = folder.read(part)
                ids.update(table["id"].to_pylist())
                zeros += table["content"].null_count
            except DataError as error:
                problems.append(str(error))
            bar.advance()
    if problems:
        parts = f"{counted(len(problems), 'part')} of {folder.num_parts}"
        raise DataError(f"{path}: {parts} to compute again: {few(problems)}")
    ((most, times),) = ids.most_common(1)
    if times > 1:
        raise DataError(f"{path}: the id {most!r} is there {times} times")
    left = f", {zeros} of them zeros (unreadable)" if zeros else ""
    console.print(f"{path}: whole; {counted(folder.num_rows, 'row')} in {counted(folder.num_parts, 'part')}{left}")
    return folder
