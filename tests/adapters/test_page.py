"""The code of docs/plug-in.md runs as written, given the names that its reader has: a model, data, captions."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from adapters.made import CAPTIONS, PICTURES
from torch import Tensor, nn

from mmts.objectives import Objective

PAGE = (Path(__file__).parents[2] / "docs" / "plug-in.md").read_text(encoding="utf-8")
MADE, *SECTIONS = PAGE.split("\n## ")


class Towers(nn.Module):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.media, self.text = nn.Linear(6, 4), nn.Linear(5, 4)

    def forward(self, media: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.media(media), self.text(text)


def run(section: str, **names: Any) -> dict[str, Any]:
    """Run how a rule is made, then the code of a section; return all names."""
    names |= {"labels": [each.split()[1] for each in CAPTIONS], "captions": CAPTIONS}
    text = next(each for each in SECTIONS if each.startswith(section + "\n"))
    for block in re.findall(r"```python\n(.*?)```", MADE + text, flags=re.DOTALL):
        exec(compile(block, f"docs/plug-in.md, {section}", "exec"), names)
    return names


def loader() -> Any:
    pairs = [{"media": torch.randn(6), "text": torch.randn(5), "index": i} for i in range(8)]
    return torch.utils.data.DataLoader(pairs, batch_size=4)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_plain_pytorch() -> None:
    names = run("Plain PyTorch", model=Towers(), loader=loader(), epochs=3)
    assert names["step"] == 6
    assert names["loss"].item() > 0


def test_sentence_transformers() -> None:
    pytest.importorskip("datasets")
    from adapters.test_sentence_transformers import text_model

    names = run("sentence-transformers", model=text_model(), media=PICTURES)
    assert names["trainer"].state.global_step == 4
    assert names["loss"].callback.progress == 1


def test_hugging_face() -> None:
    from adapters.test_huggingface import rows
    from adapters.tiny_clip import tiny_clip

    names = run("Hugging Face Trainer", model=tiny_clip(), processed=rows())
    assert names["trainer"].state.global_step == 4


def test_lightning_trains_logs_and_keeps_the_rule(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning", reason="pip install pytorch-lightning")
    from mmts.objectives import InfoNCE, SogCLR
    from mmts.policies import Learned

    names = run("Lightning", model=Towers(), loader=loader())
    trainer, rule = names["trainer"], names["rule"]
    assert trainer.global_step == trainer.estimated_stepping_batches == 4
    last = rule.temperature(3 / 4, torch.arange(4, 8)).mean()
    assert trainer.logged_metrics["temperature"].item() == pytest.approx(last.item())

    again: dict[str, Objective] = {"learned": InfoNCE(Learned()), "sogclr": SogCLR(8, 8, 0.1)}
    for kind, rule in again.items():
        module = names["TwoTowers"](Towers(), rule)
        before = {name: each.clone() for name, each in rule.state_dict().items()}
        settings = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False, "default_root_dir": kind}
        trainer = names["lightning"].Trainer(max_epochs=2, enable_model_summary=False, **settings)
        trainer.fit(module, names["loader"])
        saved = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)["state_dict"]
        assert any(not torch.equal(saved[f"rule.{name}"], each) for name, each in before.items()), kind
        for name, each in rule.state_dict().items():
            assert torch.equal(saved[f"rule.{name}"], each), name


def test_open_clip(tmp_path: Path) -> None:
    from adapters.test_open_clip import KEYS, train, training_data

    data = training_data(tmp_path)
    arguments = SimpleNamespace(epochs=2, accum_freq=1)
    names = run("open_clip", shards=str(tmp_path / "0.tar"), data={"train": data}, args=arguments)
    assert names["pairs"] == list(zip(KEYS, CAPTIONS, strict=True))
    assert len(train(data, names["loss"])) == 8
