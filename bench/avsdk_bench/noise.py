"""What disturbed the machine while it was measured: stolen time, load, clocks, throttling, the control group's quota.

Every guard that this system does not offer is recorded as None, never as 0.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from avsdk import host

_STEAL_SHARE = 0.01
_LOAD_PER_CORE = 0.5
_FREQUENCY_DRIFT = 0.05
_SWITCHES_PER_S = 100.0
_FREQUENCY_LINE = "cpu MHz"


@dataclass(frozen=True)
class Snapshot:
    """Counters at one moment; ``busy_ticks``, ``steal_ticks`` and ``all_ticks`` are sums over all processors."""

    steal_ticks: int | None
    busy_ticks: int | None
    all_ticks: int | None
    load_1min: float | None
    frequency_mhz: float | None
    thermal_throttles: int | None
    cgroup_throttles: int | None


@dataclass(frozen=True)
class Noise:
    """The guards over one run, and the verdict drawn from them."""

    steal_share: float | None
    busy_share: float | None
    load_before: float | None
    load_after: float | None
    frequency_mhz_before: float | None
    frequency_mhz_after: float | None
    thermal_throttles: int | None
    cgroup_throttles: int | None
    cgroup_cpus: float | None
    void_rounds: int
    rounds: int
    involuntary_switches_per_s: float | None
    quiet: bool
    reasons: tuple[str, ...]


def snapshot(root: Path = Path("/")) -> Snapshot:
    """Read the counters beneath ``root``, the root of the file system."""
    ticks = _cpu_ticks(root / "proc/stat")
    throttles = [_number(file) for file in (root / "sys/devices/system/cpu").glob("cpu*/thermal_throttle/*_count")]
    return Snapshot(
        steal_ticks=ticks[7] if ticks and len(ticks) > 7 else None,
        busy_ticks=sum(ticks[:3]) + sum(ticks[5:8]) if ticks else None,
        all_ticks=sum(ticks[:8]) if ticks else None,
        load_1min=_load(root / "proc/loadavg"),
        frequency_mhz=_frequency(root),
        thermal_throttles=sum(int(value) for value in throttles if value is not None) if throttles else None,
        cgroup_throttles=_throttled(root / "sys/fs/cgroup"),
    )


def judge(
    before: Snapshot, after: Snapshot, *, rounds: int, void_rounds: int, switches_per_s: float | None = None
) -> Noise:
    """Draw the verdict from two snapshots and the rounds between them."""
    steal = _share(before.steal_ticks, after.steal_ticks, before.all_ticks, after.all_ticks)
    thermal = _growth(before.thermal_throttles, after.thermal_throttles)
    quota = _growth(before.cgroup_throttles, after.cgroup_throttles)
    return Noise(
        steal_share=steal,
        busy_share=_share(before.busy_ticks, after.busy_ticks, before.all_ticks, after.all_ticks),
        load_before=before.load_1min,
        load_after=after.load_1min,
        frequency_mhz_before=before.frequency_mhz,
        frequency_mhz_after=after.frequency_mhz,
        thermal_throttles=thermal,
        cgroup_throttles=quota,
        cgroup_cpus=host.cgroup_quota(),
        void_rounds=void_rounds,
        rounds=rounds,
        involuntary_switches_per_s=switches_per_s,
        quiet=not (
            reasons := (*_reasons(before, after, steal, thermal, quota, rounds, void_rounds), *_taken(switches_per_s))
        ),
        reasons=reasons,
    )


def involuntary_switches(pids: Sequence[int]) -> int | None:
    """How often the threads of these processes were taken off a processor against their will, so far."""
    counts = [
        int(line.split()[1])
        for pid in pids
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in _read(status).splitlines()
        if line.startswith("nonvoluntary_ctxt_switches:")
    ]
    return sum(counts) if counts else None


def _reasons(
    before: Snapshot,
    after: Snapshot,
    steal: float | None,
    thermal: int | None,
    quota: int | None,
    rounds: int,
    void: int,
) -> Iterator[str]:
    cores = os.cpu_count() or 1
    if before.load_1min is not None and before.load_1min > _LOAD_PER_CORE * cores:
        yield f"load was {before.load_1min:.2f} on {cores} processors before the first round"
    if steal is not None and steal > _STEAL_SHARE:
        yield f"the hypervisor took {steal:.1%} of the time"
    if before.frequency_mhz and after.frequency_mhz:
        drift = after.frequency_mhz / before.frequency_mhz - 1.0
        if abs(drift) > _FREQUENCY_DRIFT:
            yield f"the clock changed by {drift:+.0%}"
    if thermal:
        yield f"the processor throttled {thermal} times for heat"
    if quota:
        yield f"the control group's quota stopped the processes {quota} times"
    if void:
        yield f"{void} of {rounds} rounds were void: the calibration drifted by more than 5 %"


def _taken(switches_per_s: float | None) -> Iterator[str]:
    if switches_per_s is not None and switches_per_s > _SWITCHES_PER_S:
        yield f"the cells were taken off their processors {switches_per_s:.0f} times a second for others"


def _cpu_ticks(path: Path) -> list[int]:
    first = _read(path).partition("\n")[0].split()
    return [int(field) for field in first[1:]] if first[:1] == ["cpu"] else []


def _load(path: Path) -> float | None:
    fields = _read(path).split()
    return float(fields[0]) if fields else None


def _frequency(root: Path) -> float | None:
    """The mean clock over processors: from cpufreq where the kernel has it, else as /proc/cpuinfo gives it."""
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    clocks = [value / 1000.0 for file in files if (value := _number(file)) is not None]
    if not clocks:
        lines = _read(root / "proc/cpuinfo").splitlines()
        clocks = [float(line.partition(":")[2]) for line in lines if line.startswith(_FREQUENCY_LINE)]
    return round(sum(clocks) / len(clocks), 1) if clocks else None


def _throttled(root: Path) -> int | None:
    """How often a quota stopped this process's control group, or one above it."""
    counts = [
        int(line.split()[1])
        for folder in host.cgroup_folders(root)
        for line in _read(folder / "cpu.stat").splitlines()
        if line.startswith("nr_throttled ")
    ]
    return sum(counts) if counts else None


def _share(part_a: int | None, part_b: int | None, whole_a: int | None, whole_b: int | None) -> float | None:
    if part_a is None or part_b is None or whole_a is None or whole_b is None or whole_b <= whole_a:
        return None
    return round((part_b - part_a) / (whole_b - whole_a), 4)


def _growth(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _number(path: Path) -> float | None:
    text = _read(path).strip()
    return float(text) if text else None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
