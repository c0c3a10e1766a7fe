"""Cached rows: computed once, resumed after an interrupt, never half taken as whole, never fatal."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from mmts import feature_cache
from mmts.errors import InputError
from mmts.feature_cache import cached_rows

KEYS = [f"key {i}" for i in range(10)]


class Counting:
    """Row i is (i, i + 0.5); counts the rows asked for, and can be told to stop at one."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.computed: list[int] = []
        self.stop_at = stop_at

    def __call__(self, part: list[int]) -> np.ndarray:
        if self.stop_at is not None and self.stop_at in part:
            raise KeyboardInterrupt
        self.computed += part
        return np.array([[i, i + 0.5] for i in part])


EXPECTED = np.array([[i, i + 0.5] for i in range(10)], np.float32)


def rows(compute, keys=KEYS, name="numbers", chunk=3):
    def of_keys(part):
        return compute([keys.index(key) for key in part])

    return cached_rows(name, keys, 2, of_keys, unit="numbers", chunk=chunk)


def files(cache: Path) -> list[str]:
    return sorted(path.suffix for path in (cache / "features").iterdir())


@pytest.fixture(autouse=True)
def warn_again(monkeypatch):
    feature_cache._say_unwritable.cache_clear()


def test_computed_once_and_mapped(private_cache):
    compute = Counting()
    first = rows(compute)
    second = rows(compute)
    assert compute.computed == list(range(10))
    np.testing.assert_array_equal(first, EXPECTED)
    np.testing.assert_array_equal(second, EXPECTED)
    assert isinstance(second, np.memmap)
    assert second.dtype == np.float32
    assert files(private_cache) == [".npy"]


def test_writing_into_the_result_leaves_the_file_alone():
    rows(Counting())[0, 0] = 99
    np.testing.assert_array_equal(rows(Counting()), EXPECTED)


@pytest.mark.parametrize("other", [{"name": "others"}, {"keys": KEYS[::-1]}, {"keys": KEYS[:-1]}])
def test_other_name_or_keys_are_another_file(other):
    rows(Counting())
    compute = Counting()
    rows(compute, **other)
    assert compute.computed == list(range(len(other.get("keys", KEYS))))


def test_resumes_after_an_interrupt(private_cache):
    first = Counting(stop_at=7)
    with pytest.raises(KeyboardInterrupt):
        rows(first)
    assert first.computed == [0, 1, 2, 3, 4, 5]
    assert files(private_cache) == [".partial"]
    second = Counting()
    np.testing.assert_array_equal(rows(second), EXPECTED)
    assert second.computed == [6, 7, 8, 9]
    assert files(private_cache) == [".npy"]


def test_torn_row_of_a_crash_is_computed_again(private_cache):
    with pytest.raises(KeyboardInterrupt):
        rows(Counting(stop_at=7))
    partial = next((private_cache / "features").glob("*.partial"))
    partial.write_bytes(partial.read_bytes()[:-3])
    compute = Counting()
    np.testing.assert_array_equal(rows(compute), EXPECTED)
    assert compute.computed == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"rubbish of some length" * 20])
def test_partial_file_that_is_not_ours_is_started_anew(private_cache, content):
    with pytest.raises(KeyboardInterrupt):
        rows(Counting(stop_at=0))
    next((private_cache / "features").glob("*.partial")).write_bytes(content)
    np.testing.assert_array_equal(rows(Counting()), EXPECTED)


@pytest.mark.parametrize("damage", [lambda data: data[:-4], lambda data: b"", lambda data: b"x" * len(data)])
def test_damaged_file_is_computed_again(private_cache, damage):
    rows(Counting())
    final = next((private_cache / "features").glob("*.npy"))
    final.write_bytes(damage(final.read_bytes()))
    compute = Counting()
    np.testing.assert_array_equal(rows(compute), EXPECTED)
    assert compute.computed == list(range(10))


def test_cache_that_cannot_be_made_is_said_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MMTS_CACHE", str(tmp_path / "file"))
    np.testing.assert_array_equal(rows(Counting()), EXPECTED)
    np.testing.assert_array_equal(rows(Counting()), EXPECTED)
    assert capsys.readouterr().err.count("cannot write the feature cache") == 1


def test_disk_that_fills_up_loses_nothing(monkeypatch, capsys):
    written = []

    def write(file, data):
        if len(written) == 3:  # header and two chunks
            raise OSError(28, "No space left on device")
        written.append(data)
        file.write(data)

    monkeypatch.setattr(feature_cache, "_write", write)
    compute = Counting()
    np.testing.assert_array_equal(rows(compute), EXPECTED)
    assert compute.computed == list(range(10))
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.undo()


def test_rows_on_a_full_disk_are_used_once_there_is_space(monkeypatch, private_cache):
    full = pytest.MonkeyPatch()
    calls = []

    def write(file, data):
        calls.append(data)
        if len(calls) > 3:
            file.write(data[:5])
            raise OSError(28, "No space left on device")
        file.write(data)

    full.setattr(feature_cache, "_write", write)
    np.testing.assert_array_equal(rows(Counting()), EXPECTED)
    full.undo()
    compute = Counting()
    np.testing.assert_array_equal(rows(compute), EXPECTED)
    assert compute.computed == [6, 7, 8, 9]
    assert files(private_cache) == [".npy"]


def test_error_of_compute_is_not_taken_for_a_full_disk():
    def compute(part):
        raise OSError(5, "the model's own trouble")

    with pytest.raises(OSError, match="own trouble"):
        rows(compute)


def test_wrong_shape_and_nan_are_errors():
    with pytest.raises(InputError, match=r"3 rows of width 2 .* shape \(3, 1\)"):
        rows(lambda part: np.ones((len(part), 1)))
    with pytest.raises(InputError, match="row 4 "):
        rows(lambda part: np.array([[i, np.nan if i == 4 else 0] for i in part]))


def test_nothing_to_compute():
    assert rows(Counting(), keys=[]).shape == (0, 2)


@pytest.mark.skipif(os.name != "posix", reason="file locks are those of POSIX")
def test_two_at_once_compute_once():
    computed, started = [], threading.Event()

    def compute(part):
        computed.extend(part)
        started.set()
        return EXPECTED[part]

    def second():
        started.wait()
        rows(compute)

    thread = threading.Thread(target=second)
    thread.start()
    rows(compute)
    thread.join()
    assert computed == list(range(10))
