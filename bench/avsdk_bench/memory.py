"""What a process and its children hold in memory, read from /proc; a value that cannot be read is None, never 0.

Needs the standard library only, and Python 3.9, as a cell does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

_FIELDS = {
    "rss_mb": ("smaps_rollup", "Rss"),
    "pss_mb": ("smaps_rollup", "Pss"),
    "anonymous_mb": ("smaps_rollup", "Anonymous"),
    "file_mb": ("status", "RssFile"),
    "shared_mb": ("status", "RssShmem"),
    "peak_rss_mb": ("status", "VmHWM"),
}


def held(pids: Sequence[int], root: Path = Path("/proc")) -> dict[str, float | None]:
    """MB of these processes together: resident, proportional (shared pages divided among those who share them),
    anonymous, file-backed (as a mapped model is), shared, and the peak of the resident.
    """
    totals: dict[str, float | None] = {}
    for key, (file, field) in _FIELDS.items():
        found = [_kilobytes(root / str(pid) / file, field) for pid in pids]
        known = [value for value in found if value is not None]
        totals[key] = round(sum(known) / 1024.0, 2) if known else None
    return totals


def resident_mb(pids: Sequence[int], root: Path = Path("/proc")) -> float | None:
    """The resident MB of these processes together, read without stopping them as ``held`` does."""
    found = [_kilobytes(root / str(pid) / "status", "VmRSS") for pid in pids]
    known = [value for value in found if value is not None]
    return sum(known) / 1024.0 if known else None


def family(root: Path = Path("/proc")) -> list[int]:
    """This process and its descendants: a session may itself live in a process of its own."""
    children: dict[int, list[int]] = {}
    for status in root.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int(status.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(status.parent.name))
    found = [os.getpid()]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def _kilobytes(path: Path, field: str) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
    return None
