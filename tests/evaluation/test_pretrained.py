"""A pretrained pair, and anyone's embeddings, judged on data: as its own library computes it, and like a run."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.tiny_models import tiny_backbone, tiny_clip, whole_pair
from PIL import Image

from mmts.cli import main
from mmts.concepts import ConceptDistribution
from mmts.data.read import read_dataset
from mmts.data.records import Medium
from mmts.errors import DataError, RecipeError, RunError
from mmts.evaluation.compare import comparison_as_mapping
from mmts.evaluation.embeddings_file import read_embeddings, split_of_embeddings
from mmts.evaluation.pretrained import evaluate_pretrained, zero_steps
from mmts.evaluation.results import read_results
from mmts.evaluation.run import evaluate
from mmts.models import features
from mmts.recipe.run_directory import RunDirectory
from mmts.recipe.sections import Data
from mmts.report import write_report
from mmts.search import build_index
from mmts.training.experiment import load_model

TFIDF = ("concepts.encoder=tfidf",)
WORDS = ["red", "blue", "shoe", "hat", "dog", "bar", "in", "a"]


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Square images of 48 px of noise, with captions of random words, some of them long; all in train and test."""
    folder, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    lines = []
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        captions = [f"{' '.join(rng.choice(WORDS, size=int(rng.integers(2, 30))))} {i}" for _ in range(2)]
        line = {"id": f"m{i}", "image": f"{i}.png", "captions": captions, "labels": {"kind": f"k{i % 3}"}}
        lines.append(json.dumps({**line, "split": "train" if i < 12 else "test"}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def judged(start: Path | str, data: Path, out: Path, **options: Any) -> dict[str, Any]:
    return evaluate_pretrained(str(start), data, out, **{"settings": TFIDF, **options})


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_embeddings_and_recall_are_those_of_transformers(kind: str, squares: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer, CLIPImageProcessorPil, SiglipImageProcessorPil

    folder = whole_pair(tmp_path / kind, kind)
    metrics = judged(folder, squares, tmp_path / "run", embeddings_file=tmp_path / "e.npz")
    lines = [json.loads(line) for line in (squares / "captions.jsonl").read_text().splitlines()]
    test = [line for line in lines if line["split"] == "test"]
    whole, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    processor = {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil}[kind].from_pretrained(folder)
    pixels = processor([Image.open(squares / line["image"]) for line in test], return_tensors="pt")
    captions = [caption for line in test for caption in line["captions"]]
    padding = "max_length" if kind == "siglip" else True  # as the model's page says
    tokens = tokenizer(captions, padding=padding, truncation=True, max_length=16, return_tensors="pt")
    names = ("input_ids",) if kind == "siglip" else ("input_ids", "attention_mask")
    with torch.no_grad():
        x = whole.get_image_features(**pixels).pooler_output
        y = whole.get_text_features(**{name: tokens[name] for name in names}).pooler_output
    x, y = (rows / rows.norm(dim=1, keepdim=True) for rows in (x, y))
    with np.load(tmp_path / "e.npz") as stored:
        assert np.abs(stored["media"] - x.numpy()).max() < 1e-6
        assert np.abs(stored["text"] - y.numpy()).max() < 1e-6
    similarity = y.double() @ x.double().T
    assert similarity.std() > 0.01  # so that ranks are not those of rounding
    for k in (1, 5, 10):
        found = [at // 2 in row.topk(k).indices for at, row in enumerate(similarity)]
        assert metrics["text_to_image"][f"R@{k}"] == pytest.approx(100 * np.mean(found))
        own = [{2 * at, 2 * at + 1} & {*row.topk(k).indices.tolist()} for at, row in enumerate(similarity.T)]
        assert metrics["image_to_text"][f"R@{k}"] == pytest.approx(100 * np.mean([bool(hits) for hits in own]))


def test_the_folder_is_a_run_for_every_other_command(shapes: Path, clip: Path, tmp_path: Path) -> None:
    metrics = judged(clip, shapes, tmp_path / "run", labels=["shape"])
    assert {"shape"} == metrics["labels"].keys()
    assert evaluate(tmp_path / "run") == metrics
    judged(tmp_path / "run", shapes, tmp_path / "again", labels=["shape"])
    results = read_results([tmp_path / "run", tmp_path / "again"])
    assert all(gap.mean == 0 for gap in results.gaps.values())
    assert len(comparison_as_mapping(results)["groups"]) == 2
    page = write_report([tmp_path / "run"], tmp_path / "report.html").read_text()
    assert f"No training: {clip} as it is" in page
    assert f"mmts evaluate {clip} --data {shapes} --split test --set concepts.encoder=tfidf --out again/run" in page
    judged(clip, shapes, tmp_path / "larger", settings=(*TFIDF, "model.image.size=48"))
    page = write_report([tmp_path / "larger"], tmp_path / "report.html").read_text()
    assert "--set concepts.encoder=tfidf --set model.image.size=48 --out again/larger" in page
    assert len(build_index(tmp_path / "run", shapes / "images")) == 48
    assert not load_model(RunDirectory(tmp_path / "run")).trainable_state_dict()


def test_a_repeated_evaluation_computes_no_features(
    shapes: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mmts.evaluation.run.score", stop)
        with pytest.raises(KeyboardInterrupt):
            judged(clip, shapes, tmp_path / "run")
    assert not (tmp_path / "run").exists()  # nothing that stands in the way of another evaluation
    monkeypatch.setattr(features, "load_medium", stop)
    first = judged(clip, shapes, tmp_path / "run")
    assert judged(clip, shapes, tmp_path / "run") == first
    with pytest.raises(RunError, match=r"holds a run of another recipe: .*'label' now"):
        judged(clip, shapes, tmp_path / "run", concepts="shape", settings=())


def test_the_first_split_is_the_own_one(shapes: Path, clip: Path, tmp_path: Path) -> None:
    first = judged(clip, shapes, tmp_path / "run", split_name="dev")
    assert first["split"] == "val"
    assert judged(clip, shapes, tmp_path / "run")["split"] == "test"
    assert RunDirectory(tmp_path / "run").is_finished
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == first
    assert [file.name for file in (tmp_path / "run" / "evaluations").glob("*.json")] == ["shapes-test.json"]
    assert evaluate(tmp_path / "run") == first


def test_a_split_of_another_name_is_enough(shapes: Path, clip: Path, tmp_path: Path) -> None:
    data = shutil.copytree(shapes, tmp_path / "data")
    lines = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    (data / "captions.jsonl").write_text("".join(json.dumps({**line, "split": "held"}) + "\n" for line in lines))
    first = judged(clip, data, tmp_path / "run", split_name="held")
    assert (first["split"], first["num_media"]) == ("held", len(lines))
    assert evaluate(tmp_path / "run") == first
    with pytest.raises(DataError, match="nothing is in split 'test'"):
        judged(clip, data, tmp_path / "run")


def test_concepts_are_those_of_a_label_or_a_file(shapes: Path, clip: Path, tmp_path: Path) -> None:
    judged(clip, shapes, tmp_path / "label", concepts="shape", settings=())
    by_label = ConceptDistribution.load(tmp_path / "label" / "concepts.npz")
    assert sorted(by_label.names) == ["bar", "square", "stripe"]
    others = ConceptDistribution.from_captions(["red bar", "blue bar", "stripe"], 2, encoder="tfidf")
    others.save(tmp_path / "others.npz")
    judged(clip, shapes, tmp_path / "file", concepts=str(tmp_path / "others.npz"), settings=())
    assert ConceptDistribution.load(tmp_path / "file" / "concepts.npz").sizes.tolist() == [2, 1]
    with pytest.raises(RecipeError, match="holds no clusters of captions but labels"):
        judged(clip, shapes, tmp_path / "no", concepts=str(tmp_path / "label" / "concepts.npz"), settings=())
    with pytest.raises(RecipeError, match="did you mean 'shape'"):
        judged(clip, shapes, tmp_path / "no", concepts="shap", settings=())


def test_without_train_the_concepts_are_those_of_the_split(
    shapes: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(shapes, tmp_path / "data")
    every = (data / "captions.jsonl").read_text().splitlines()
    lines, other = ([line for line in every if f'"split": "{name}"' in line] for name in ("test", "val"))
    (data / "captions.jsonl").write_text("\n".join(lines) + "\n")
    judged(clip, data, tmp_path / "run")
    assert "no train split, so head, mid and tail go by how frequent concepts are in test itself" in (
        capsys.readouterr().out
    )
    assert len(ConceptDistribution.load(tmp_path / "run" / "concepts.npz")) == 2 * len(lines)
    with (data / "captions.jsonl").open("a") as file:  # another split shares the folder and the concepts
        file.writelines(f"{line}\n" for line in other)
    assert judged(clip, data, tmp_path / "run", split_name="val")["split"] == "val"
    assert "head, mid and tail go by the concepts of test" in capsys.readouterr().out
    assert len(ConceptDistribution.load(tmp_path / "run" / "concepts.npz")) == 2 * len(lines)


def test_a_public_data_set_is_judged_by_its_own_rules(clip: Path) -> None:
    from mmts.data.records import Dataset

    def rules(name: str, *settings: str) -> tuple[str, str | None]:
        media = (Medium("1", Path("1.jpg"), ("a",)),)
        recipe = zero_steps(str(clip), Dataset(name, Path("d"), Path("d"), media), None, settings)
        return recipe.data.relevance, recipe.concepts.label

    assert rules("photos") == ("text", None)
    assert rules("photos", "data.relevance=own") == ("own", None)
    assert rules("flickr30k") == rules("coco") == ("own", None)
    assert rules("ek100") == ("graded", "noun")


def test_what_is_no_pair_is_named(shapes: Path, tmp_path: Path) -> None:
    from transformers import SiglipConfig, SiglipModel

    (tmp_path / "empty").mkdir()
    widths = tiny_clip(tmp_path / "widths", "siglip")
    config = SiglipConfig.from_pretrained(widths)
    config.text_config.projection_size = 8
    SiglipModel(config).save_pretrained(widths)
    cases = {
        tiny_backbone(tmp_path / "vit", "vit"): "is a vit model, not a CLIP or SigLIP",
        tmp_path / "empty": "has no config.json",
        widths: "embeds images and text in two spaces, with 16 numbers per image and 8 per caption",
        tmp_path / "gone": "does not exist",
        "./gone": r"\./gone does not exist",
        "runs/demo/gone": "runs/demo/gone does not exist",
    }
    for start, says in cases.items():
        with pytest.raises(RecipeError, match=says):
            judged(start, shapes, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    clip = tiny_clip(tmp_path / "clip")
    with pytest.raises(DataError, match="nothing is in split 'nope'; the splits are: train"):
        judged(clip, shapes, tmp_path / "run", split_name="nope")
    for kind, file, says in (
        ("image", "1.npy", "holds features, and .* takes pixels"),
        ("video", "1.mp4", "is a video"),
    ):
        (tmp_path / file).touch()
        line = {"id": "1", kind: file, "captions": ["red"], "split": "test"}
        (tmp_path / "captions.jsonl").write_text(json.dumps(line) + "\n")
        with pytest.raises(DataError, match=says):
            judged(clip, tmp_path, tmp_path / "run")


def test_a_name_that_cannot_be_fetched_says_how_to_fetch_it(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        RecipeError, match=r"call `hf download --local-dir FOLDER nobody/no-clip .*give the folder in place of the name"
    ):
        judged("nobody/no-clip", shapes, tmp_path / "run")


def test_the_command_tells_a_run_from_a_pair(
    shapes: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["mmts", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit):
            main()
        printed = capsys.readouterr()
        return printed.out + printed.err

    monkeypatch.chdir(tmp_path)
    assert "metrics: runs/tiny-clip-shapes/metrics.json" in says(clip, "--data", shapes, "--set", *TFIDF)
    run = Path("runs/tiny-clip-shapes")
    assert f"metrics: {run}/evaluations/shapes-val.json" in says(run, "--split", "val")
    assert f"{run} is a run, which keeps its concepts and its recipe" in says(run, "--concepts", "shape")
    assert "has no recipe.yaml); for a pretrained model add --data PATH" in says(clip)
    assert "with --out a run is evaluated anew; for a pretrained model add --data" in says(run, "--out", "new")
    anew = (run, "--data", shapes, "--out", "new", "--checkpoint", "last")
    assert "--checkpoint last is for a run; with --out" in says(*anew)
    assert "metrics: new/metrics.json" in says(run, "--data", shapes, "--out", "new", "--concepts", "shape")


# --- embeddings of anyone's -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(shapes: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The embeddings of a pair, as --save-embeddings writes them, and the pair's metrics."""
    folder = tmp_path_factory.mktemp("stored")
    metrics = judged(clip, shapes, folder / "run", embeddings_file=folder / "e.npz")
    return folder / "e.npz", metrics


def changed(stored: Path, file: Path, drop: tuple[str, ...] = (), **arrays: Any) -> Path:
    with np.load(stored) as content:
        kept = {name: content[name] for name in content.files if name not in drop}
    np.savez(file, **{**kept, **{name: change(kept[name].copy()) for name, change in arrays.items()}})
    return file


def test_embeddings_score_as_their_model_does(
    stored: tuple[Path, dict[str, Any]], shapes: Path, tmp_path: Path
) -> None:
    file, metrics = stored
    assert judged(file, shapes, tmp_path / "run") == metrics
    assert evaluate(tmp_path / "run") == metrics
    bare = changed(file, tmp_path / "bare.npz", ("owner", "media_id", "text_id", "caption", "split"))
    assert judged(bare, shapes, tmp_path / "bare") == metrics  # rows in file order
    for use in (load_model, lambda run: build_index(run.path, shapes / "images")):
        with pytest.raises(RecipeError, match=r"holds embeddings, not a model: `mmts evaluate` takes it"):
            use(RunDirectory(tmp_path / "run"))


def test_rows_are_found_by_their_ids(stored: tuple[Path, dict[str, Any]], shapes: Path, tmp_path: Path) -> None:
    file, metrics = stored
    back = np.arange(5)[::-1]
    moved: dict[str, Any] = {
        name: lambda rows: rows[::-1] for name in ("text", "text_id", "caption", "media_id", "media")
    }
    moved["owner"] = lambda owner: back[owner[::-1]]
    assert judged(changed(file, tmp_path / "moved.npz", **moved), shapes, tmp_path / "run") == metrics


def test_a_medium_without_a_row_is_left_out_if_it_may_be(
    stored: tuple[Path, dict[str, Any]], shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer: dict[str, Any] = {"media": lambda rows: rows[1:], "media_id": lambda rows: rows[1:]}
    fewer |= {name: lambda rows: rows[2:] for name in ("text", "text_id", "caption")}
    fewer["owner"] = lambda owner: owner[2:] - 1
    file = changed(stored[0], tmp_path / "fewer.npz", **fewer)
    with pytest.raises(DataError, match=r"media_id lacks 1 of the 5 media of split 'test'"):
        judged(file, shapes, tmp_path / "run")
    metrics = judged(file, shapes, tmp_path / "run", settings=(*TFIDF, "data.max_unreadable=.2"))
    assert (metrics["num_media"], metrics["num_captions"]) == (4, 8)
    assert "has no row for it" in capsys.readouterr().out


def at(row: int, value: Any) -> Any:
    def change(rows: Any) -> Any:
        rows[row] = value
        return rows

    return change


@pytest.mark.parametrize(
    ("arrays", "drop", "says"),
    [
        ({"media": at(3, np.nan)}, (), "array 'media': row 3 is NaN or infinite"),
        ({"text": at(7, 0)}, (), "array 'text': row 7 is all zeros, so it has no direction"),
        ({"media": lambda rows: rows[1:]}, (), r"'media' has the shape \(4, 12\), and split 'test' has 5 media"),
        ({"text": lambda rows: rows[1:]}, ("text_id",), r"'text' has the shape \(9, 12\).* has 10 captions"),
        ({"text": lambda rows: rows[:, 0]}, (), r"'text' has the shape \(10,\)"),
        ({"text": lambda rows: rows[:, 1:]}, (), "media are 12 numbers wide and text 11"),
        ({"media": lambda rows: rows.astype(int)}, (), "'media' holds int64; it must be float16"),
        ({"media_id": at(2, "x")}, (), "media_id lacks 1 of the 5 media"),
        ({"media_id": lambda ids: ids[1:]}, (), "media_id"),
        ({"text_id": at(4, "x#0")}, (), "text_id: row 4 is 'x#0', which split 'test' does not have"),
        ({"text_id": lambda ids: ids[[0, 0, *range(2, 10)]]}, (), "text_id: '7#0' is in row 0 and in row 1"),
        ({"owner": at(6, 0)}, (), "owner: row 6 is 0, and by the data it is 3"),
        ({"caption": at(5, "a cat")}, (), "caption: row 5 is 'a cat', and by the data it is .* of other data"),
        ({"owner": lambda rows: rows[1:]}, (), r"'owner' has the shape \(9,\); it must be \(10,\)"),
        ({}, ("text",), "has no array 'text'"),
        ({"media": lambda rows: rows.astype(object)}, (), "the array 'media' cannot be read .*Python objects"),
    ],
)
def test_wrong_embeddings_name_the_array_and_the_row(
    arrays: dict[str, Any], drop: tuple[str, ...], says: str, stored: tuple[Path, dict[str, Any]], shapes: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(DataError, match=says):
        judged(changed(stored[0], tmp_path / "e.npz", drop, **arrays), shapes, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_ids_may_be_bytes(stored: tuple[Path, dict[str, Any]], shapes: Path, tmp_path: Path) -> None:
    in_bytes = changed(stored[0], tmp_path / "e.npz", media_id=lambda ids: np.char.encode(ids, "utf-8"))
    assert judged(in_bytes, shapes, tmp_path / "run") == stored[1]
    wrong = changed(stored[0], tmp_path / "e.npz", media_id=lambda ids: np.array([b"\xe9"] * len(ids)))
    with pytest.raises(DataError, match="the array 'media_id' cannot be read as numbers or strings"):
        judged(wrong, shapes, tmp_path / "no")


def test_a_damaged_archive_is_named(stored: tuple[Path, dict[str, Any]], shapes: Path, tmp_path: Path) -> None:
    with np.load(stored[0]) as content:
        np.savez_compressed(tmp_path / "e.npz", **content)
    whole = (tmp_path / "e.npz").read_bytes()
    for at in range(0, len(whole), 151):  # numpy, zipfile and zlib each have errors of their own
        (tmp_path / "e.npz").write_bytes(
            whole[:at] + bytes(255 - byte for byte in whole[at : at + 3]) + whole[at + 3 :]
        )
        with suppress(DataError):
            split_of_embeddings(tmp_path / "e.npz")
        with suppress(DataError):
            read_embeddings(tmp_path / "e.npz", read_dataset(shapes).split("test"), Data())


def test_a_file_that_is_no_archive_is_named(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "e.npz").write_bytes(b"not an archive")
    for name, says in (("e.npz", "cannot be read"), ("gone.npz", "does not exist.* it must be an .npz file")):
        with pytest.raises(DataError, match=says):
            judged(tmp_path / name, shapes, tmp_path / "run")
