"""Writing files: whole or not at all, and messages about the file that was asked for."""

from pathlib import Path

import pytest

from mmts.errors import nearest
from mmts.files import atomic_folder, atomic_write, content_hash, read_json, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"old": 1})

    def fail_half_way() -> None:
        with atomic_write(tmp_path / "a.json", "w") as file:
            file.write("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert read_json(tmp_path / "a.json") == {"old": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as raised, atomic_write(tmp_path / "a.json"):
        raise OSError(28, "No space left on device")
    assert raised.value.filename == str(tmp_path / "a.json")


def test_a_folder_or_a_place_that_takes_no_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder") as raised:
        write_json(tmp_path, {})
    assert raised.value.filename == str(tmp_path)
    with pytest.raises(OSError, match=r"/proc/nowhere/a\.json"):
        write_json("/proc/nowhere/a.json", {})


def test_hashes_tell_where_one_part_ends() -> None:
    assert content_hash("ab", "c") != content_hash("a", "bc")
    assert content_hash("\ud83d") == content_hash("\ud83d")  # a lone surrogate is no error


def test_nearest_names_what_is_meant() -> None:
    assert nearest("trian", ["train", "evaluate"]) == "did you mean 'train'?"
    assert nearest("x", []) == "known: none"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with atomic_folder(tmp_path / "out") as folder:
            (folder / "half.txt").touch()
            assert not (tmp_path / "out").exists()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="is there already") as raised, atomic_folder(tmp_path):
        raise AssertionError("the body must not run")
    assert raised.value.filename == str(tmp_path)
