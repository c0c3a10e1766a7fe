"""An index on disk: index.json describes every item, a safetensors file holds their embeddings; neither is trusted.

The embeddings' file is named by the hash of its contents, and index.json, written last, names it. Whenever a process is
killed, two files that belong together are there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmts.data.formats.collect import inner_path
from mmts.data.records import Medium
from mmts.errors import DataError, RunError
from mmts.files import atomic_write, content_hash, leftovers
from mmts.search import nearest
from mmts.search.nearest import Rows

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
_VECTORS, PENDING = "vectors-*.safetensors", "pending-*"


class Item(BaseModel):
    """One image or clip of an index: its path below the index's root, and its state when it was embedded."""

    model_config = _STRICT

    path: str
    id: str
    caption: str  # the first one, or the path if there is no caption
    size: Count
    changed: int  # nanoseconds, from the file system
    content: Hash
    start: float | None = None
    end: float | None = None
    frames: tuple[int, int] | None = None
    member: tuple[Count, Count] | None = None
    labels: dict[str, str] = Field(default_factory=dict)  # the data's other columns

    @property
    def place(self) -> tuple[Any, ...]:
        """What distinguishes it from other items: its path, and the part of that file."""
        return (self.path, self.start, self.end, self.frames, self.member)


class Contents(BaseModel):
    """The contents of index.json: items in the order of the embeddings' rows, and the checkpoint that made these."""

    model_config = _STRICT

    version: Literal[2] = 2
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
        """Return an item as a medium, like those of the data readers."""
        item, root = self.contents.items[number], Path(self.contents.root)
        parts = {"start": item.start, "end": item.end, "frames": item.frames, "member": item.member}
        return Medium(item.id, root / item.path, (item.caption,), item.labels, kind=self.contents.kind, **parts)  # type: ignore[arg-type]

    def media(self) -> list[Medium]:
        """Return all items as media, in order."""
        return [self.medium(number) for number in range(len(self))]


def write_index(folder: Path, items: Sequence[Item], rows: Rows, *, checkpoint: str, kind: str, root: Path) -> Index:
    """Replace the index in a folder by that of M items and their unit rows (M, D), and return it."""
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
    for old in [*folder.glob(_VECTORS), *folder.glob(PENDING), *leftovers(folder)]:
        if old != file:
            old.unlink(missing_ok=True)
    return Index(folder, contents, vectors)


def check_folder(folder: Path) -> None:
    """Raise RunError if an index cannot go into this folder: it is a file, or contains other things."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; an index is a folder")
    known = {file for pattern in (_VECTORS, PENDING, "index.json", ".lock*") for file in folder.glob(pattern)}
    if folder.is_dir() and (others := sorted({*folder.iterdir()} - known - {*leftovers(folder)})):
        raise RunError(f"{folder} contains {others[0].name}, which is not part of an index; choose another --out")


def load_index(folder: Path) -> Index:
    """Read an index. Raises RunError if there is none, or naming its damaged file."""
    file = folder / "index.json"
    if not file.is_file():
        raise RunError(f"there is no index in {folder}; `mmts index RUN PATH` makes one")
    try:
        contents = Contents.model_validate_json(file.read_bytes())
        for item in contents.items:
            inner_path(item.path, "an item")
        file = _vectors_file(folder, contents.vectors)
        return Index(folder, contents, _read_vectors(file, contents))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:200]
    except (DataError, RunError) as error:
        why = str(error)
    raise RunError(f"{file} is damaged ({' '.join(why.split())}); `mmts index RUN PATH` makes the index again")


def _read_vectors(file: Path, contents: Contents) -> Any:
    if not file.is_file():
        raise RunError("it is missing")
    content = file.read_bytes()
    if content_hash(content) != contents.vectors:
        raise RunError("its contents have changed")
    return nearest.from_bytes(content, len(contents.items), contents.width)


def _vectors_file(folder: Path, name: str) -> Path:
    return folder / _VECTORS.replace("*", name)
