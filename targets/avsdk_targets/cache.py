"""The build cache: folders named by a hash of everything that decides their content, checked again when they are read.

A folder is published by one rename, so that a kill or a second writer never leaves a half-built one. It belongs to the
user alone (mode 0700): what lies in it is loaded as code by some compilers. What is damaged, or could have been changed
by somebody else, is said once and built again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from avsdk.errors import NotAvailable, Refused, UsageError
from avsdk.files import atomic_folder, cache_home, copy_folder, move_folder, safe_join, sha256_file

_SEAL = "seal.json"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_LEAST_FREE = 64 << 20
"""Bytes below which a build is not begun beside the cache."""
_WORK = re.compile(r"export-(?P<process>[0-9]{1,10})-(?P<here>[0-9a-f]{12})-.+")


def cache_key(parts: Mapping[str, Any]) -> str:
    """SHA-256 over the sorted JSON of ``parts``."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class FolderCache:
    """Folders by key below ``$AVSDK_HOME/<kind>``; ``notice`` is told why something kept is built again."""

    def __init__(self, kind: str, notice: Callable[[str], None] = lambda text: None) -> None:
        self.root = cache_home() / kind
        self.notice = notice

    def get(self, key: str) -> Path | None:
        """The folder, when it is there, ours, and every hash still fits; another one is removed."""
        folder = self.root / key
        if not os.path.lexists(folder):
            return None
        fault = _fault(folder, key)
        if not fault:
            return folder
        self.notice(f"the build cache's entry {key[:12]} is not used, it is built again: {fault}")
        _remove(folder)
        return None

    def put(self, key: str, content: Path) -> Path:
        """Move ``content`` in under ``key``, sealed with the hashes of its files; where it lies from now on.

        That is its old place where the cache cannot take it, which is said.
        """
        try:
            self._make_root()
            _require_ours(self.root / key)
            with atomic_folder(self.root / key) as folder:
                files = {
                    file.relative_to(content).as_posix(): sha256_file(file)
                    for file in sorted(content.rglob("*"))
                    if file.is_file()
                }
                (folder / _SEAL).write_text(json.dumps({"key": key, "files": files}))
                move_folder(content, folder)
                folder.chmod(0o700)
        except (NotAvailable, UsageError) as error:  # nothing that was built is lost for a cache that cannot be written
            self.notice(f"the build cache {self.root} keeps nothing of this: {error.failed}")
            with contextlib.suppress(OSError):
                (content / _SEAL).unlink(missing_ok=True)
            return content
        return self.root / key

    def _make_root(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.root.stat().st_mode & _OTHERS_WRITE:
                self.root.chmod(0o700)
        except OSError as error:
            raise NotAvailable(
                f"{self.root}: {error.strerror}",
                expected="a folder of your own",
                fix="set AVSDK_HOME to another folder",
            ) from error


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """A folder to build in, beside the cache, so that what is done is moved there.

    Where that disk is full or not ours it lies among the temporary files.
    What processes that are gone left there is swept away first.
    """
    beside = cache_home() / "work"
    try:
        beside.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sweep(beside)
        if shutil.disk_usage(beside).free < _LEAST_FREE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        folder = tempfile.mkdtemp(prefix=f"export-{os.getpid()}-{_here()}-", dir=beside)
    except OSError:
        folder = tempfile.mkdtemp(prefix="avsdk-export-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_content(folder: Path, out: Path) -> None:
    """Copy a cached folder's content, without its seal, into the existing folder ``out``."""
    copy_folder(folder, out, without=_SEAL)


def _fault(folder: Path, key: str) -> str:
    """Why an entry is not to be trusted; empty for a sound one."""
    try:
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return "it is a link or a file, not a folder"
        for place in (status, folder.parent.stat()):
            if place.st_uid != os.getuid():
                return f"it belongs to another user (number {place.st_uid})"
            if place.st_mode & _OTHERS_WRITE:
                return "others may write to it"
        seal = json.loads((folder / _SEAL).read_text())
        if seal["key"] != key:
            return "it was made for something else"
        held = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()}
        strays = held ^ {_SEAL, *seal["files"]}
        if strays:
            return f"{min(strays)} is missing or does not belong there"
        changed = [name for name, digest in seal["files"].items() if sha256_file(safe_join(folder, name)) != digest]
        return f"{changed[0]} has changed" if changed else ""
    except (OSError, ValueError, AttributeError, KeyError, TypeError, Refused) as error:
        return f"its seal cannot be read: {error}"


def _require_ours(folder: Path) -> None:
    """Somebody else's entry cannot be replaced; that must be known before the content is moved."""
    with contextlib.suppress(FileNotFoundError):
        owner = folder.lstat().st_uid
        if os.getuid() not in (0, owner):
            raise NotAvailable(f"{folder} belongs to another user (number {owner})", fix="remove it as its owner")


def _remove(folder: Path) -> None:
    """Remove an entry, whatever it is; one that cannot be removed is left to be replaced."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            folder.unlink()


def _sweep(beside: Path) -> None:
    """Remove the work folders of processes that are gone."""
    for folder in beside.iterdir():
        match = _WORK.fullmatch(folder.name)
        if match and match["here"] == _here() and not Path("/proc", match["process"]).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _here() -> str:
    """A name of this machine, its boot and its process numbers: only these say which processes are gone.

    Empty where there is no /proc, so that nothing is taken for gone.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        numbers = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
    return hashlib.sha256(f"{platform.node()} {boot} {numbers}".encode()).hexdigest()[:12]
