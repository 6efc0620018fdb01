"""What a script of this folder hands back: figures with their goals, and the command that was run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avsdk.errors import AvsdkError
from avsdk_bench.statistics import Interval

MODEL = "zoo:style_transfer/wave"


@dataclass(frozen=True)
class Figure:
    """One measured number; the verdict is empty where there is no goal for it."""

    what: str
    value: str
    goal: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Section:
    """The figures of one script, how they were measured, and what disturbed them."""

    title: str
    method: str
    commands: tuple[str, ...]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finished:
    """A command that ended: its wall time, the peak memory of its largest process, its standard output."""

    seconds: float
    peak_rss_mb: float
    output: str


def verdict(met: bool) -> str:
    """The word in the last column."""
    return "met" if met else "**missed**"


def at_most(what: str, value: str, measured: float, bound: float, unit: str) -> Figure:
    """A figure whose goal is an upper bound."""
    return Figure(what, value, f"at most {bound:g} {unit}", verdict(measured <= bound))


def avsdk_command() -> list[str]:
    """The program that stands beside this Python."""
    return [str(Path(sys.executable).parent / "avsdk")]


def run_timed(command: Sequence[str], log: Path, home: Path | None = None) -> Finished:
    """Run a command to its end, from outside; its standard error is kept in ``log``. Raises where it fails."""
    environment = {**os.environ, **({"AVSDK_HOME": str(home)} if home else {})}
    answer = log.with_suffix(".out")
    with answer.open("wb") as output, log.open("wb") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)  # the usage of this one process and of those that it waited for
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        raise AvsdkError(
            f"{' '.join(command)} ended with exit code {process.returncode}:\n{tail}", expected="exit code 0"
        )
    return Finished(seconds, usage.ru_maxrss / 1024.0, answer.read_text(errors="replace"))


def written(interval: Interval | None, unit: str) -> str:
    """A median with its interval: ``12.3 ms [12.1, 12.6]``."""
    if interval is None:
        return "not known"
    space = " " if unit else ""
    return f"{interval.value:.4g}{space}{unit} [{interval.low:.4g}, {interval.high:.4g}]"
