"""Writing files: whole or not at all, and messages about the file that was asked for."""

import os
from pathlib import Path

import pytest

from mmts.errors import nearest
from mmts.files import append_line, atomic_folder, atomic_write, content_hash, read_json, why_missing, write_json


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


def test_a_line_is_not_added_in_a_folder_that_is_gone(tmp_path: Path) -> None:
    append_line(tmp_path / "log", "one")
    append_line(tmp_path / "log", "two")
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    with pytest.raises(FileNotFoundError, match="gone/log"):
        append_line(tmp_path / "gone" / "log", "three")
    assert not (tmp_path / "gone").exists()


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


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="is there already") as raised, atomic_folder(tmp_path):
        raise AssertionError("the body must not run")
    assert raised.value.filename == str(tmp_path)


def test_messages_say_why_nothing_is_at_a_path(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "a.csv").touch()
    (tmp_path / "link").symlink_to("/nowhere/link")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for name, why in {
        "fotos": f"does not exist; did you mean {tmp_path}/photos?",
        "Photos": f"does not exist; did you mean {tmp_path}/photos?",
        "xyz": "does not exist",
        "links": "does not exist",  # a dangling link is no help
        "link": "is a link that leads nowhere, to /nowhere/link",
        "link/a.csv": f"does not exist: {tmp_path}/link is a link that leads nowhere, to /nowhere/link",
        "loop": "is a link that leads nowhere, to loop",
        "a.csv/b": f"does not exist: {tmp_path}/a.csv is a file, not a folder",
        "foto/2024/a": f"does not exist, nor does {tmp_path}/foto; did you mean {tmp_path}/photos?",
        "a\0b": "cannot be a path",
        "pipe": "is neither a file nor a folder",
    }.items():
        assert why_missing(tmp_path / name) == why


def test_a_folder_that_may_not_be_entered_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> os.stat_result:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "stat", lambda path: refuse(path) if Path(path) == tmp_path / "x" else stat(path))
    assert why_missing(tmp_path / "x/a.csv") == f"cannot be opened: {tmp_path}/x: Permission denied"


stat = os.stat
