"""How requests arrive, inside the cell's process: our own loops; ``avsdk_bench.loadgen`` has LoadGen's.

Each takes ``run``, one pass over the cell's input, and returns durations in ns. Needs numpy and the standard library
only, and Python 3.9, as the cell does.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Run = Callable[[], object]
Samples = NDArray[np.int64]

LOADGEN = "loadgen"


def loadgen_version() -> str:
    """The version of MLPerf LoadGen in this Python; empty where it is not."""
    try:
        return importlib.metadata.version("mlcommons-loadgen")
    except importlib.metadata.PackageNotFoundError:
        return ""


def turn(load: Mapping[str, Any], run: Run, n: int, seed: int) -> Samples:
    """One turn of a scenario: ``n`` queries (for ``offline`` one query of ``n`` runs), by the loop that ``load`` names.

    ``load``: ``scenario``, ``loop``, and what the scenario needs: ``runs_per_query``, ``qps``, ``period_ms``,
    ``callers``.
    """
    if load["loop"] == LOADGEN:
        from avsdk_bench import loadgen

        return loadgen.turn(load, run, n, seed)
    scenario = load["scenario"]
    if scenario == "multi-stream":
        return queries(run, n, int(load["runs_per_query"]))
    if scenario == "offline":
        callers = int(load.get("callers", 1))
        return (queries(run, 1, n) if callers == 1 else side_by_side(run, n, callers)) // n
    if scenario == "server":
        return served(run, poisson_arrivals_ns(seed, float(load["qps"]), n))
    if scenario == "real-time":
        return served(run, np.arange(1, n + 1) * int(round(float(load["period_ms"]) * 1e6)))
    return queries(run, n, 1)


def queries(run: Run, n: int, runs: int) -> Samples:
    """``n`` queries of ``runs`` runs each, the next sent when the last was answered."""
    clock = time.perf_counter_ns
    samples = np.empty(n, dtype=np.int64)
    if runs == 1:  # nothing but the run between the two readings of the clock
        for place in range(n):
            start = clock()
            run()
            samples[place] = clock() - start
        return samples
    for place in range(n):
        start = clock()
        for _ in range(runs):
            run()
        samples[place] = clock() - start
    return samples


def side_by_side(run: Run, runs: int, callers: int) -> Samples:
    """One query of ``runs`` runs, taken by ``callers`` threads as each gets free, as a runtime with streams is fed."""
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(lambda _: None, range(callers)))  # the threads are started before the clock is
        start = time.perf_counter_ns()
        for done in [pool.submit(run) for _ in range(runs)]:
            done.result()
        return np.array([time.perf_counter_ns() - start], dtype=np.int64)


def served(run: Run, arrivals_ns: NDArray[np.int64]) -> Samples:
    """Serve arrivals in order, each when it is due or as soon as the one before is done.

    A latency counts from the scheduled arrival, so that a late answer delays those behind it in the numbers too.
    """
    clock, sleep = time.perf_counter_ns, time.sleep
    samples = np.empty(len(arrivals_ns), dtype=np.int64)
    start = clock()
    for place, arrival in enumerate(arrivals_ns.tolist()):
        due = start + arrival
        wait = due - clock()
        if wait > 0:
            sleep(wait / 1e9)
        run()
        samples[place] = clock() - due
    return samples


def poisson_arrivals_ns(seed: int, qps: float, n: int) -> NDArray[np.int64]:
    """The arrivals of a Poisson process, the first at 0, exactly as LoadGen draws them for this ``schedule_rng_seed``.

    There they are ``std::exponential_distribution<double>(qps)`` over ``std::mt19937``: as libstdc++ has it, two draws
    of 32 bit make a double, and each gap is cut to whole ns.
    """
    draws = np.random.RandomState(seed).randint(0, 2**32, size=2 * max(0, n - 1), dtype=np.uint64).astype(np.float64)
    uniform = (draws[0::2] + draws[1::2] * 2.0**32) / 2.0**64
    gaps = (-np.log(1.0 - uniform) / qps * 1e9).astype(np.int64)
    return np.concatenate([np.zeros(min(n, 1), dtype=np.int64), np.cumsum(gaps)])
