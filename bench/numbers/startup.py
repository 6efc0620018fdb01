"""What ``import avsdk`` costs over numpy, and how long ``avsdk --help`` takes: fresh processes, interleaved."""

from __future__ import annotations

import random
import shlex
import sys
from pathlib import Path

from figures import Section, at_most, avsdk_command, run_timed, written

from avsdk_bench.statistics import median_interval

ROUNDS = 21
IMPORT_MS = 60.0
HELP_MS = 300.0
_PROGRAMS = {sys.executable: "python"}


def measured(work: Path) -> Section:
    """Time the commands in rounds of random order; the import's cost is a difference within each round.

    ``import avsdk`` alone postpones numpy until a name is used, so the import with all its names is measured too.
    """
    commands = {
        "numpy": [sys.executable, "-c", "import numpy"],
        "avsdk": [sys.executable, "-c", "import avsdk"],
        "names": [sys.executable, "-c", "from avsdk import Bundle, Predictor, load, open_bundle"],
        "help": [*avsdk_command(), "--help"],
    }
    order = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in commands}
    for place in range(ROUNDS + 1):
        for name in order.sample(list(commands), len(commands)):
            seconds = run_timed(commands[name], work / "startup.log").seconds
            if place:  # the first round fills the file cache
                times[name].append(1000.0 * seconds)
    cost, used = (
        median_interval([ours - bare for ours, bare in zip(times[name], times["numpy"], strict=True)])
        for name in ("avsdk", "names")
    )
    helped = median_interval(times["help"])
    assert cost is not None
    assert used is not None
    assert helped is not None
    return Section(
        "Start",
        f"Medians over {ROUNDS} interleaved rounds of fresh processes, timed from outside, with 95 % intervals.",
        tuple(shlex.join([_PROGRAMS.get(command[0], "avsdk"), *command[1:]]) for command in commands.values()),
        (
            at_most("`import avsdk` over `import numpy`", written(cost, "ms"), cost.value, IMPORT_MS, "ms"),
            at_most("the same with all its names", written(used, "ms"), used.value, IMPORT_MS, "ms"),
            at_most("`avsdk --help`", written(helped, "ms"), helped.value, HELP_MS, "ms"),
        ),
    )
