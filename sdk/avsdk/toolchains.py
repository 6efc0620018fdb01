"""Toolchains that are installed on this machine, as ``avsdk toolchain install`` leaves them; found by name.

A session whose runtime cannot live in this Python (Movidius, Arm under emulation, XLA) starts the Python of one. What a
toolchain holds and how it is installed is ``avsdk_targets.toolchain``'s; a device needs only this.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from avsdk.errors import Refused
from avsdk.files import cache_home, is_ours
from avsdk.schema import check_schema, decode

RECORD = "complete.json"
"""Written last into a toolchain's folder, so a folder without one is what a killed installation left."""


@dataclass(frozen=True)
class Installed:
    """The content of ``complete.json``.

    ``command``: the words that start its Python where that is not ``bin/python``; ``{folder}`` stands for its folder.
    """

    name: str
    python: str
    versions: Mapping[str, str]
    size_mb: int
    command: tuple[str, ...] = ()


def toolchains_home() -> Path:
    """The folder that holds the installed toolchains."""
    return cache_home() / "toolchains"


def installed_in(folder: Path) -> Installed | None:
    """What is installed in a toolchain's folder.

    None where it is absent, cut short or damaged, or where its files are not vouched for: the folder is another user's
    (root's is fine), or others may write to it.
    """
    record = folder / RECORD
    try:
        if not (is_ours(folder) and is_ours(record)):
            return None
        document = check_schema(json.loads(record.read_text(encoding="utf-8")), where=str(record))
        found = decode(Installed, document, where=str(record))
    except (OSError, ValueError, Refused):
        return None
    return found if Path(python_words(folder, found)[0]).exists() else None


def python_words(folder: Path, found: Installed) -> tuple[str, ...]:
    """The words that start the Python of the toolchain in ``folder``."""
    words = found.command or ("{folder}/bin/python",)
    return tuple(word.replace("{folder}", str(folder)) for word in words)


def installed_python(name: str) -> tuple[str, ...]:
    """The words that start the Python of the toolchain ``name``; empty where it is not installed.

    Of several versions it is the one that was installed last.
    """
    home = toolchains_home()
    pattern = re.compile(re.escape(name) + r"-[0-9a-f]{12}")
    folders = [folder for folder in home.iterdir() if pattern.fullmatch(folder.name)] if home.is_dir() else []
    found = {folder: record for folder in folders for record in (installed_in(folder),) if record is not None}
    if not found:
        return ()
    newest = max(found, key=lambda folder: ((folder / RECORD).stat().st_mtime, folder.name))
    return python_words(newest, found[newest])
