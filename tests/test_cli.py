"""The command line as a person meets it: quick help, one clear line for every mistake, a whole session on a folder."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tests_support import draw_shapes

from mmts.cli import app, main
from mmts.console import console, errors
from mmts.recipe.recipe import load_recipe

TINY = [
    part
    for setting in (
        "model.image={tower: small-resnet, train: all, size: 16, options: {channels: 8, depth: 1}}",
        "model.text={tower: small-transformer, train: all, options: {width: 16, depth: 1, heads: 2}}",
        "concepts={encoder: tfidf, num_concepts: 3}",
        "model.width=16",
        "train.epochs=1",
        "train.batch_size=16",
        "train.trackers=[]",
    )
    for part in ("--set", setting)
]


def mmts(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["mmts", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_help_is_quick_and_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['mmts', '--help']\n"
        "from mmts.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'transformers', 'pydantic'} & set(sys.modules)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 3  # .2 s on an idle machine
    for command in (
        "demo",
        "analyze",
        "train",
        "evaluate",
        "compare",
        "report",
        "recipes",
        "prepare",
        "sweep",
        "doctor",
        "index",
        "search",
        "export",
    ):
        assert command in done.stdout


def test_the_flags_are_those_that_are_documented() -> None:
    from typer.main import get_command

    group = get_command(app)
    flags = {
        name: {flag for parameter in command.params for flag in parameter.opts if flag.startswith("--")}
        - {"--help", "-h"}
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }
    assert flags == {
        "demo": {"--out", "--seeds", "--quiet"},
        "analyze": {
            "--out",
            "--split",
            "--label",
            "--entries",
            "--min-count",
            "--of",
            "--num-concepts",
            "--encoder",
            "--seed",
            "--columns",
            "--captions",
            "--quiet",
            "--json",
        },
        "embed": {
            "--model",
            "--side",
            "--out",
            "--part",
            "--ray",
            "--rows",
            "--split",
            "--columns",
            "--join",
            "--quiet",
            "--trust-code",
        },
        "curate": {
            "--out",
            "--cap",
            "--power",
            "--dedup",
            "--embeddings",
            "--label",
            "--num-concepts",
            "--columns",
            "--seed",
            "--quiet",
        },
        "concepts": {"--num-concepts", "--out", "--part", "--ray", "--column", "--encoder", "--seed", "--quiet"},
        "train": {"--data", "--columns", "--out", "--set", "--resume", "--tiny", "--quiet", "--json"},
        "evaluate": {
            "--data",
            "--out",
            "--concepts",
            "--set",
            "--columns",
            "--split",
            "--checkpoint",
            "--save-embeddings",
            "--label",
            "--classify",
            "--prompts",
            "--interpolate",
            "--also",
            "--trust-code",
            "--quiet",
            "--json",
        },
        "compare": {"--names", "--trust-code", "--json"},
        "report": {"--out", "--names", "--trust-code", "--quiet"},
        "runs": {"--watch", "--json"},
        "recipes": {"--policies", "--json"},
        "prepare": {"--root", "--label", "--imbalance", "--classes", "--total", "--out", "--quiet"},
        "sweep": {"--data", "--out", "--set", "--jobs", "--part", "--ray", "--collect", "--quiet"},
        "doctor": {"--json"},
        "index": {"--out", "--checkpoint", "--trust-code", "--quiet"},
        "search": {
            "--image",
            "--where",
            "--json",
            "--html",
            "--export",
            "--serve",
            "--port",
            "--checkpoint",
            "--index",
            "--trust-code",
        },
        "export": {"--to", "--out", "--checkpoint", "--trust-code", "--quiet"},
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train"], "give --data PATH and mmts picks one"),
        (["train", "--data", "nowhere"], "nowhere does not exist"),
        (["train", "catalogue", "--epochs", "3"], "--epochs"),
        (["train", "catalog", "--data", "x"], "did you mean 'catalogue'?"),
        (["train", "catalogue"], "--data PATH"),
        (["train", "catalogue", "--data", "nowhere"], "nowhere does not exist"),
        (["train", "catalogue", "--set", "train.epoch=3"], "did you mean 'epochs'?"),
        (["evaluate", "nowhere"], "nowhere does not exist"),
        (["compare", "nowhere"], "nowhere does not exist"),
        (["report", "nowhere"], "nowhere"),
        (["runs", "nowhere"], "nowhere does not exist"),
        (["runs", ".", "--watch", "--json"], "leave out --json, or --watch"),
        (["runs", ".", "--watch"], "--watch redraws the table on a terminal"),
        (["recipes", "dmo"], "did you mean 'demo'?"),
        (["analyze", "nowhere"], "nowhere does not exist"),
        (["analyze", "nowhere", "--label", "kind", "--min-count", "2"], "each say what a concept is; give one"),
        (["sweep", "nowhere.yaml"], "nowhere.yaml does not exist; a sweep file is YAML"),
        (["index", "nowhere", "."], "nowhere does not exist"),
        (["search", "nowhere", "a shoe"], "nowhere does not exist"),
        (["search", "nowhere"], "give one of: a text, --image FILE, --serve"),
        (["search", "nowhere", "a shoe", "-k", "0"], "-k"),
        (["export", "nowhere", "--to", "onnx"], "nowhere does not exist"),
        (["export", "nowhere", "--to", "onx"], "did you mean 'onnx'?"),
        (["export", "nowhere"], "--to"),
        (["prepare", "flickr", "--root", "."], "did you mean 'flickr30k'?"),
        (["prepare", "coco"], "--root"),
        (["prepare", "coco", "--root", ".", "--label", "noun"], "takes nothing else"),
        (["prepare", "cut", "nowhere", "--label", "noun"], "needs --label, --imbalance and --out"),
        (["prepare", "cut", "nowhere", "--label", "a", "--imbalance", "2", "--out", "b"], "nowhere does not exist"),
        (["prepare", "coco", "--root", "nowhere"], "nowhere does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mmts(monkeypatch, *arguments) == 2
    message = capsys.readouterr().err
    assert says in message
    assert message.startswith("mmts: ")
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_session_from_analysis_to_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_shapes(Path("photos"), 48)
    assert mmts(monkeypatch, "analyze", "photos", "--encoder", "tfidf", "--num-concepts", 4, "--out", "looked") == 0
    assert {each.name for each in Path("looked").iterdir()} == {"concepts.npz", "long_tail.png"}
    for name, rule in (("a", "fixed"), ("b", "learned")):
        rule_settings = ["--set", f"objective.temperature.rule={rule}", "--set", f"name={rule}"]
        assert mmts(monkeypatch, "train", "catalogue", "--data", "photos", "--out", name, *TINY, *rule_settings) == 0
    assert yaml.safe_load(Path("a/recipe.yaml").read_text())["data"]["path"] == str(tmp_path / "photos")
    ending = capsys.readouterr().out.splitlines()[-3:]
    assert ending[0] == "run: b"
    assert ending[1].startswith("rare things: ")
    assert ending[2] == "to look at it: mmts report b"
    assert mmts(monkeypatch, "runs", ".", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(run["path"], run["state"], run["progress"]) for run in listed] == [(x, "finished", 1) for x in "ab"]
    assert mmts(monkeypatch, "evaluate", "a", "--split", "val", "--save-embeddings", "e.npz") == 0
    assert json.loads(Path("a/evaluations/photos-val.json").read_text())["split"] == "val"
    capsys.readouterr()
    assert mmts(monkeypatch, "compare", "a", "b") == 0
    assert "difference to a, points" in capsys.readouterr().out
    assert mmts(monkeypatch, "compare", "a", "b", "--json") == 0
    fixed, learned = json.loads(capsys.readouterr().out)["groups"]
    assert fixed["gaps"] == {}
    assert set(learned["gaps"]["all"]["text_to_image"]["R@1"]) == {"mean", "low", "high"}
    assert mmts(monkeypatch, "evaluate", "a", "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(Path("a/metrics.json").read_text())
    assert mmts(monkeypatch, "report", "a", "b", "--out", "page.html") == 0
    assert "fixed" in Path("page.html").read_text()
    assert mmts(monkeypatch, "index", "a", "photos") == 0
    capsys.readouterr()
    assert mmts(monkeypatch, "search", "a", "a red bar", "-k", 3, "--json", "--html", "found.html") == 0
    found = json.loads(capsys.readouterr().out)
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3]
    assert Path("found.html").read_text().count("data:image/") == 3
    assert mmts(monkeypatch, "export", "a", "--to", "onnx", "--out", "exported") == 0
    assert "largest difference from the run's embeddings: media " in capsys.readouterr().out
    assert mmts(monkeypatch, "export", "a", "--to", "onnx", "--out", "exported") == 2
    assert "mmts: exported: is there already; remove it" in capsys.readouterr().err
    assert mmts(monkeypatch, "search", "a", "--image", "photos/images/7.png", "-k", 1) == 0
    assert "1.000" in capsys.readouterr().out
    assert mmts(monkeypatch, "train", "catalogue", "--data", "photos", "--out", "a", *TINY) == 2
    assert "--resume" in capsys.readouterr().err


def test_recipes_are_listed_and_printed_so_that_they_can_be_read_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert mmts(monkeypatch, "recipes") == 0
    assert "catalogue" in capsys.readouterr().out
    assert mmts(monkeypatch, "recipes", "catalogue") == 0
    own = tmp_path / "catalogue.yaml"
    own.write_text(capsys.readouterr().out)
    assert load_recipe(own) == load_recipe("catalogue")


def test_with_json_nothing_else_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mmts(monkeypatch, "recipes", "--json") == 0
    assert "catalogue" in json.loads(capsys.readouterr().out)
    assert mmts(monkeypatch, "recipes", "catalogue", "--json") == 0
    assert json.loads(capsys.readouterr().out)["train"]["batch_size"] == 256
    assert mmts(monkeypatch, "recipes", "--policies", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) > 1
    draw_shapes(Path("photos"), 48)
    assert mmts(monkeypatch, "analyze", "photos", "--encoder", "tfidf", "--num-concepts", 4, "--json") == 0
    assert json.loads(capsys.readouterr().out)["concepts"] == 4
    Path("entries.txt").write_text("Red bar\nbar\nred\n")
    assert mmts(monkeypatch, "analyze", "photos", "--entries", "entries.txt", "--of", "commonest", "--json") == 0
    assert {*dict(json.loads(capsys.readouterr().out)["largest"])} == {"red", "bar", "red bar", "no concept"}
    assert mmts(monkeypatch, "train", "catalogue", "--data", "photos", "--json", *TINY) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(Path("runs/catalogue/metrics.json").read_text())
    assert mmts(monkeypatch, "train", "catalogue", "--data", "photos", "--out", "b", "--quiet", *TINY) == 0
    assert capsys.readouterr() == ("", "")
    assert not console.quiet  # the next command speaks again


def test_without_a_recipe_mmts_picks_one_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_shapes(Path("photos"), 48)
    assert mmts(monkeypatch, "train", "--data", "photos", *TINY) == 0
    assert "recipe catalogue: 48 images with captions" in capsys.readouterr().out
    assert Path("runs/catalogue/metrics.json").is_file()


def test_commands_of_one_process_refuse_a_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    assert mmts(monkeypatch, "analyze", "a") == 2
    assert "mmts analyze runs in one process, but a launcher started 4" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(errors, "quiet", False)
    assert mmts(monkeypatch, "analyze", "a") == 2
    assert capsys.readouterr().err == ""  # said once


def test_a_disk_that_cannot_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    draw_shapes(tmp_path / "photos", 48)
    out = Path("/dev/full/run")  # not a folder, and nobody may make one of it
    assert mmts(monkeypatch, "train", "catalogue", "--data", tmp_path / "photos", "--out", out, *TINY) == 2
    message = capsys.readouterr().err
    assert "/dev/full" in message
    assert message.count("\n") == 1
