"""Interpolating between start and result: the curve, its ends, its best as a checkpoint, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from models.tiny_models import tiny_clip
from tests_support import draw_shapes
from torch import Tensor
from typer.testing import CliRunner

from mmts.cli import app
from mmts.errors import DataError, InputError, RunError
from mmts.evaluation.interpolate import interpolate, interpolation_tables, parse_shares
from mmts.evaluation.run import evaluate
from mmts.export import export_run
from mmts.models import TwoTower, embed_media, embed_text
from mmts.models.trainable import merge_lora
from mmts.recipe.recipe import load_recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.report import write_report
from mmts.report.charts import Line
from mmts.report.interpolation import Curve, in_words, lines_of, read_curve
from mmts.search import build_index
from mmts.search.query import open_searcher
from mmts.training.checkpoint import load_checkpoint
from mmts.training.experiment import build_model, load_model
from mmts.training.run import train
from mmts.training.splits import open_data
from mmts.training.start import open_pair

SETTINGS = ["concepts.encoder=tfidf", "concepts.num_concepts=4", "train.batch_size=12", "train.trackers=[]"]
SETTINGS += ["train.epochs=null", "train.steps=4", "model.head.hidden=16", "train.learning_rate=.02"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets, shapes and others, a pretrained pair, and runs from it by what trains: head, lora, all."""
    root = tmp_path_factory.mktemp("interpolate")
    draw_shapes(root / "shapes")
    draw_shapes(root / "others", 30)
    tiny_clip(root / "clip")
    for form in ("head", "lora", "all"):
        forms = [f"model.start={root / 'clip'}", f"model.image.train={form}", f"model.text.train={form}"]
        train(load_recipe("catalogue", [*SETTINGS, *forms]).with_data(root / "shapes"), root / form)
    return root


def embeddings(model: TwoTower, data: Path) -> tuple[Tensor, Tensor]:
    split = open_data(load_recipe("catalogue").data, data).split("val")
    return embed_media(model, split.media), embed_text(model, split.captions)


def test_shares_are_listed_with_an_ellipsis_or_without() -> None:
    assert parse_shares("0,0.1,...,1") == [round(0.1 * k, 9) for k in range(11)]
    assert parse_shares("0, .25 ,1") == [0, 0.25, 1]
    assert parse_shares("1,.5,...,0") == [0, 0.5, 1]
    assert parse_shares(".5") == [0.5]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0,1.5", "'1.5' is not a number from 0"),
        ("0,-0.1,...,1", "'-0.1' is not a number"),
        ("nan", "'nan' is not a number"),
        ("0,x,1", "'x' is not a number"),
        ("0,,1", "'' is not a number"),
        ("0,...,1", "stands between two values and the last"),
        ("0,.1,...", "stands between two values and the last"),
        ("0,.3,...,1", "steps from 0 to 0.3 do not lead to 1"),
        ("0,0,...,1", "steps from 0 to 0 do not lead to 1"),
        ("0,1e-9,...,1", "do not lead to 1"),
    ],
)
def test_shares_that_cannot_be_read_are_named(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_shares(text)


@pytest.mark.parametrize("form", ["head", "lora", "all"])
def test_the_ends_of_the_curve_are_the_pair_and_the_tuned_model(form: str, root: Path) -> None:
    run = root / form
    curve = interpolate(run, [0.0, 0.5, 1.0], [root / "others"])
    assert json.loads((run / "interpolation.json").read_text()) == curve
    assert [*curve["data"]] == ["val", "others test"]
    for name, data, split in (("val", root / "shapes", "val"), ("others test", root / "others", "test")):
        first, _, last = curve["data"][name]["points"]
        tuned = evaluate(run, data, split)
        for direction in ("text_to_image", "image_to_text"):
            assert last[direction] == tuned[direction]
        assert ("groups" in last) == (name == "val")
        recipe = load_recipe("catalogue", [*SETTINGS, f"model.start={root / 'clip'}", "train.steps=0"])
        untouched = root / f"{form}-untouched"
        if not untouched.exists():
            train(recipe.with_data(root / "shapes"), untouched)
        assert first["text_to_image"] == evaluate(untouched, data, split)["text_to_image"]
    points = curve["data"]["val"]["points"]
    groups = evaluate(run, root / "shapes", "val")["groups"]
    assert any(groups.values())
    for name, figures in groups.items():
        assert (figures and figures["text_to_image"]) == (points[2]["groups"][name] or {}).get("text_to_image")
    scores = [sum(point[side]["R@1"] for side in ("text_to_image", "image_to_text")) / 2 for point in points]
    assert curve["best"] == {"share": [0.0, 0.5, 1.0][scores.index(max(scores))], "score": max(scores)}


def test_a_share_of_lora_is_the_same_share_of_its_merged_layers(root: Path) -> None:
    interpolate(root / "lora", [0.3])
    run = RunDirectory(root / "lora")
    mixed, tuned, pair = load_model(run, (), "interpolated"), load_model(run), open_pair(str(root / "clip"))
    for model in (mixed, tuned):
        for side in (model.media_tower, model.text_tower):
            merge_lora(side)
    before, after = dict(pair.named_parameters()), dict(tuned.named_parameters())
    for name, value in mixed.named_parameters():
        if "_tower" in name:
            assert torch.allclose(value, 0.7 * before[name] + 0.3 * after[name], atol=1e-6)
    assert any(not torch.equal(value, before[name]) for name, value in after.items() if "_tower" in name)


def test_the_best_is_a_checkpoint_that_others_take_by_name(root: Path, tmp_path: Path) -> None:
    run = root / "head"
    interpolate(run, [0.4])
    state = load_checkpoint(run / "checkpoints" / "interpolated.pt")
    assert state["share"] == 0.4
    expected = build_model(RunDirectory(run).recipe().model, (), RunDirectory(run))
    ends = [load_checkpoint(run / "checkpoints" / f"{name}.pt")["model"] for name in ("start", "best")]
    expected.load_trainable_state_dict({name: 0.6 * ends[0][name] + 0.4 * ends[1][name] for name in ends[0]})
    models = (load_model(RunDirectory(run), (), "interpolated"), expected)
    for ours, theirs in zip(*(embeddings(model, root / "shapes") for model in models), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)

    judged = evaluate(run, root / "shapes", "val", "interpolated")
    assert judged["checkpoint"] == "interpolated"
    point = json.loads((run / "interpolation.json").read_text())["data"]["val"]["points"][0]
    assert judged["image_to_text"] == point["image_to_text"]

    build_index(run, root / "shapes" / "images", tmp_path / "index", "interpolated")
    assert open_searcher(run, tmp_path / "index", "interpolated").by_text("red", 1)
    with pytest.raises(RunError, match="was made by another run, or by another checkpoint"):
        open_searcher(run, tmp_path / "index")
    with pytest.raises(RunError, match="best, last or interpolated, not 'start'"):
        build_index(run, root / "shapes" / "images", tmp_path / "index", "start")
    assert export_run(run, "onnx", tmp_path / "export", "interpolated").is_dir()


def test_the_table_fits_a_terminal(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mmts.console import console

    figures = {"R@1": 100.0, "R@5": 99.9, "R@10": 100.0, "median_rank": 1.0}
    sides = {"text_to_image": figures, "image_to_text": figures}
    point = {"share": 0.125, **sides, "groups": dict.fromkeys(("head", "mid", "tail"), sides)}
    data = {"val": {"num_media": 5, "num_captions": 9, "points": [point]}}
    console.width = 80
    try:
        for table in interpolation_tables({"data": data, "best": {"share": 0.125}, "measure": "tail R@10"}):
            console.print(table)
    finally:
        console._width = None
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    row = next(line for line in out.splitlines() if "0.125*" in line)
    assert row.split() == ["0.125*", *["100", "99.9", "100"] * 2, "100", "100", "100"]


def test_what_cannot_be_interpolated_is_named(root: Path, tmp_path: Path) -> None:
    train(load_recipe("catalogue", [*SETTINGS, "train.steps=1"]).with_data(root / "shapes"), tmp_path / "plain")
    with pytest.raises(RunError, match=r"no start to interpolate with: its recipe has no model\.start"):
        interpolate(tmp_path / "plain", [0.5])
    (tmp_path / "plain" / "checkpoints" / "start.pt").write_bytes(
        (root / "head" / "checkpoints" / "start.pt").read_bytes()
    )
    with pytest.raises(RunError, match=r"start\.pt (lacks|also has|has the weight).*the start of another run"):
        interpolate(tmp_path / "plain", [0.5])
    with pytest.raises(RunError, match="names what it mixes: best or last"):
        interpolate(root / "head", [0.5], checkpoint="interpolated")
    with pytest.raises(RunError, match=r"no checkpoint .*interpolated\.pt; `mmts evaluate .* makes it"):
        load_model(RunDirectory(tmp_path / "plain"), (), "interpolated")
    lines = (root / "shapes" / "captions.jsonl").read_text().replace('"val"', '"train"')
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "images").symlink_to(root / "shapes" / "images")
    (bare / "captions.jsonl").write_text(lines)
    train(load_recipe("catalogue", [*SETTINGS, f"model.start={root / 'clip'}"]).with_data(bare), tmp_path / "no-val")
    with pytest.raises(DataError, match="no val split, and the best interpolation has to be chosen on something"):
        interpolate(tmp_path / "no-val", [0.5])


def test_the_command_prints_json_and_refuses_what_it_would_ignore(root: Path) -> None:
    def call(*options: str) -> object:
        return CliRunner().invoke(app, ["evaluate", str(root / "head"), *options], catch_exceptions=True)

    result = call("--interpolate", "0,0.5,...,1", "--also", str(root / "others"), "--json")
    assert [point["share"] for point in json.loads(result.output)["data"]["others test"]["points"]] == [0, 0.5, 1]
    for options in (["--interpolate", "0,1", "--split", "test"], ["--also", str(root / "others")]):
        assert "--also" in str(call(*options).exception)


def test_a_run_that_fails_before_its_first_step_leaves_nothing(root: Path, tmp_path: Path) -> None:
    recipe = load_recipe("catalogue", [*SETTINGS, f"model.start={root / 'clip'}"]).with_data(root / "shapes")

    class Boom(Exception):
        pass

    def boom(*_: object) -> None:
        assert (tmp_path / "run" / "checkpoints" / "start.pt").exists()
        raise Boom

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmts.training.trainer.Trainer._take_steps", boom)
        with pytest.raises(Boom):
            train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    stale = tmp_path / "run" / "checkpoints" / "start.pt"
    stale.parent.mkdir(parents=True)
    stale.touch()
    (tmp_path / "run" / "recipe.yaml").write_text("name: killed before its first step\n")
    train(load_recipe("catalogue", [*SETTINGS, "train.steps=1"]).with_data(root / "shapes"), tmp_path / "run")
    assert not stale.exists()


def test_the_report_draws_the_curve_and_says_what_was_forgotten(root: Path, tmp_path: Path) -> None:
    run = root / "all"
    interpolate(run, [0.0, 0.5, 1.0], [root / "others"])
    evaluate(run, checkpoint="interpolated")
    page = write_report([run], tmp_path / "report.html").read_text()
    assert "What was forgotten: between start and result of" in page
    assert "On others test, it goes from" in page.replace("\N{NO-BREAK SPACE}", " ")
    assert page.count("a, the share of the tuned weights") >= 2
    assert "--interpolate 0,0.5,1" in page
    assert "--checkpoint interpolated" in page


def test_curves_of_several_seeds_are_averaged() -> None:
    def lines(*runs: dict[float, float]) -> tuple[list[Line], list[str]]:
        curves = [Curve(tuple(run), max(run, key=lambda a: run[a]), {"val": tuple(run.values())}) for run in runs]
        drawn = lines_of(curves)
        return drawn, in_words(drawn, sorted({curve.best for curve in curves}), "R@1", len(curves))

    (line,), words = lines({0: 10, 0.5: 20, 1: 16}, {0: 10, 0.5: 22, 1: 24})
    assert (line.mean, line.low, line.high) == ([10, 21, 20], [10, 20, 16], [10, 22, 24])
    assert words == [
        "On val, R@1 (mean over 2 seeds) goes from 10.0 % at a = 0 to 20.0 % at a = 1; each seed kept its own best, "
        "a = 0.5 and 1."
    ]
    assert lines({0: 10, 1: 5})[1] == [
        "On val, R@1 goes from 10.0 % at a = 0 to 5.0 % at a = 1; it is 10.0 % at a = 0, the best, which was kept."
    ]


def test_a_curve_of_somebody_else_is_not_trusted(root: Path, tmp_path: Path) -> None:
    run = root / "head"
    interpolate(run, [0.0, 1.0], [root / "others"])
    hostile = json.loads((run / "interpolation.json").read_text())
    hostile["data"]["<script>alert(1)</script>"] = hostile["data"].pop("others test")
    (run / "interpolation.json").write_text(json.dumps(hostile))
    page = write_report([run], tmp_path / "report.html").read_text()
    assert "What was forgotten" in page
    assert "<script>alert" not in page
    broken = [dict(hostile, best=best) for best in ({}, {"share": 0.5}, {"share": "x"})]
    huge, short = json.loads(json.dumps(hostile)), json.loads(json.dumps(hostile))
    huge["data"]["val"]["points"][0]["text_to_image"]["R@1"] = 1e300
    short["data"]["val"]["points"].pop()
    for content in ("[1]", "{", "[" * 100_000, *map(json.dumps, [*broken, huge, short])):
        (run / "interpolation.json").write_text(content)
        assert read_curve(RunDirectory(run), "R@1") is None
    (run / "interpolation.json").unlink()
    assert read_curve(RunDirectory(run), "R@1") is None
