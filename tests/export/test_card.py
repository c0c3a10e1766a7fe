"""The model card of an export and its way to the hub, of which a stub takes the place: no test needs a network."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from small_runs import Runs
from typer.testing import CliRunner

from mmts.cli import app
from mmts.errors import RunError
from mmts.export import export_run
from mmts.export.card import escaped
from mmts.recipe.run_directory import RunDirectory


class Hub:
    """What HfApi does, for an account `ann` of the group `lab`, with what was asked of it."""

    repositories: dict[str, bool]  # whether each is private
    role = "write"
    uploads: list[tuple[str, set[str]]]
    fails = False

    def __init__(self) -> None:
        self.repositories, self.uploads = {"ann/open": False, "ann/closed": True}, []

    def whoami(self) -> dict[str, Any]:
        return {"name": "ann", "orgs": [{"name": "lab"}], "auth": {"accessToken": {"role": self.role}}}

    def repo_exists(self, name: str) -> bool:
        return name in self.repositories

    def model_info(self, name: str) -> Any:
        return SimpleNamespace(private=self.repositories[name])

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> str:
        assert exist_ok
        self.repositories.setdefault(name, private)
        return f"https://huggingface.co/{name}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        if self.fails:
            raise OSError("the line is dead\nat byte 7")
        self.uploads.append((repo_id, {str(file.relative_to(folder_path)) for file in folder_path.rglob("*")}))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: made)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    return made


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if an export begins its work."""
    monkeypatch.setattr("mmts.export.command.load_model", lambda *args, **options: pytest.fail("it has begun"))


def front_of(folder: Path) -> tuple[dict[str, Any], str]:
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_card_says_what_the_run_was_and_how_good(runs: Runs, tmp_path: Path) -> None:
    run = runs("words")
    front, text = front_of(export_run(run, "onnx", tmp_path / "out", license="cc-by-4.0"))
    about = {name: front[name] for name in ("license", "library_name", "pipeline_tag", "tags")}
    assert about == {
        "license": "cc-by-4.0", "library_name": "onnx", "pipeline_tag": "feature-extraction",
        "tags": ["mmts", "image-text-retrieval", "long-tail"],
    }  # fmt: skip
    metrics = json.loads(RunDirectory(run).metrics_file.read_text())
    tail = metrics["groups"]["tail"]
    cells = " | ".join(f"{tail['text_to_image'][measure]:.1f}" for measure in ("R@1", "R@5", "R@10"))
    assert f"| tail | {tail['num_queries']} | {cells} |" in text
    results = ModelCard.load(tmp_path / "out" / "README.md").data.eval_results
    values = {result.metric_name: result.metric_value for result in results}
    assert values["R@1 text→image, tail"] == pytest.approx(tail["text_to_image"]["R@1"], abs=0.01)
    assert {result.dataset_name for result in results} == {"shapes"}
    versions = yaml.safe_load((run / "recipe.yaml").read_text())["versions"]
    assert escaped(f"torch {versions['torch']}") in text
    assert "squares of 16 × 16 pixels" in text
    assert "mmts train mmts-recipe.yaml --data shapes --out run\n" in text
    assert "mmts export run --to onnx --checkpoint best\n" in text
    assert not [file.name for file in (tmp_path / "out").iterdir() if str(tmp_path.parent) in file.read_text("latin-1")]


@pytest.mark.parametrize("to", ["huggingface", "sentence-transformers"])
def test_every_format_has_a_card_and_says_how_images_are_resized(runs: Runs, tmp_path: Path, to: str) -> None:
    folder = export_run(runs("clip"), to, tmp_path / "out")
    front, text = front_of(folder)
    assert front["license"] == "unknown"
    assert "base_model" not in front  # it came from a folder of this machine
    assert "No license was named" in text
    assert "cut to their central square" in text
    media = json.loads((folder / "export.json").read_text())["media"]
    assert (media["resize"], media["size"], media["interpolation"]) == ("crop", 32, "bicubic")


def test_foreign_text_stays_text(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "x\n---\nlicense: mit\n# <script>alert(1)</script> | [a](http://b) `c`"
    recipe = RunDirectory.recipe

    def renamed(self: RunDirectory) -> Any:
        found = recipe(self)
        data = found.data.model_copy(update={"path": Path("/secret", evil.replace("/", "\N{DIVISION SLASH}"))})
        return found.model_copy(update={"name": evil, "data": data})

    monkeypatch.setattr(RunDirectory, "recipe", renamed)
    monkeypatch.setattr(RunDirectory, "versions", lambda self: {"torch": evil})
    front, text = front_of(export_run(runs("words"), "onnx", tmp_path / "out"))
    assert front["license"] == "unknown"
    prose = re.sub(r"```.*?\n```", "", text, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)[<\[`]script|(?<!\\)<|(?<!\\)\]\(|https?:", prose.replace("`FOLDER`", ""))
    assert len(re.findall(r"^# ", text, flags=re.MULTILINE)) == 1
    assert text.count("\n```") == 4
    files = [tmp_path / "out" / name for name in ("README.md", "mmts-recipe.yaml")]
    assert not [file.name for file in files if "secret" in file.read_text()]


def test_push_is_private_unless_asked_and_takes_the_whole_export(
    runs: Runs, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(runs("words"))
    command = ["export", run, "--to", "onnx", "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert hub.uploads == []  # never unasked
    hub.fails = True
    with pytest.raises(RunError, match=r"out is whole, but cannot be pushed to ann/shoes: the line is dead; the same"):
        export_run(Path(run), "onnx", tmp_path / "out", push="shoes")
    hub.fails = False
    made = (tmp_path / "out" / "export.json").stat().st_mtime_ns
    assert CliRunner().invoke(app, [*command, "--push", "shoes"]).exit_code == 0
    assert (tmp_path / "out" / "export.json").stat().st_mtime_ns == made  # pushed as it is
    assert hub.repositories["ann/shoes"]
    assert hub.uploads == [("ann/shoes", {file.name for file in (tmp_path / "out").iterdir()})]
    assert {"README.md", "text.onnx", "mmts-recipe.yaml"} < hub.uploads[0][1]
    export_run(Path(run), "onnx", tmp_path / "out", push="lab/shoes", public=True)
    assert hub.repositories["lab/shoes"] is False
    export_run(Path(run), "onnx", tmp_path / "out", push="closed", public=True)
    said = " ".join(capsys.readouterr().out.split())
    assert "ann/closed is there already and stays private" in said
    assert "pushed: https://huggingface.co/ann/closed (private)" in said
    with pytest.raises(FileExistsError):  # a card with another license is another export
        export_run(Path(run), "onnx", tmp_path / "out", push="shoes", license="mit")


@pytest.mark.usefixtures("untouched")
def test_what_cannot_be_pushed_is_said_before_the_work(
    runs: Runs, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(says: str, **options: Any) -> None:
        with pytest.raises(RunError, match=says):
            export_run(runs("words"), "onnx", tmp_path / "out", **options)

    refused("--license is an identifier of the hub, such as apache-2.0", license="MIT: yes")
    refused("give --push NAME too", public=True)
    refused("--push a/b/c: the owner is not ann or lab", push="a/b/c")
    refused("ann/open is a public repository already: give --public", push="open")
    refused("--push bob/shoes: the owner is not ann or lab", push="bob/shoes")
    hub.role = "read"
    refused("token of Hugging Face that may write.*the present one may only read", push="shoes")
    monkeypatch.setattr(hub, "whoami", lambda: 1 / 0)
    refused("--push shoes: the hub cannot be asked: division by zero", push="shoes")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    refused("--push needs a token of Hugging Face that may write: `hf auth login`", push="shoes")
    assert hub.uploads == []
    assert not (tmp_path / "out").exists()
