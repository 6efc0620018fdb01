"""What a report holds beside its own rows: other machines, verdicts against an older report, runs of vendors' tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from avsdk.host import Host
from avsdk_bench.facts import Machine
from avsdk_bench.noise import Noise


@dataclass(frozen=True)
class Elsewhere:
    """Where rows came from that this machine did not measure now: another machine, or an older report.

    ``calibration_ms`` is the median time of its calibration kernel.
    """

    host: Host
    date: str
    command: str
    avsdk: str
    noise: Noise
    rounds: int
    void_rounds: int
    stopped_by: str
    machine: Machine | None = None
    calibration_ms: float | None = None


@dataclass(frozen=True)
class Judged:
    """One limit of ``--fail-if`` on one row. ``change`` and its 95 % interval are shares: 0.05 is 5 % more than before.

    ``not shown``: the interval reaches across the limit, or there is none to be had; ``reason`` says which.
    """

    row: int
    metric: str
    limit: str
    verdict: Literal["within", "beyond", "not shown"]
    was: float | None = None
    now: float | None = None
    change: float | None = None
    change_ci: tuple[float, float] | None = None
    reason: str = ""


@dataclass(frozen=True)
class VendorComparison:
    """Our row beside a vendor's own tool: medians in ms, our time over the tool's with its 95 % interval.

    ``settings`` are the tool's as read back from it; ``items`` are ms that explain the difference, by cause;
    ``remarks`` say what could not be matched.
    """

    row: int
    tool: str
    command: str
    verdict: Literal["within 5 %", "differs", "not decided", "unavailable"]
    reason: str = ""
    ours_ms: float | None = None
    tool_ms: float | None = None
    ratio: float | None = None
    ratio_ci: tuple[float, float] | None = None
    pairs: int = 0
    settings: Mapping[str, str] | None = None
    items_ms: Mapping[str, float] | None = None
    remarks: tuple[str, ...] = ()
