"""The public data sets that `mmts prepare` knows: public_sets.yaml, and a reader for each."""

from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

import yaml
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from mmts.data.epic_kitchens import read_epic_kitchens
from mmts.data.formats.cc3m import read_cc3m
from mmts.data.formats.coco import karpathy_file, read_karpathy
from mmts.data.formats.youcook2 import read_youcook2
from mmts.data.records import Dataset


@dataclass(frozen=True)
class Part:
    """A part of a data set's folder: a file or folder that matches one of `patterns`; `place` says where to put it."""

    what: str
    patterns: tuple[str, ...]
    size: str
    required: bool = True
    place: str = ""


@dataclass(frozen=True)
class Source:
    """An address that provides parts of a data set, and the license of these parts."""

    address: str
    license: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class PublicSet:
    """A public data set: its sources, its reader, and how many media and captions were published, by split."""

    title: str
    sources: tuple[Source, ...]
    read: Callable[[Path], Dataset]
    published: Mapping[str, tuple[int, int]]
    remark: str


_READERS: dict[str, Callable[[Path], Dataset]] = {
    "flickr30k": lambda root: read_karpathy(karpathy_file(root, "flickr30k")),
    "coco": lambda root: read_karpathy(karpathy_file(root, "coco")),
    "cc3m": read_cc3m,
    "ek100": read_epic_kitchens,
    "youcook2": read_youcook2,
}
_TABLE = yaml.safe_load(resources.files("mmts.apps").joinpath("public_sets.yaml").read_text(encoding="utf-8"))

PUBLIC_SETS = TypeAdapter(dict[str, PublicSet]).validate_python(
    {name: {**_TABLE[name], "read": read} for name, read in _READERS.items()}
)
