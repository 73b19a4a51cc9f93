"""Files that are whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lumiply.files import link_all, sync_folder, write_all, write_whole

FULL = OSError(28, "No space left on device")


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_writing_replaces_the_whole_file_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == {"a.jpg"}
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    write_whole(path, b"old")

    def full(handle: int) -> None:
        raise FULL

    monkeypatch.setattr("lumiply.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"a.jpg"}


def test_many_files_are_synced_each_and_their_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync

    def note(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        sync(handle)

    monkeypatch.setattr("lumiply.files.os.fsync", note)
    write_all(tmp_path, {"a": b"1", "b": b"2"})
    assert [name.split(".")[1] if "." in name else name for name in synced] == ["a", "b", tmp_path.name]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"1", "b": b"2"}


def test_linked_files_are_the_same_files_and_may_be_linked_again(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    write_all(source, {"a": b"1", "b": b"2"})
    write_whole(target / "a", b"old")
    for _ in range(2):
        link_all(target, source, ["a", "b"])
    assert all((target / name).samefile(source / name) for name in ("a", "b"))
    assert names(target) == {"a", "b"}


def test_files_are_copied_where_the_disk_knows_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    write_whole(source / "a", b"1")
    monkeypatch.setattr("lumiply.files.os.link", refuse)
    link_all(target, source, ["a"])
    assert (target / "a").read_bytes() == b"1"
    assert not (target / "a").samefile(source / "a")
    assert (target / "a").stat().st_mode & 0o777 == 0o644


def test_what_is_not_there_cannot_be_linked_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(FileNotFoundError):
        link_all(tmp_path / "target", tmp_path, ["a"])
    assert names(tmp_path / "target") == set()


def test_a_folder_that_is_not_there_cannot_be_synced(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "nowhere")
