"""A cell of a known amount of work, for tests of the bench itself."""

from __future__ import annotations

import numpy as np

from avsdk_bench.cell import CellWorker, ColdStart, Prepared

_SIZE = 64


def open_work(products: int, threads: int, spawned_ns: int) -> CellWorker:
    """A cell whose run is so many products of two 64 x 64 matrices: work of a fixed amount, about 10 us each."""
    del threads

    def prepare(cold: ColdStart) -> Prepared:
        with cold.phase("load_ms"):
            random = np.random.default_rng(0)
            a, b = random.standard_normal((2, _SIZE, _SIZE), dtype=np.float32)
            into = np.empty_like(a)

        def run() -> None:
            for _ in range(products):
                np.matmul(a, b, out=into)

        return Prepared(run, dict, lambda: None, "seeded matrices")

    return CellWorker(spawned_ns, prepare)
