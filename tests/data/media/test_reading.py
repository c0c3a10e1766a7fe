"""What Pillow warns of is kept with the file's name, and told once."""

import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from tests_support import draw_shapes

from mmts.data.media import reading
from mmts.data.media.image import load_image
from mmts.data.media.reading import kept_warnings, tell_warnings


@pytest.fixture(autouse=True)
def nothing_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_first_warnings", {})


def odd_exif(path: Path) -> Path:
    """Write a picture that Pillow warns of when its EXIF data are looked at."""
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = 6, "camera"
    Image.new("RGB", (16, 16)).save(path, exif=exif)
    content = bytearray(path.read_bytes())
    content[content.index(b"Exif") + 14] = 0xFF
    path.write_bytes(content)
    return path


def test_warnings_are_counted_by_file_and_printed_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    paths = [odd_exif(tmp_path / f"{at}.jpg") for at in range(6)]
    Image.new("RGB", (16, 16)).save(tmp_path / "right.jpg")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load_image, [*paths, tmp_path / "right.jpg", *paths]))
    assert capfd.readouterr() == ("", "")
    tell_warnings()
    tell_warnings()
    said = capfd.readouterr().out
    assert said.startswith(f"note: 6 files read with a warning, the first: {tmp_path}")
    assert said.count("\n") == 1
    assert "orrupt EXIF data" in said


def test_each_thread_keeps_its_own(tmp_path: Path):
    def warn(name: str) -> None:
        with kept_warnings(name):
            warnings.warn(f"about {name}", stacklevel=1)

    names = [f"file {at}" for at in range(50)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(warn, names))
    assert reading._first_warnings == {name: f"about {name}" for name in names}


def test_other_warnings_are_shown_as_ever():
    with kept_warnings("a file"):
        pass
    with pytest.warns(UserWarning, match="elsewhere"):
        warnings.warn("elsewhere", stacklevel=1)
    assert reading._first_warnings == {}


def test_a_file_that_cannot_be_read_was_not_read_with_a_warning():
    def fail() -> None:
        warnings.warn("odd", stacklevel=1)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), kept_warnings("a file"):
        fail()
    assert reading._first_warnings == {}


def test_a_large_picture_is_no_bomb_below_our_own_limit():
    with kept_warnings("large.png"):
        warnings.warn("90 million pixels", Image.DecompressionBombWarning, stacklevel=1)
    assert reading._first_warnings == {}


@pytest.mark.slow
def test_quiet_commands_print_nothing(tmp_path: Path):
    """In processes of their own, whose warnings nobody collects, with pictures that Pillow warns of."""
    draw_shapes(tmp_path / "shapes")
    (tmp_path / "photos").mkdir()
    odd_exif(tmp_path / "photos" / "odd.jpg")
    shapes, run = tmp_path / "shapes", tmp_path / "run"
    commands = [
        f"analyze {shapes} --encoder tfidf --num-concepts 2 --out {tmp_path / 'analysis'} --quiet",
        f"train catalogue --data {shapes} --out {run} --tiny --quiet",
        f"index {run} {tmp_path / 'photos'} --quiet",
    ]
    code = "import sys; from mmts.cli import app; [app(each.split(), standalone_mode=False) for each in sys.argv[1:]]"
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code, *commands],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")
