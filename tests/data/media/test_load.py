import io
import pickle
from pathlib import Path

import numpy as np
import pytest

from mmts.data.media.load import feature_rows, why_unreadable
from mmts.data.records import Medium
from mmts.errors import DataError


def saved(path: Path, values: object) -> Medium:
    np.save(path, np.asarray(values), allow_pickle=True)
    return Medium(path.stem, path, ("x",), kind="video")


def why(path: Path) -> str:
    return str(why_unreadable(Medium("a", path, ("x",))))


def npy_bytes(values: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values))
    return buffer.getvalue()


def test_rows_are_averaged_over_time(tmp_path: Path):
    media = [
        saved(tmp_path / "a.npy", np.array([1, 2, 3], dtype=np.float16)),
        saved(tmp_path / "b.npy", [[0.0, 2.0, 4.0], [2.0, 4.0, 6.0]]),
        saved(tmp_path / "c.npy", [[7, 8, 9]]),
    ]
    rows = feature_rows(media)
    assert rows.dtype == np.float32
    assert rows.tolist() == [[1, 2, 3], [1, 3, 5], [7, 8, 9]]
    assert [why_unreadable(medium) for medium in media] == [None] * 3


def test_widths_must_agree(tmp_path: Path):
    media = [saved(tmp_path / "a.npy", [1.0, 2.0]), saved(tmp_path / "b.npy", [[1.0, 2.0, 3.0]])]
    with pytest.raises(DataError, match=r"b.npy: 3 numbers wide, and .*a.npy is 2; all must agree"):
        feature_rows(media)


class Evil:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not exist"),
        (b"", "is empty (0 bytes)"),
        (b"hello", "is not a .npy file of numbers, or is truncated"),
        (npy_bytes(np.ones(100))[:200], "is not a .npy file of numbers, or is truncated"),
        (npy_bytes(np.ones(100))[:50], "is not a .npy file of numbers, or is truncated"),
        (npy_bytes(np.ones((2, 2, 2))), "has shape (2, 2, 2); it should be (W,) or (T, W)"),
        (npy_bytes(1.0), "has shape (); it should be (W,) or (T, W)"),
        (npy_bytes(np.ones((0, 4))), "has shape (0, 4)"),
        (npy_bytes([1.0, np.nan]), "holds values that are not finite"),
        (npy_bytes([1.0, 1e300]), "holds values that are not finite in 32 bits"),
        (npy_bytes(["a", "b"]), "holds <U1, not numbers"),
        (npy_bytes([Evil()]), "is not a .npy file of numbers, or is truncated (Python objects are not read)"),
        (pickle.dumps(Evil()), "is not a .npy file of numbers, or is truncated (Python objects are not read)"),
    ],
)
def test_the_file_and_the_reason_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, reason: str
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npy"
    if content is not None:
        path.write_bytes(content)
    assert why(path).startswith(reason)
    assert "allow_pickle" not in why(path)
    with pytest.raises(DataError) as caught:
        feature_rows([Medium("a", path, ("x",))])
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert not (tmp_path / "executed").exists()


def test_what_cannot_be_looked_at_is_unreadable(tmp_path: Path):
    (tmp_path / "loop.npy").symlink_to("loop.npy")
    assert why(tmp_path / "loop.npy") == "cannot be opened: Too many levels of symbolic links"
    assert str(why(tmp_path / f"{'x' * 300}.npy")).endswith(": File name too long")


def test_an_archive_and_a_folder_are_refused(tmp_path: Path):
    with open(tmp_path / "a.npy", "wb") as file:
        np.savez(file, x=np.ones(3))
    assert str(why(tmp_path / "a.npy")).startswith("is an archive (.npz)")
    (tmp_path / "b.npy").mkdir()
    assert why(tmp_path / "b.npy") == "is a folder, not a file"
