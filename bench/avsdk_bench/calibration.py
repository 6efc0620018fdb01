"""A fixed matrix product that is timed around each round: when it drifts, the machine changed, not the model."""

from __future__ import annotations

import time

import numpy as np

from avsdk.worker import Worker

SIZE = 384
REPEATS = 15
DRIFT_LIMIT = 0.05


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


class Calibration:
    """The parent's end: call it to measure."""

    def __init__(self, threads: int) -> None:
        limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        self._worker = Worker("calibration", timeout_s=120.0, env=limits)
        self._worker.open(CalibrationKernel)

    def __call__(self) -> float:
        """The kernel's time now, in ms."""
        return float(self._worker.ask("measure"))

    def close(self) -> None:
        """End its process."""
        self._worker.close()


def drifted(before_ms: float, after_ms: float) -> bool:
    """Whether the kernel's time changed by more than 5 % either way."""
    return max(before_ms, after_ms) > (1.0 + DRIFT_LIMIT) * min(before_ms, after_ms)
