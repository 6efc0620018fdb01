"""Vendors' own benchmarks, one file per engine, each run as a program of its own with our settings.

A file holds ``TOOL``, what messages call the tool, and two functions: ``command(job)``, the words of the program, and
``outcome(job, text)``, the median in ms and the settings as the tool tells them, read from its output and its files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avsdk.errors import NotAvailable
from avsdk.session import Artifact
from avsdk.spec import GraphSpec, Sizes


@dataclass(frozen=True)
class Job:
    """What a tool is to run: ``file`` at ``sizes`` on ``inputs`` (.npy by tensor) for ``seconds`` or about ``runs``.

    ``folder`` is its own, for what it writes.
    """

    file: Path
    artifact: Artifact
    graph: GraphSpec
    sizes: Sizes
    threads: int
    seconds: float
    runs: int
    folder: Path
    inputs: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a tool found: its median in ms, its settings in our words (``threads``, ``precision``), and what differs."""

    median_ms: float
    settings: Mapping[str, str]
    remarks: tuple[str, ...] = ()


def positive_ms(value: Any, tool: str) -> float:
    """A time that a tool told. Raises ``NotAvailable`` for what is none: its output is not ours to trust."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not (math.isfinite(found) and found > 0):
        raise NotAvailable(f"{tool} told {str(value)[:60]!r} as its median", expected="a time in ms")
    return found
