"""From nothing to the first output, in fresh processes: once with every cache empty, then with what that left.

The caches are avsdk's own (a compiled model, a runtime's weights) and the pages of the bundle's files in memory. The
runtimes' own libraries stay in memory: only the system's administrator can drop those. Python 3.9, as the agent of
another machine needs it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from avsdk.errors import AvsdkError
from avsdk.files import cache_home

Start = Callable[[Mapping[str, str]], Mapping[str, float]]
"""Starts a cell with these variables in its environment, ends it, and tells ``total_ms`` and the ms of each phase."""


def cold_starts(bundle: Path, start: Start) -> dict[str, dict[str, float]] | None:
    """Times in ms by phase and in all, under ``cold`` and ``warm``; None for a cell that cannot be opened."""
    with tempfile.TemporaryDirectory(prefix="avsdk-cold-") as folder:
        home = Path(folder)
        toolchains = cache_home() / "toolchains"
        if toolchains.is_dir():  # they are no cache
            (home / "toolchains").symlink_to(toolchains.resolve(), target_is_directory=True)
        forget_pages(bundle)
        env = {"AVSDK_HOME": str(home)}
        try:
            return {caches: {name: round(ms, 3) for name, ms in start(env).items()} for caches in ("cold", "warm")}
        except AvsdkError:
            return None


def forget_pages(folder: Path) -> None:
    """Ask the system to drop these files from memory; where it does not take such advice they stay."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
