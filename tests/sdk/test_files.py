from __future__ import annotations

import errno
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from avsdk import files
from avsdk.errors import BundleRefused, DiskFull, NotAvailable, Refused, UsageError
from avsdk.files import atomic_file, atomic_folder, cache_home, folder_size, safe_join, sha256_file, write_atomic


class StopError(Exception):
    """Raised in the middle of a write."""


@pytest.fixture(params=["tmpfs", "fsync"])
def full_disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on a real disk of 64 kB, and one whose fsync reports that the disk is full, as network disks do."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "fsync":

        def full(number: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        yield folder
        return
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"this user cannot mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("data", ["text ü", b"bytes\0"])
def test_write_atomic(tmp_path: Path, data: str | bytes) -> None:
    path = tmp_path / "new" / "file"
    write_atomic(path, "old")
    write_atomic(path, data)
    assert path.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert list(path.parent.iterdir()) == [path]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_an_interrupted_file_leaves_the_old_one(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file.txt", "old")
    with pytest.raises(StopError), atomic_file(tmp_path / "file.txt") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".txt"
        temporary.write_text("half")
        raise StopError
    assert (tmp_path / "file.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_interrupted_folder_leaves_the_old_one(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(StopError), atomic_folder(tmp_path / "out") as temporary:
        (temporary / "a").write_text("half")
        raise StopError
    assert (tmp_path / "out" / "a").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with atomic_folder(tmp_path / "out") as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / name).write_text(name)
    assert [item.name for item in (tmp_path / "out" / "deep").iterdir()] == ["b"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_leaves_the_old_file(full_disk: Path) -> None:
    with pytest.raises(DiskFull, match="no space left while writing") as caught:
        write_atomic(full_disk / "file", bytes(1 << 20))
    assert caught.value.exit_code == 3
    assert caught.value.fix
    assert not list(full_disk.iterdir())


def test_a_full_disk_leaves_the_old_folder(full_disk: Path) -> None:
    with pytest.raises(DiskFull), atomic_folder(full_disk / "bundle") as temporary:
        (temporary / "part").write_bytes(bytes(1000))
        (temporary / "whole").write_bytes(bytes(1 << 20))
    assert not list(full_disk.iterdir())


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**given: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)
    with pytest.raises(NotAvailable, match="cannot write .*: Permission denied") as caught:
        write_atomic(tmp_path / "file", "x")
    assert caught.value.fix == "choose another folder"


def test_other_errors_of_the_system_pass(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "folder", "x")
    assert [item.name for item in tmp_path.iterdir()] == ["folder"]


def test_sha256_file(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "relative",
    [
        "",
        ".",
        "..",
        "../x",
        "a/../../x",
        "a/..",
        "/etc/hostname",
        "a\\b",
        "..\\x",
        "a\0b",
        "none",
        "folder",
        "link",
        "folder/up/x",
    ],
)
def test_safe_join_refuses(tmp_path: Path, relative: str) -> None:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (tmp_path / "x").write_text("outside")
    (root / "link").symlink_to(tmp_path / "x")
    (root / "folder" / "up").symlink_to(tmp_path)
    with pytest.raises(BundleRefused):
        safe_join(root, relative, refused=BundleRefused)
    with pytest.raises(Refused):
        safe_join(root, relative)


def test_safe_join_gives_regular_files(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c..d").write_text("x")
    assert safe_join(tmp_path, "a/b/c..d") == tmp_path / "a" / "b" / "c..d"


def test_folder_size_follows_no_links(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(bytes(10))
    (tmp_path / "y").write_bytes(bytes(5))
    (tmp_path / "link").symlink_to(tmp_path / "y")
    assert folder_size(tmp_path) == 15


def test_cache_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path))
    assert cache_home() == tmp_path
    monkeypatch.delenv("AVSDK_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_home() == Path("/cache/avsdk")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_home() == Path.home() / ".cache" / "avsdk"


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
@pytest.mark.parametrize(("place", "why"), [("text/x.png", "exists|Not a directory"), ("a" * 300, "too long")])
def test_a_place_where_nothing_can_stand(
    tmp_path: Path, atomic: Callable[[Path], AbstractContextManager[Path]], place: str, why: str
) -> None:
    (tmp_path / "text").write_text("a file")
    with pytest.raises(UsageError, match=f"cannot write .*({why})") as caught, atomic(tmp_path / place):
        pass
    assert caught.value.fix
    assert [file.name for file in tmp_path.iterdir()] == ["text"]
