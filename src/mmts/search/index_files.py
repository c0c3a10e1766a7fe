"""An index on disk: index.json names every item, a safetensors file their embeddings, and neither is trusted.

That file is named by the hash of its contents, and index.json, written last, names it: whenever a process is
killed, two that belong together are there. Rows computed for an index not yet written wait in pending.rows.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmts.data.formats.collect import inner_path
from mmts.data.records import Medium
from mmts.errors import DataError, RunError
from mmts.files import atomic_write, content_hash, leftovers
from mmts.search import nearest

Rows = npt.NDArray[np.float32]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Item(BaseModel):
    """One image or clip of an index: where it lies below the index's root, and what it was when it was embedded."""

    model_config = _STRICT

    path: str
    id: str
    caption: str  # its first one; its path where there is none
    size: Count
    changed: int  # nanoseconds, as the file system has it
    content: Hash
    start: float | None = None
    end: float | None = None
    frames: tuple[int, int] | None = None
    member: tuple[Count, Count] | None = None
    labels: dict[str, str] = Field(default_factory=dict)  # the data's other columns

    @property
    def place(self) -> tuple[Any, ...]:
        """What tells it from other items: its path, and the part of that file."""
        return (self.path, self.start, self.end, self.frames, self.member)


class Contents(BaseModel):
    """What index.json holds: the items in the order of the embeddings' rows, and whose embeddings those are."""

    model_config = _STRICT

    version: Literal[1, 2] = 2  # 1 has no labels
    checkpoint: Hash
    kind: Literal["image", "video"]
    root: str
    width: Annotated[int, Field(ge=1, le=2**16)]
    vectors: Hash
    items: Annotated[tuple[Item, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Index:
    """An index in memory, ready to be searched; `vectors` is the faiss index."""

    folder: Path
    contents: Contents
    vectors: Any

    def __len__(self) -> int:
        return len(self.contents.items)

    def medium(self, number: int) -> Medium:
        """Return an item as what the data readers give."""
        item, root = self.contents.items[number], Path(self.contents.root)
        parts = {"start": item.start, "end": item.end, "frames": item.frames, "member": item.member}
        return Medium(item.id, root / item.path, (item.caption,), item.labels, kind=self.contents.kind, **parts)  # type: ignore[arg-type]

    def number_of(self, content: str) -> int | None:
        """Return the number of the first item with these contents (a hash), None where there is none."""
        items = self.contents.items
        return next((number for number, item in enumerate(items) if item.content == content), None)

    def media(self) -> list[Medium]:
        """Return all items, in order."""
        return [self.medium(number) for number in range(len(self))]


def write_index(folder: Path, items: Sequence[Item], rows: Rows, *, checkpoint: str, kind: str, root: Path) -> Index:
    """Write the index of N items and their unit rows (N, D) in place of the one that is there, and return it."""
    vectors = nearest.make_vectors(rows, nearest.EXACT_UNDER)
    content = nearest.to_bytes(vectors)
    name = content_hash(content)
    contents = Contents(
        checkpoint=checkpoint, kind=kind, root=str(root), width=rows.shape[1], vectors=name, items=tuple(items)
    )  # fmt: skip
    file = _vectors_file(folder, name)
    with atomic_write(file) as out:
        out.write(content)
    with atomic_write(folder / "index.json", "w") as out:
        out.write(contents.model_dump_json(exclude_none=True))
    for old in [*folder.glob("vectors-*.safetensors"), *leftovers(folder)]:
        if old != file:
            old.unlink(missing_ok=True)
    return Index(folder, contents, vectors)


def check_folder(folder: Path) -> None:
    """Raise RunError where an index cannot go into this folder: it is a file, or holds other things."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; an index is a folder")
    own = {*folder.glob("vectors-*.safetensors"), folder / "index.json", folder / "pending.rows", *leftovers(folder)}
    own |= {*folder.glob(".lock*")}
    if folder.is_dir() and (strange := sorted({*folder.iterdir()} - own)):
        raise RunError(f"{folder} holds {strange[0].name}, which is not part of an index; choose another --out")


def load_index(folder: Path) -> Index:
    """Read an index. Raises RunError where there is none, or naming the file of it that is damaged."""
    file = folder / "index.json"
    if not file.is_file():
        raise RunError(f"there is no index in {folder}; `mmts index RUN PATH` makes one")
    try:
        contents = Contents.model_validate_json(file.read_bytes())
        for item in contents.items:
            inner_path(item.path, "an item")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _damaged(file, f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:200]) from None
    except DataError as error:
        raise _damaged(file, str(error)) from None
    file = _vectors_file(folder, contents.vectors)
    if not file.is_file():
        raise _damaged(file, "is missing")
    content = file.read_bytes()
    if content_hash(content) != contents.vectors:
        raise _damaged(file, "is not what was written")
    try:
        return Index(folder, contents, nearest.from_bytes(content, len(contents.items), contents.width))
    except RunError as error:
        raise _damaged(file, str(error)) from None


def _vectors_file(folder: Path, name: str) -> Path:
    return folder / f"vectors-{name}.safetensors"


def _damaged(file: Path, why: str) -> RunError:
    return RunError(f"{file} is damaged ({' '.join(why.split())}); `mmts index RUN PATH` makes the index again")


class Pending:
    """Rows by content in a file that grows, so that an interrupted `mmts index` goes on.

    The first line says whose rows they are; with another checkpoint or width it starts empty. A torn end is cut off.
    """

    def __init__(self, folder: Path, checkpoint: str, width: int) -> None:
        self.rows: dict[str, Rows] = {}
        self._record = np.dtype([("content", "S32"), ("row", "<f4", (width,))])
        self._file = open(folder / "pending.rows", "a+b")  # noqa: SIM115 (closed by `close`)
        header = f"{checkpoint} {width}\n".encode()
        self._file.seek(0)
        if self._file.readline() != header:
            self._file.truncate(0)
            self._file.write(header)
            self._file.flush()
        start = len(header)
        count = (os.fstat(self._file.fileno()).st_size - start) // self._record.itemsize
        self._file.truncate(start + count * self._record.itemsize)
        self._file.seek(start)
        found = np.frombuffer(self._file.read(), self._record)
        whole = np.abs(np.linalg.norm(found["row"], axis=1) - 1) < nearest.UNIT
        for content, row in zip(found["content"][whole].tolist(), found["row"][whole], strict=True):
            self.rows[content.decode("ascii", "replace")] = row

    def add(self, contents: Sequence[str], rows: Rows) -> None:
        """Keep more rows, on the disk before this returns."""
        records = np.empty(len(contents), self._record)
        records["content"], records["row"] = contents, rows
        self._file.write(records.tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows.update(zip(contents, rows, strict=True))

    def empty(self) -> None:
        """Forget the rows on the disk: they are in an index now."""
        self._file.truncate(0)

    def close(self) -> None:
        """Close the file; what is in it stays."""
        self._file.close()
