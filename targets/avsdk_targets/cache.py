"""The build cache: folders named by a hash of everything that decides their content, checked again when they are read.

A folder is published by one rename, so that a kill or a second writer never leaves a half-built one. It belongs to the
user alone (mode 0700): what lies in it is loaded as code by some compilers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avsdk.errors import Refused
from avsdk.files import atomic_folder, cache_home, copy_folder, safe_join, sha256_file

_SEAL = "seal.json"


def cache_key(parts: Mapping[str, Any]) -> str:
    """SHA-256 over the sorted JSON of ``parts``."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class FolderCache:
    """Folders by key below ``$AVSDK_HOME/<kind>``."""

    def __init__(self, kind: str) -> None:
        self.root = cache_home() / kind

    def get(self, key: str) -> Path | None:
        """The folder, when it is there, ours, and every hash still fits; a damaged one is removed."""
        folder = self.root / key
        if not folder.is_dir():
            return None
        if _is_sound(folder):
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        return None

    def put(self, key: str, content: Path) -> Path:
        """Copy ``content`` in under ``key`` and seal it with the hashes of its files."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with atomic_folder(self.root / key) as folder:
            copy_folder(content, folder)
            files = {
                file.relative_to(folder).as_posix(): sha256_file(file)
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            }
            (folder / _SEAL).write_text(json.dumps(files))
            folder.chmod(0o700)
        return self.root / key


def copy_content(folder: Path, out: Path) -> None:
    """Copy a cached folder's content, without its seal, into the existing folder ``out``."""
    copy_folder(folder, out, without=_SEAL)


def _is_sound(folder: Path) -> bool:
    if folder.stat().st_uid != os.getuid():
        return False
    try:
        files = json.loads((folder / _SEAL).read_text())
        return all(sha256_file(safe_join(folder, name)) == digest for name, digest in files.items())
    except (OSError, ValueError, AttributeError, Refused):
        return False
