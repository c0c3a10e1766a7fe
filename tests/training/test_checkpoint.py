"""Checkpoints: what was saved comes back, a damaged or dangerous file is refused, a failed write loses nothing."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from mmts.errors import RunError
from mmts.training.checkpoint import load_checkpoint, random_state, restore_random_state, save_checkpoint


def test_a_checkpoint_reads_back(tmp_path: Path) -> None:
    state = {"model": {"w": torch.randn(3)}, "step": 7, "best": -float("inf"), "random": random_state()}
    save_checkpoint(tmp_path / "c.pt", state)
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert torch.equal(loaded["model"]["w"], state["model"]["w"])
    assert (loaded["step"], loaded["best"]) == (7, -float("inf"))


def test_random_numbers_go_on_where_they_were() -> None:
    state = random_state()
    expected = torch.rand(3)
    restore_random_state(state)
    assert torch.equal(torch.rand(3), expected)


def test_a_missing_or_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no checkpoint .*c\.pt"):
        load_checkpoint(tmp_path / "c.pt")
    save_checkpoint(tmp_path / "c.pt", {"w": torch.zeros(1000)})
    whole = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "c.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match=r"c\.pt cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / "c.pt")


class Dangerous:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch harmed",)


def test_a_checkpoint_is_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.pt").write_bytes(pickle.dumps(Dangerous()))
    with pytest.raises(RunError, match="cannot be read"):
        load_checkpoint(tmp_path / "c.pt")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("error", [RuntimeError("unexpected pos 64 vs 0"), OSError(28, "No space left on device")])
def test_a_failed_write_keeps_the_old_checkpoint_and_names_the_file(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "c.pt", {"step": 1})

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=r"disk full|No space left") as raised:
        save_checkpoint(tmp_path / "c.pt", {"step": 2})
    assert str(raised.value.filename) == str(tmp_path / "c.pt")
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "c.pt") == {"step": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["c.pt"]
