"""Files that are written whole or not at all, hashed, and read only from where they may be read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from avsdk.errors import DiskFull, NotAvailable, Refused, UsageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FICLONE = 0x40049409  # of linux/fs.h
_IN_THE_WAY = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
_REPLACE_TRIES = 20
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_home() -> Path:
    """Where toolchains and built bundles are kept: ``$AVSDK_HOME``, else ``avsdk`` in the user's cache folder."""
    chosen = os.environ.get("AVSDK_HOME")
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "avsdk"


@contextlib.contextmanager
def typed_write_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write below ``path`` into a typed error."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(
                f"no space left while writing {path}: {error.strerror}",
                expected="enough free space; nothing half-written was left",
                fix="free some space or write elsewhere, then run the same command again",
            ) from error
        if error.errno in _READ_ONLY:
            raise NotAvailable(
                f"cannot write {path}: {error.strerror}", expected="a writable folder", fix="choose another folder"
            ) from error
        raise


@contextlib.contextmanager
def _typed_place(path: Path) -> Iterator[None]:
    """Turn a place where no file can stand (beneath a file, a name too long, /proc) into a ``UsageError``."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL | _READ_ONLY:
            raise
        raise UsageError(
            f"cannot write {path}: {error.strerror}", expected="a place for a file", fix="choose another path"
        ) from error


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it is flushed to disk and takes the place of ``path``."""
    with typed_write_errors(path):
        with _typed_place(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(number)
        temporary = Path(name)
        try:
            temporary.chmod(0o666 & ~_umask())
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``path``; on success it takes the place of ``path``, whole.

    The old folder is moved aside first and removed last, so that a kill leaves either the old or the new one.
    """
    with typed_write_errors(path):
        with _typed_place(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            temporary.chmod(0o777 & ~_umask())
            yield temporary
            # The files first, then the folders that name them, and only then the name under which all are found.
            beneath = sorted(temporary.rglob("*"), key=lambda found: found.is_dir())
            for found in (*beneath, temporary):
                if found.is_file() or (found.is_dir() and not found.is_symlink()):
                    _flush(found)
            _replace_folder(temporary, path)
            _flush(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` to ``path`` whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def sha256_file(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def safe_join(root: Path, relative: str, *, refused: type[Refused] = Refused) -> Path:
    """``root / relative`` when that is a regular file beneath ``root`` with no link on the way; else ``refused``."""
    parts = PurePosixPath(relative).parts
    if not parts or relative.startswith("/") or "\\" in relative or "\0" in relative or ".." in parts:
        raise refused(f"the path {relative!r} leaves its folder", expected="a relative path beneath the folder")
    current = root
    for part in parts:
        current = current / part
        if current.is_symlink():
            raise refused(f"{relative!r} goes through a symbolic link", expected="regular files only")
    try:
        status = current.lstat()
    except OSError as error:
        raise refused(
            f"{relative!r} is missing from {root}", expected="a regular file", fix="get a whole copy"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise refused(f"{relative!r} is not a regular file", expected="a regular file")
    return current


def is_ours(path: Path) -> bool:
    """Whether the file or folder is this user's or root's, and nobody else may write to it; a link is not."""
    status = path.lstat()
    if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
        return False
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & _OTHERS_WRITE


def copy_file(source: Path, out: Path) -> None:
    """Copy a file's content without holding it in memory; where the file system shares blocks, it shares them.

    No hard link: our own check refuses weights that have one, since whoever holds the other name could change them.
    """
    with source.open("rb") as given, out.open("wb") as taken, contextlib.suppress(OSError):
        fcntl.ioctl(taken, _FICLONE, given.fileno())
        return
    shutil.copyfile(source, out)


def copy_folder(source: Path, out: Path, *, without: str = "") -> None:
    """Copy the regular files beneath ``source`` into the folder ``out``, but for one name at the top.

    The first failure is raised as it is, so that a full disk is known as one; ``shutil.copytree`` gathers failures.
    """
    for file in sorted(source.rglob("*")):
        relative = file.relative_to(source)
        if file.is_file() and not file.is_symlink() and relative.as_posix() != without:
            (out / relative.parent).mkdir(parents=True, exist_ok=True)
            copy_file(file, out / relative)


def move_folder(source: Path, out: Path) -> None:
    """Move the regular files beneath ``source`` into the folder ``out``; copied where that is another file system."""
    for file in sorted(source.rglob("*")):
        place = out / file.relative_to(source)
        if file.is_file() and not file.is_symlink():
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                file.replace(place)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                copy_file(file, place)


def folder_size(path: Path) -> int:
    """Bytes of all regular files beneath ``path``; links are not followed."""
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())


def _replace_folder(new: Path, path: Path) -> None:
    """Put ``new`` where ``path`` is, whatever that is, also while another process does the same."""
    aside: list[Path] = []
    try:
        for _ in range(_REPLACE_TRIES):
            try:
                new.replace(path)  # onto nothing
                return
            except OSError as error:
                if error.errno not in _IN_THE_WAY:
                    raise
            aside.append(Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent)))
            with contextlib.suppress(FileNotFoundError):
                path.replace(aside[-1] / "was")
        raise NotAvailable(f"{path} is replaced by others all the time", expected="one writer", fix="try again later")
    finally:
        for old in aside:
            shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
