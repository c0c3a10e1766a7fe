"""An index on disk: index.json describes every item, a safetensors file holds their embeddings; neither is trusted.

The embeddings' file is named by the hash of its contents, and index.json, written last, names it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmts.data.formats.collect import inner_path
from mmts.data.records import Label, Medium
from mmts.errors import DataError, RunError, first_line, listed, shortened
from mmts.files import atomic_write, content_hash, leftovers

Rows = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]
EXACT_UNDER = 100_000  # items; larger indexes are searched only in the nearest cells
_CELLS = 4.0  # times the square root of the number of items
_SEARCHED = 0.125  # share of the cells; docs/searching.md has the measured recall
_MAX_TRAINING = 64  # items per cell, in k-means
_UNIT = 1e-3  # how far the length of a row may be from 1
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
_VECTORS, _PENDING = "vectors-*.safetensors", "pending*"


class Item(BaseModel):
    """One image or clip of an index: its path below the index's root, and its state when it was embedded."""

    model_config = _STRICT

    path: str
    id: str
    caption: str  # the first one; the path of a medium without captions
    size: Count
    changed: int  # nanoseconds, from the file system
    content: Hash
    start: float | None = None
    end: float | None = None
    frames: tuple[int, int] | None = None
    member: tuple[Count, Count] | None = None
    split: str | None = None
    other_captions: tuple[str, ...] = ()  # those after the first
    labels: dict[str, Label] = Field(default_factory=dict)  # the data's other columns

    @property
    def columns(self) -> dict[str, Label]:
        """What a search can be narrowed by: the labels, and the split if it has one."""
        return ({} if self.split is None else {"split": self.split}) | self.labels

    @property
    def place(self) -> tuple[Any, ...]:
        """What distinguishes it from other items: its path, and the part of that file."""
        return self.path, self.start, self.end, self.frames, self.member


class Contents(BaseModel):
    """The contents of index.json: items in the order of the embeddings' rows, and the checkpoint that made these."""

    model_config = _STRICT

    version: Literal[3] = 3
    checkpoint: Hash
    kind: Literal["image", "video"]
    root: str
    width: Annotated[int, Field(ge=1, le=2**16)]
    vectors: Hash
    items: Annotated[tuple[Item, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Index:
    """An index in memory, ready for searching; `vectors` is the faiss index."""

    folder: Path
    contents: Contents
    vectors: Any

    def __len__(self) -> int:
        return len(self.contents.items)

    def medium(self, number: int) -> Medium:
        """Return the medium of an item."""
        item = self.contents.items[number]
        parts: dict[str, Any] = {name: getattr(item, name) for name in ("start", "end", "frames", "member")}
        path, captions = Path(self.contents.root, item.path), (item.caption, *item.other_captions)
        return Medium(item.id, path, captions, item.labels, item.split, self.contents.kind, **parts)

    def media(self) -> list[Medium]:
        """Return all items as media, in order."""
        return list(map(self.medium, range(len(self))))


def write_index(folder: Path, items: Sequence[Item], rows: Rows, *, checkpoint: str, kind: str, root: Path) -> Index:
    """Replace the index in a folder by that of M items and their unit rows (M, D), and return it."""
    vectors = make_vectors(rows)
    content = to_bytes(vectors)
    name = content_hash(content)
    about: dict[str, Any] = {"checkpoint": checkpoint, "kind": kind, "root": str(root), "width": rows.shape[1]}
    contents = Contents(vectors=name, items=tuple(items), **about)
    file = folder / _VECTORS.replace("*", name)
    with atomic_write(file) as out:
        out.write(content)
    with atomic_write(folder / "index.json", "w") as out:
        out.write(contents.model_dump_json(exclude_none=True))
    for old in [*folder.glob(_VECTORS), *folder.glob(_PENDING), *leftovers(folder)]:
        if old != file:
            old.unlink(missing_ok=True)
    return Index(folder, contents, vectors)


def check_folder(folder: Path) -> None:
    """Raise RunError if an index cannot go into this folder: it is a file, or contains other things."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; an index is a folder")
    known = {file for pattern in (_VECTORS, _PENDING, "index.json", ".lock*") for file in folder.glob(pattern)}
    if folder.is_dir() and (others := sorted({*folder.iterdir()} - known - {*leftovers(folder)})):
        raise RunError(f"{folder} contains {others[0].name}, which is not part of an index; choose another --out")


def load_index(folder: Path) -> Index:
    """Read an index. Raises RunError for a folder without an index, or naming its damaged file."""
    file = folder / "index.json"
    if not file.is_file():
        raise RunError(f"there is no index in {folder}; `mmts index RUN PATH` makes one")
    try:
        contents = Contents.model_validate_json(file.read_bytes())
        for item in contents.items:
            inner_path(item.path, "an item")
        file = folder / _VECTORS.replace("*", contents.vectors)
        content = file.read_bytes() if file.is_file() else b""
        if content_hash(content) == contents.vectors:
            return Index(folder, contents, from_bytes(content, len(contents.items), contents.width))
        why = "its contents have changed" if content else "it is missing"
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        why = shortened(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", 200)
    except (DataError, RunError) as error:
        why = str(error)
    raise RunError(f"{file} is damaged ({' '.join(why.split())}); `mmts index RUN PATH` makes the index again")


# --- nearest neighbors by cosine -------------------------------------------------------------------------------------


def make_vectors(rows: Rows, exact_under: int = EXACT_UNDER) -> Any:
    """Return a faiss index of unit rows (M, D): a plain list, or for M >= `exact_under` cells made by k-means.

    >>> number, score = nearest(make_vectors(np.eye(3, dtype=np.float32)), np.array([0, 0.6, 0.8], np.float32), 2)
    >>> number.tolist(), score.tolist()
    ([2, 1], [0.800..., 0.600...])
    """
    import faiss

    count, width = rows.shape
    vectors: Any = faiss.IndexFlatIP(width)
    if count >= exact_under:
        vectors = faiss.IndexIVFFlat(vectors, width, round(_CELLS * count**0.5), faiss.METRIC_INNER_PRODUCT)
        vectors.cp.max_points_per_centroid = _MAX_TRAINING
        vectors.cp.niter = 10
        vectors.train(rows)
    vectors.add(rows)
    return vectors


def is_exact(vectors: Any) -> bool:
    """Return whether a search compares every item."""
    return not hasattr(vectors, "nprobe")


def nearest(vectors: Any, query: Rows, k: int, among: Numbers | None = None) -> tuple[Numbers, Rows]:
    """Return the numbers of the k items nearest to a unit row (D,), of all or `among` some, and their cosines."""
    import faiss

    options: dict[str, Any] = {} if among is None else {"sel": faiss.IDSelectorBatch(among)}
    if not is_exact(vectors):
        options["nprobe"] = max(1, round(_SEARCHED * vectors.nlist)) if among is None else vectors.nlist
    parameters = (faiss.SearchParameters if is_exact(vectors) else faiss.SearchParametersIVF)(**options)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # for one query, threads cost more than they save
    try:
        scores, numbers = vectors.search(query[None], min(k, vectors.ntotal), params=parameters)
    finally:
        faiss.omp_set_num_threads(threads)
    valid = (numbers[0] >= 0) & (numbers[0] < vectors.ntotal)  # the searched cells may hold fewer than k
    return numbers[0][valid], scores[0][valid]


def rows_of(vectors: Any) -> Rows:
    """Return the rows (M, D) in the order of the items."""
    rows: Rows = vectors.reconstruct_n(0, vectors.ntotal)
    return rows


def to_bytes(vectors: Any) -> bytes:
    """Return a safetensors file of rows, centers and each row's cell: faiss's format trusts the sizes in a file."""
    import faiss
    from safetensors.numpy import save

    arrays: dict[str, npt.NDArray[Any]] = {"rows": rows_of(vectors)}
    if not is_exact(vectors):
        arrays["centres"] = vectors.quantizer.reconstruct_n(0, vectors.nlist)
        arrays["cells"] = np.empty(vectors.ntotal, np.int64)
        for cell in range(vectors.nlist):
            if size := vectors.invlists.list_size(cell):
                arrays["cells"][faiss.rev_swig_ptr(vectors.invlists.get_ids(cell), size)] = cell
    content: bytes = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return content


def from_bytes(content: bytes, count: int, width: int) -> Any:
    """Return the faiss index of (count, width) unit rows. Raises RunError, saying what the bytes are instead."""
    import faiss
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a number type that numpy does not have
        raise RunError(f"it is not a safetensors file: {first_line(error)}") from None
    if set(arrays) not in ({"rows"}, {"rows", "centres", "cells"}):
        raise RunError(f"it holds {listed(sorted(arrays))}")
    rows = arrays["rows"]
    if rows.shape != (count, width) or rows.dtype != np.float32:
        raise RunError(f"it holds rows {rows.shape} of {rows.dtype}, not ({count}, {width}) of float32")
    if not np.all(np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - 1) < _UNIT):  # so that NaN fails too
        raise RunError("it holds rows whose length is not 1")
    if "cells" not in arrays:
        return make_vectors(rows, exact_under=count + 1)
    centers, cells = arrays["centres"], arrays["cells"]
    is_table = centers.ndim == 2 and centers.shape[1] == width and 1 <= len(centers) <= count
    if not is_table or centers.dtype != np.float32 or not np.isfinite(centers).all():
        raise RunError(f"it holds centers {centers.shape} that are not finite float32 numbers of width {width}")
    if cells.shape != (count,) or cells.dtype != np.int64 or cells.min() < 0 or cells.max() >= len(centers):
        raise RunError("it holds rows in cells that do not exist")
    nearest_cells = make_vectors(centers, exact_under=count + 1)
    vectors = faiss.IndexIVFFlat(nearest_cells, width, len(centers), faiss.METRIC_INNER_PRODUCT)
    vectors.is_trained = True
    vectors.add_core(count, faiss.swig_ptr(rows), None, faiss.swig_ptr(cells))
    return vectors
