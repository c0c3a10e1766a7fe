"""Checkpoints: what was saved comes back, a damaged or dangerous file is refused, a failed write loses nothing."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from mmts.errors import RunError
from mmts.training.checkpoint import (
    load_checkpoint,
    load_newest,
    random_state,
    restore_random_state,
    save_checkpoint,
    save_in_turn,
)


def test_a_checkpoint_reads_back(tmp_path: Path) -> None:
    state = {"model": {"w": torch.randn(3)}, "step": 7, "best": -float("inf"), "random": random_state()}
    save_checkpoint(tmp_path / "c.pt", state)
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert torch.equal(loaded["model"]["w"], state["model"]["w"])
    assert (loaded["step"], loaded["best"]) == (7, -float("inf"))


def test_random_numbers_continue_from_a_restored_state() -> None:
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


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    for step in (1, 2, 3):
        save_in_turn(tmp_path, {"step": step})
    assert [load_checkpoint(tmp_path / name)["step"] for name in ("last.pt", "previous.pt")] == [3, 2]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "missing", "swapped for a list"])
def test_a_damaged_checkpoint_is_skipped_with_a_note(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        save_in_turn(tmp_path, {"w": torch.full((1000,), float(step)), "step": step})
    last = tmp_path / "last.pt"
    whole = last.read_bytes()
    if damage == "cut":
        last.write_bytes(whole[:-100])
    elif damage == "flipped":  # one bit of one weight, which torch.load takes
        at = whole.index(torch.full((10,), 2.0).numpy().tobytes())
        last.write_bytes(whole[: at + 3] + bytes([whole[at + 3] ^ 1]) + whole[at + 4 :])
        assert torch.load(last, weights_only=True)["w"][0] != 2
    elif damage == "empty":
        last.write_bytes(b"")
    elif damage == "missing":
        last.unlink()
    else:
        torch.save([1, 2], last)
    state = load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 1
    assert state["w"].eq(1).all()
    said = " ".join(capsys.readouterr().err.split())
    assert "last.pt" in said
    assert "resuming from the one before it, previous.pt" in said


def test_two_damaged_checkpoints_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"PK")
    with pytest.raises(RunError, match="there is none before it; remove it, and --resume starts over"):
        load_newest(tmp_path)
    (tmp_path / "previous.pt").write_bytes(b"PK")
    with pytest.raises(RunError, match=r"previous\.pt cannot be read"):
        load_newest(tmp_path)


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", {"step": 1})
    (tmp_path / ".last.pt.abcd_123.tmp").write_bytes(b"half")
    (tmp_path / ".notes.tmp").write_bytes(b"someone's own")
    assert load_newest(tmp_path) == {"step": 1}
    assert sorted(each.name for each in tmp_path.iterdir()) == [".notes.tmp", "last.pt"]


def test_a_compressed_file_is_not_read_as_a_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", {"w": torch.zeros(10_000)})
    with zipfile.ZipFile(tmp_path / "c.pt") as parts, zipfile.ZipFile(tmp_path / "bomb.pt", "w", 8) as bomb:
        for part in parts.namelist():
            bomb.writestr(part, parts.read(part))
    with pytest.raises(RunError, match="cannot be read"):
        load_checkpoint(tmp_path / "bomb.pt")
