"""Which training media are kept: by concept, without near duplicates, and as files that training takes."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mmts.cluster.curate import curate, distinct, powered
from mmts.cluster.embed import embed
from mmts.data.keys import read_keys, write_keys
from mmts.data.read import read_dataset
from mmts.errors import DataError, InputError, MmtsError
from mmts.recipe.recipe import load_recipe
from mmts.recipe.sections import Concepts
from mmts.training.splits import open_data, take_splits

SHAPE = Concepts(source="label", label="shape")


def shapes_of(data: Path, ids: list[str]) -> Counter[str]:
    labels = {medium.id: str(medium.labels["shape"]) for medium in read_dataset(data).split("train").media}
    return Counter(labels[key] for key in ids)


def test_at_most_cap_of_each_concept_are_kept(shapes: Path, tmp_path: Path) -> None:
    everything = shapes_of(shapes, [medium.id for medium in read_dataset(shapes).split("train").media])
    cap = 3
    ids = curate(shapes, tmp_path / "kept.txt", cap=cap, concepts=SHAPE)
    assert shapes_of(shapes, ids) == {shape: min(size, cap) for shape, size in everything.items()}
    assert read_keys(tmp_path / "kept.txt") == ids
    assert (tmp_path / "kept.png").read_bytes().startswith(b"\x89PNG")
    assert curate(shapes, tmp_path / "again.txt", cap=cap, concepts=SHAPE) == ids
    assert curate(shapes, tmp_path / "other.txt", cap=cap, concepts=SHAPE, seed=1) != ids


def test_a_power_keeps_the_smallest_concept_whole() -> None:
    assert powered(np.array([900, 100, 9]), 1.0).tolist() == [900, 100, 9]
    assert powered(np.array([900, 100, 9]), 0.5).tolist() == [90, 30, 9]
    assert powered(np.array([900, 100, 9]), 0.0).tolist() == [9, 9, 9]


def test_near_duplicates_are_those_of_the_loop() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    kept: list[int] = []
    for at, row in enumerate(rows):
        if all(float(row @ rows[other]) < 0.9 for other in kept):
            kept.append(at)
    assert distinct(rows, 0.9).tolist() == kept
    assert len(kept) < 300


def test_copies_of_a_picture_are_left_out(shapes: Path, clip: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "data")
    with (tmp_path / "data" / "captions.jsonl").open("a") as file:
        for medium in read_dataset(shapes).split("train").media[:5]:
            copy = shutil.copyfile(medium.path, tmp_path / "data" / f"copy-{medium.path.name}")
            line = {"id": f"copy of {medium.id}", "image": copy.name, "captions": ["a copy"], "split": "train"}
            file.write(json.dumps({**line, "labels": {"shape": medium.labels["shape"]}}) + "\n")
    embed(tmp_path / "data", str(clip), "media", tmp_path / "rows", split_name="train")
    options = {"embeddings": tmp_path / "rows", "concepts": SHAPE}
    ids = curate(tmp_path / "data", tmp_path / "kept.txt", dedup=0.99999, **options)  # type: ignore[arg-type]
    assert not any(key.startswith("copy of") for key in ids)
    with pytest.raises(InputError, match=r"rows has .* rows and train .* media, which differ from row"):
        curate(shapes, tmp_path / "kept.txt", dedup=0.9, **options)  # type: ignore[arg-type]


def test_datacomps_uids_come_back(tmp_path: Path) -> None:
    uids = ["ffffffffffffffff0000000000000001", "00000000000000020000000000000003"]
    write_keys(tmp_path / "kept.npy", uids)
    stored = np.load(tmp_path / "kept.npy")
    assert stored.dtype == np.dtype("u8,u8")
    assert stored.tolist() == [(2, 3), (2**64 - 1, 1)]
    assert read_keys(tmp_path / "kept.npy") == sorted(uids)


def test_training_takes_the_kept_media_alone(shapes: Path, tmp_path: Path) -> None:
    ids = curate(shapes, tmp_path / "kept.txt", power=0.5, concepts=SHAPE)
    recipe = load_recipe("catalogue", [f"data.keep={tmp_path / 'kept.txt'}"]).with_data(shapes)
    splits = take_splits(open_data(recipe.data), recipe)
    assert [medium.id for medium in splits.train.media] == ids
    assert splits.final.num_media == read_dataset(shapes).split("test").num_media
    (tmp_path / "kept.txt").write_text("nobody\n")
    with pytest.raises(DataError, match=r"data\.keep: no id in .*kept\.txt is that of a training medium, such as"):
        take_splits(open_data(recipe.data), recipe)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "needs --cap or --power, or --dedup"),
        ({"cap": 3, "power": 0.5}, "needs --cap or --power"),
        ({"dedup": 0.9}, "--dedup and --embeddings .* go together"),
        ({"cap": 3, "out": "kept.npy"}, r"kept\.npy: the id .* is not a uid of DataComp \(32 hexadecimal digits\)"),
    ],
)
def test_what_cannot_be_chosen_is_named(options: dict[str, object], says: str, shapes: Path, tmp_path: Path) -> None:
    options = {**options, "out": tmp_path / str(options.get("out", "kept.txt"))}
    with pytest.raises(MmtsError, match=says):
        curate(shapes, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\xff\xfe"])
def test_a_damaged_file_of_keys_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "kept.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"kept\.npy does not hold uids of DataComp"):
        read_keys(tmp_path / "kept.npy")
    with pytest.raises(DataError, match="does not exist; it must be a file of ids"):
        read_keys(tmp_path / "nothing.txt")
