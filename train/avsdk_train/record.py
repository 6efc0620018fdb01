"""What a run remembers of how it came about: versions, the state of the code, and a hash of every file of its data."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from avsdk.errors import UnusableInput
from avsdk.files import sha256_file

_VERSIONS = ("avsdk", "torch", "torch_xla", "accelerate", "numpy", "opencv-python-headless", "opencv-python")
_GIT_TIMEOUT_S = 10
_READERS = 4


@dataclass(frozen=True)
class DataRecord:
    """``listing`` has a line per file, as ``sha256sum --check`` reads it; ``sha256`` is the hash of the listing."""

    listing: str
    files: int
    sha256: str


def record_from_files(files: Sequence[Path], folders: Sequence[Path]) -> DataRecord:
    """Hash the content of every file; names are relative to the data folder that a file lies in."""
    with ThreadPoolExecutor(_READERS) as pool:  # hashing and reading both let other threads run
        digests = list(pool.map(_digest, files))
    lines = [f"{digest}  {_relative(file, folders)}\n" for digest, file in zip(digests, files, strict=True)]
    listing = "".join(lines)
    return DataRecord(listing, len(lines), hashlib.sha256(listing.encode()).hexdigest())


def code_state() -> str:
    """The commit that this code is of, with ``-dirty`` where files were changed; empty for an installed package."""
    here = Path(__file__)
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return ""
    commit = (_git(here.parent, "rev-parse", "HEAD") or "").strip()
    changed = (_git(here.parent, "status", "--porcelain", "--untracked-files=no") or "").strip()
    return f"{commit}-dirty" if commit and changed else commit


def versions() -> dict[str, str]:
    """The releases of the packages that a training's numbers rest on."""
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _digest(file: Path) -> str:
    try:
        return sha256_file(file)
    except OSError as error:
        raise UnusableInput(f"{file} cannot be read: {error.strerror}", expected="a readable file") from error


def _relative(file: Path, folders: Sequence[Path]) -> str:
    root = next((folder for folder in folders if file.is_relative_to(folder)), None)
    return (file.relative_to(root) if root else file).as_posix()


def _git(folder: Path, *words: str) -> str | None:
    """What git answers; ``None`` where there is no git, no repository, or it says no."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False, timeout=_GIT_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
