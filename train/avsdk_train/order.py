"""The order in which a run sees its data: a pure function of the seed and the step, so nothing of it is stored.

A resumed run computes the same indices and the same augmentation again, whatever reads them. With several processes
each takes its part of the items that one process with the summed batch size takes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from avsdk_train.family import Sample


@dataclass(frozen=True)
class Order:
    """Which steps are drawn, ``start .. stop - 1``, and which part of them is this process's."""

    batch_size: int
    seed: int
    start: int
    stop: int
    process: int = 0
    processes: int = 1

    def samples(self, count: int, step: int, corrupt: Collection[int] = ()) -> list[Sample]:
        """This process's items of a step, out of ``count``."""
        part = step * self.processes + self.process
        return samples_of_step(count, self.batch_size, self.seed, part, corrupt)


def samples_of_step(count: int, batch_size: int, seed: int, step: int, corrupt: Collection[int] = ()) -> list[Sample]:
    """Which items a step sees, and the generator for each one's augmentation.

    Items are permuted anew in every epoch; batches run on across its end, so no item is dropped. A corrupt one is
    replaced by the next of its epoch's order that is not.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    orders = {
        epoch: np.random.default_rng([seed, 0, epoch]).permutation(count) for epoch in {p // count for p in positions}
    }

    def index_at(position: int) -> int:
        order = orders[position // count]
        turns = (int(order[(position + further) % count]) for further in range(count))
        return next(index for index in turns if index not in corrupt)

    return [Sample(index_at(position), np.random.default_rng([seed, 1, position])) for position in positions]
