"""`mmts doctor` finds what is wrong with an installation and says how to fix it."""

import errno
import importlib
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from mmts.apps import doctor
from mmts.apps.doctor import Finding, examine, judge
from mmts.cli import main
from mmts.errors import RunError


def found(check: str) -> dict[str, Finding]:
    return {finding.what: finding for finding in doctor._run(getattr(doctor, check))}


def test_this_machine_has_what_is_needed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["mmts", "doctor"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for what in ("torch", "device", "threads", "images", "videos", "cache", "mmts is ready to run on this machine"):
        assert what in shown
    assert "wrong" not in shown


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        metadata, "requires", lambda name: ["torch>=99", "no-such-package>=1.0", "pytest>=99; extra == 'dev'"]
    )
    packages = found("_versions")
    assert packages["torch"].state == "wrong"
    assert packages["torch"].fix == "pip install -c constraints.txt 'torch>=99'"
    assert (packages["no-such-package"].state, packages["no-such-package"].found) == ("wrong", "not installed")
    assert "pytest" not in packages  # of an extra


def test_a_torchvision_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("_torchvision") == {} or found("_torchvision")["torchvision"].state in ("ok", "wrong")

    def broken(name: str) -> Any:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(metadata, "version", lambda name: "0.30.0")
    monkeypatch.setattr(importlib, "import_module", broken)
    finding = found("_torchvision")["torchvision"]
    assert finding.state == "wrong"
    assert "nms does not exist" in finding.found
    assert "pip uninstall torchvision" in finding.fix


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = tmp_path / "not" / "yet" / "there"
    monkeypatch.setenv("MMTS_CACHE", str(cache))
    assert found("_disk")["cache"].state in ("ok", "note")
    real = tempfile.TemporaryFile

    def refuse(**options: Any) -> Any:
        if options["dir"] == tmp_path:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(**options)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    finding = found("_disk")["cache"]
    assert finding.state == "wrong"
    assert str(cache) in finding.found
    assert "MMTS_CACHE" in finding.fix


def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    finding = found("_device")["threads"]
    assert (finding.state, finding.found) == ("note", "torch uses 64, and the machine has 2 cores")
    assert "OMP_NUM_THREADS=2" in finding.fix


def test_emulated_bf16_is_ok_with_a_remark_and_what_is_ok_otherwise_has_nothing_to_fix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mmts.devices.has_bf16", lambda device: False)
    finding = found("_device")["bf16"]
    assert (finding.state, finding.found) == ("ok", "emulated")
    assert "slower than fp32" in finding.fix
    monkeypatch.setattr("mmts.devices.has_bf16", lambda device: True)
    findings = [finding for check in doctor.CHECKS for finding in check()]
    assert not [finding for finding in findings if finding.state == "ok" and finding.fix]


def test_failed_checks_end_in_one_line_and_a_check_that_raises_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def _videos() -> Iterator[Finding]:
        raise ImportError("libav is gone")
        yield

    def _images() -> Iterator[Finding]:
        yield Finding("images", "ok", "JPEG")

    monkeypatch.setattr(doctor, "CHECKS", (_videos, _images))
    with pytest.raises(RunError, match="1 of 2 checks failed: videos"):
        judge(examine())


@pytest.mark.parametrize(
    ("system", "lacks"),
    [("linux", []), ("darwin", ["Triton", "fork"]), ("win32", ["Triton", "fork", "file locks"])],
)
def test_what_a_system_lacks_is_a_note(system: str, lacks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", system)
    findings = list(doctor._system())
    assert [finding.what for finding in findings] == lacks
    assert all(finding.state == "note" for finding in findings)
    if system == "win32":
        assert "WSL" in findings[-1].fix
