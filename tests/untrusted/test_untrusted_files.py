"""Any content of a file gives a result or an MmtsError; nothing is read or written elsewhere, and no code is run.

Each property is tried on a hundred files, and on ten thousand with `-m slow`.
"""

import csv
import io
import json
import pickle
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hostile import as_json, changed, damaged, paths, values, words
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests_support import load_pixels
from watch import watched

from mmts.concepts import ConceptDistribution
from mmts.data.media.checks import unreadable_media
from mmts.data.media.load import load_medium
from mmts.data.read import read_dataset
from mmts.errors import MmtsError
from mmts.models.clip import read_checkpoint
from mmts.recipe.recipe import load_recipe, shipped_recipes
from mmts.recipe.run_directory import RunDirectory
from mmts.training.checkpoint import load_checkpoint, load_newest

CASES = pytest.mark.parametrize("cases", [100, pytest.param(10_000, marks=pytest.mark.slow)])


def for_all(cases: int, content: st.SearchStrategy[Any], check: Callable[[Any, Path], None]) -> None:
    """Call check(content, folder) for `cases` contents; any exception other than MmtsError is a failure."""

    @settings(max_examples=cases, suppress_health_check=list(HealthCheck), deadline=None)
    @given(content)
    def run(example: Any) -> None:
        with tempfile.TemporaryDirectory() as name:
            try:
                check(example, Path(name))
            except MmtsError as error:
                message = str(error)
            else:
                return
        assert len(message) < 4000, "the message repeats the file"
        assert "\n" not in message.strip(), "the message has more than one line"

    run()


@pytest.fixture
def cache(private_cache: Path) -> Path:
    return private_cache


def picture(kind: str = "PNG", mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 4), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").convert(mode).save(file, kind)
    return file.getvalue()


# --- manifests -------------------------------------------------------------------------------------------------------

LINES = [
    {"id": "1", "image": "a.png", "captions": ["a cat", "a pet"], "labels": {"kind": "cat"}, "split": "train"},
    {"id": "2", "image": "images/a.png", "captions": "a dog", "member": [0, 100]},
    {"id": "3", "video": "a.mp4", "captions": ["a film"], "start": 0.5, "end": 2.0, "frames": [1, 3]},
]
KEYS = ["id", "image", "video", "captions", "labels", "split", "start", "end", "frames", "member", "file_name", "text"]
KARPATHY = {
    "dataset": "flickr30k",
    "images": [
        {"filename": name, "imgid": i, "split": split, "sentids": [i], "sentences": [{"raw": caption, "sentid": i}]}
        for i, (name, split, caption) in enumerate((("a.png", "train", "a cat"), ("b.png", "test", "a dog")))
    ],
}
YOUCOOK2 = {
    "database": {
        "abc": {
            "subset": "training", "recipe_type": "101", "duration": 10.0, "video_url": "https://x/y",
            "annotations": [{"segment": [1, 3], "id": 0, "sentence": "cut it"}],
        }
    }
}  # fmt: skip
COCO = {
    "images": [{"id": 1, "file_name": "a.png"}],
    "annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}],
}


def json_lines(lines: Any) -> bytes:
    return b"\n".join(map(as_json, lines if isinstance(lines, list) else [lines]))


def table(rows: list[list[str]]) -> bytes:
    file = io.StringIO()
    placeholder = "\ue000"  # Python 3.10 can read NULs in CSV files but cannot write them
    csv.writer(file).writerows([[cell.replace("\0", placeholder) for cell in row] for row in rows])
    return file.getvalue().replace(placeholder, "\0").encode("utf-8", "surrogatepass")


lines = changed(LINES, KEYS, values | paths | st.lists(paths, max_size=2)).map(json_lines)
metadata = changed(
    [{"file_name": "a.png", "text": "a cat"}, {"file_name": "images/a.png", "text": ["x"]}], KEYS, values | paths
)
rows = st.lists(st.lists(paths | words, min_size=2, max_size=4), max_size=4).map(
    lambda rows: table([["filepath", "caption"], ["a.png", "a cat"], *rows])
)
MANIFESTS: dict[str, st.SearchStrategy[bytes]] = {
    "captions.jsonl": lines | damaged(json_lines(LINES)),
    "metadata.jsonl": metadata.map(json_lines) | damaged(json_lines([{"file_name": "a.png", "text": "a cat"}])),
    "captions.csv": rows | damaged(table([["filepath", "caption"], ["a.png", "a, cat"], ["images/a.png", 'a "dog"']])),
    "captions.tsv": damaged(b"filepath\tcaption\na.png\ta cat\nimages/a.png\ta dog\n"),
    "dataset_flickr30k.json": changed(KARPATHY, ["filepath", "cocoid", "split"], values | paths).map(as_json)
    | damaged(as_json(KARPATHY)),
    "youcookii_annotations_trainval.json": changed(YOUCOOK2, ["segment"], values | paths).map(as_json)
    | damaged(as_json(YOUCOOK2)),
    "captions_val2017.json": changed(COCO, ["file_name"], values | paths).map(as_json) | damaged(as_json(COCO)),
}


@CASES
@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests(name: str, cases: int, cache: Path) -> None:
    def check(content: bytes, outside: Path) -> None:
        folder = outside / "data"
        (folder / "images").mkdir(parents=True)
        (folder / "val2017").mkdir()
        for place in ("a.png", "images/a.png", "../secret.png"):
            (folder / place).write_bytes(SMALL)
        (folder / name).write_bytes(content)
        with watched(folder, cache):
            dataset = read_dataset(folder / name if name.endswith(("csv", "tsv")) else folder)
            for split in map(dataset.split, dataset.split_names):
                assert all(str(medium.path.resolve()).startswith(str(folder.resolve())) for medium in split.media)
                unreadable = unreadable_media(split.media)
                for i, medium in enumerate(split.media):
                    if i not in unreadable and medium.kind == "image" and not medium.is_features:
                        load_medium(medium, 8)

    for_all(cases, MANIFESTS[name], check)


# --- recipes ---------------------------------------------------------------------------------------------------------

RECIPE = yaml.safe_load(shipped_recipes()["catalogue"])
SECTIONS = [
    "data", "concepts", "model", "objective", "train", "temperature", "loss", "rule", "schedule", "options", "tower"
]  # fmt: skip
YAML = [
    "!!python/object/apply:os.system ['touch harmed']", "!!python/name:os.system", "2024-99-99", "{[1]: 2}", "[" * 500,
    "&a [*a]", "{<<: 3}", "? {a: 1}\n: 2", "9" * 6000, "!!binary x", "!!int x", "!!float x", "!!set 3", "0x", "0b",
    "!!timestamp x", "!!omap 3", "!!pairs [3]", "{a: &x {b: *x}}", "\t", "- \x07", "%YAML 9.9", "*nothing", "'",
    '"\\xg"', "1:99",
]  # fmt: skip
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def recipe_with(section: str, value: str) -> bytes:
    return f"train: {{epochs: 1}}\n{section}: {value}\n".encode()


recipes = (
    changed(RECIPE, SECTIONS).map(as_json)
    | damaged(shipped_recipes()["catalogue"].encode())
    | st.builds(recipe_with, st.sampled_from(SECTIONS), st.sampled_from(YAML))
    | st.sampled_from([*YAML, BOMB]).map(str.encode)
)
SET = ["train.epochs", "objective", "objective.temperature", "model.text.options", "x", "a.b", "..", "train"]
overrides = st.lists(st.tuples(st.sampled_from(SET), st.sampled_from(YAML) | words).map("=".join) | words, max_size=2)


@CASES
def test_recipes(cases: int, cache: Path) -> None:
    def check(example: tuple[bytes, list[str]], folder: Path) -> None:
        file = folder / "recipe.yaml"
        content, options = example
        file.write_bytes(content)
        with watched(folder, cache):
            recipe = load_recipe(file, options)
            assert "/" not in recipe.folder_name
            assert recipe.folder_name not in ("", ".", "..")
            assert RunDirectory(folder).recipe() is not None

    for_all(cases, st.tuples(recipes, overrides), check)


@CASES
def test_the_recipe_and_log_of_a_run(cases: int) -> None:
    def check(content: bytes, folder: Path) -> None:
        (folder / "recipe.yaml").write_bytes(content)
        (folder / "log.jsonl").write_bytes(content)
        with watched(folder):
            run = RunDirectory(folder)
            run.prepare_for(3)
            list(run.log_lines())
            run.recipe()

    log = st.lists(values.map(as_json) | st.just(b'{"step": 1, "loss": NaN}'), max_size=4).map(b"\n".join)
    for_all(cases, recipes | log | damaged(b'{"step": 1, "progress": 0.1}\n' * 4), check)


# --- shards ----------------------------------------------------------------------------------------------------------

KINDS = [
    tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE,
    tarfile.CONTTYPE,
]  # fmt: skip
NAMES = [
    "a.png", "a.txt", "a.json", "b.png", "b.txt", "../c.png", "../c.txt", "/etc/d.png", "/etc/d.txt", "a.b.png", ".png"
]  # fmt: skip
SMALL = picture()

members = st.lists(
    st.tuples(
        st.sampled_from(NAMES) | paths,
        st.sampled_from([SMALL, b"a cat", b'{"caption": "a cat"}', b'{"status": 3}', b"\xff", b"", b"[" * 3000]),
        st.sampled_from(KINDS) | st.just(tarfile.REGTYPE),
        st.sampled_from(["", "../../secret.png", "/etc/passwd", "a.png"]),
    ),
    max_size=6,
)


def tar(files: list[tuple[str, bytes, bytes, str]], form: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, content, kind, target in files:
            # tarfile can write neither NUL nor half a surrogate pair
            member = tarfile.TarInfo(name.replace("\0", "").encode(errors="replace").decode())
            member.type, member.linkname = kind, target
            member.size = len(content) if kind in (tarfile.REGTYPE, tarfile.CONTTYPE) else 0
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


WHOLE = [("a.png", SMALL, tarfile.REGTYPE, ""), ("a.txt", b"a cat", tarfile.REGTYPE, "")]
shards = (
    st.builds(tar, members, st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    | damaged(tar(WHOLE))
    | damaged(tar([("x" * 150 + ".png", SMALL, tarfile.REGTYPE, ""), *WHOLE], tarfile.PAX_FORMAT))
)


@CASES
def test_shards(cases: int, cache: Path) -> None:
    def check(content: bytes, outside: Path) -> None:
        folder = outside / "shards"
        folder.mkdir()
        (outside / "secret.png").write_bytes(SMALL)
        (folder / "0.tar").write_bytes(content)
        with watched(folder, cache):
            for medium in read_dataset(folder).media:
                assert medium.path == folder / "0.tar"
                load_medium(medium, 8)
        assert {path.name for path in outside.rglob("*")} == {"shards", "0.tar", "secret.png"}

    for_all(cases, shards, check)


# --- images and features ---------------------------------------------------------------------------------------------

IMAGES = [
    picture("PNG"), picture("PNG", "P"), picture("PNG", "LA"), picture("JPEG"), picture("JPEG", "CMYK"),
    picture("WEBP"), picture("GIF", "P"), picture("BMP"), picture("TIFF"), picture("PPM"), picture("ICO", "RGBA"),
    picture("TGA"),
]  # fmt: skip


@CASES
def test_images(cases: int) -> None:
    def check(content: bytes, folder: Path) -> None:
        (folder / "a.png").write_bytes(content)
        with watched(folder):
            pixels = load_pixels(folder / "a.png", 8)
        assert pixels.shape == (3, 8, 8)
        assert 0 <= pixels.min() <= pixels.max() <= 1

    for_all(cases, st.sampled_from(IMAGES).flatmap(damaged) | st.binary(max_size=100), check)


# --- checkpoints, concepts, features ---------------------------------------------------------------------------------


class Dangerous:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch harmed",)


def file_bytes(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


STATE = {"model": {"w": torch.arange(6.0).reshape(2, 3)}, "step": 3, "best": -1.0, "random": {"cpu": torch.zeros(9)}}
CHECKPOINTS = [
    file_bytes(lambda file: torch.save(STATE, file)),
    file_bytes(lambda file: torch.save(STATE, file, _use_new_zipfile_serialization=False)),
    file_bytes(lambda file: torch.save({"model": Dangerous()}, file)),
    file_bytes(lambda file: torch.save({"model": Dangerous()}, file, _use_new_zipfile_serialization=False)),
    file_bytes(lambda file: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)),
    pickle.dumps(Dangerous()),
]


@CASES
def test_checkpoints(cases: int) -> None:
    def check(content: bytes, folder: Path) -> None:
        last, previous = folder / "last.pt", folder / "previous.pt"
        last.write_bytes(content)
        torch.save(STATE, previous)
        with watched(folder):
            state = load_newest(folder)
            assert state is not None
            assert state["model"]["w"].equal(STATE["model"]["w"])  # damaged files are skipped
            with suppress(MmtsError):
                read_checkpoint(last)
            load_checkpoint(last)

    for_all(cases, st.sampled_from(CHECKPOINTS).flatmap(damaged) | st.sampled_from(CHECKPOINTS), check)


def concepts(*labels: Any) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        ConceptDistribution.from_labels(labels).save(Path(name) / "c.npz")
        return (Path(name) / "c.npz").read_bytes()


ARRAYS = [
    file_bytes(lambda file: np.save(file, np.ones((2, 3), np.float32))),
    file_bytes(lambda file: np.save(file, np.array([Dangerous()], dtype=object), allow_pickle=True)),
    pickle.dumps(Dangerous()),
]


@CASES
@pytest.mark.parametrize("name", ["concepts.npz", "a.npy"])
def test_arrays(name: str, cases: int, cache: Path) -> None:
    def check(content: bytes, folder: Path) -> None:
        (folder / name).write_bytes(content)
        line = {"id": "1", "image": "a.npy", "captions": ["x"]}
        (folder / "captions.jsonl").write_text(json.dumps(line))
        with watched(folder, cache):
            if name == "concepts.npz":
                ConceptDistribution.load(folder / name).groups()
            else:
                unreadable_media(read_dataset(folder).media)

    files = [concepts("cup", ("lamp", 2), "cup"), concepts(["cup", "lamp"], [], "cup")]
    whole = st.sampled_from(files) if name == "concepts.npz" else st.sampled_from(ARRAYS)
    for_all(cases, whole.flatmap(damaged) | st.sampled_from(ARRAYS), check)
