"""A fixed matrix product that is timed around each round: when it drifts, the machine changed, not the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avsdk.worker import Worker

SIZE = 384
REPEATS = 15
DRIFT_LIMIT = 0.05
_CACHED_BYTES, _MEMORY_BYTES = 1 << 20, 32 << 20
_CACHE_SIZES = Path("/sys/devices/system/cpu/cpu0/cache")
_CACHE_SHARE = 0.25  # of the last level: a guest shares it with its neighbours


@dataclass(frozen=True)
class Rates:
    """What this machine reaches with these threads: the calibration kernel's operations per s, and bytes per s of a
    copy that stays in the cache and of one that does not, read and write counted. ``cache_bytes``: what stays in it.
    """

    flops_per_s: float
    bytes_per_s: float
    cached_bytes_per_s: float
    cache_bytes: int
    threads: int = 1


class CalibrationKernel:
    """Hosted in a process of its own, so that the parent never computes."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self._a = random.standard_normal((SIZE, SIZE), dtype=np.float32)
        self._b = random.standard_normal((SIZE, SIZE), dtype=np.float32)
        self.measure()

    def measure(self) -> float:
        """The median time of one product, in ms."""
        clock = time.perf_counter_ns
        times = []
        for _ in range(REPEATS):
            start = clock()
            np.matmul(self._a, self._b)
            times.append(clock() - start)
        return float(np.median(times)) / 1e6

    def rates(self, threads: int = 1) -> dict[str, float]:
        """The best of many tries: what disturbs them only ever slows them down. See ``Rates``."""
        into = np.empty_like(self._a)
        product_s = _best_s(lambda: np.matmul(self._a, self._b, out=into), 3 * REPEATS)
        return {
            "flops_per_s": 2.0 * SIZE**3 / product_s,
            "bytes_per_s": _copied_bytes_per_s(_MEMORY_BYTES, threads),
            "cached_bytes_per_s": _copied_bytes_per_s(_CACHED_BYTES, threads),
        }


def _copied_bytes_per_s(size: int, threads: int) -> float:
    """Read and written, by so many threads at once, each with arrays of its own."""
    arrays = [(np.ones(size // 4, np.float32), np.empty(size // 4, np.float32)) for _ in range(threads)]
    repeats = max(20, min(200, (512 << 20) // size))
    if threads == 1:
        return 2.0 * size / _best_s(lambda: np.copyto(arrays[0][1], arrays[0][0]), repeats)
    with ThreadPoolExecutor(threads) as pool:
        best_s = _best_s(lambda: list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), arrays)), repeats)
    return 2.0 * size * threads / best_s


def _best_s(run: Callable[[], Any], repeats: int) -> float:
    clock = time.perf_counter_ns
    best = float("inf")
    for _ in range(repeats):
        start = clock()
        run()
        best = min(best, clock() - start)
    return best / 1e9


def cache_bytes(folder: Path = _CACHE_SIZES) -> int:
    """What stays in the last level of cache, by its size; 4 MB where the system does not tell."""
    sizes = [
        int(text[:-1]) << 10 for file in folder.glob("index*/size") if (text := file.read_text().strip())[-1:] == "K"
    ]
    return int(_CACHE_SHARE * max(sizes)) if sizes else 4 << 20


class Calibration:
    """The parent's end: call it to measure."""

    def __init__(self, threads: int) -> None:
        limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        self._threads = threads
        self._worker = Worker("calibration", timeout_s=120.0, env=limits)
        self._worker.open(CalibrationKernel)

    def __call__(self) -> float:
        """The kernel's time now, in ms."""
        return float(self._worker.ask("measure"))

    def rates(self) -> Rates:
        """What the machine reaches now."""
        return Rates(
            **self._worker.ask("rates", threads=self._threads), cache_bytes=cache_bytes(), threads=self._threads
        )

    def close(self) -> None:
        """End its process."""
        self._worker.close()


def drifted(before_ms: float, after_ms: float) -> bool:
    """Whether the kernel's time changed by more than 5 % either way."""
    return max(before_ms, after_ms) > (1.0 + DRIFT_LIMIT) * min(before_ms, after_ms)
