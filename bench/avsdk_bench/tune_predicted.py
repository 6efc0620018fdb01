"""Configurations on devices that are not here: their latency is the predictor's, and they are marked so."""

from __future__ import annotations

import time
from collections.abc import Callable

from avsdk_bench.predicted_rows import predicted_rows
from avsdk_bench.subjects import Request, Subject, absent_device
from avsdk_bench.tune_build import Asked, Builds
from avsdk_bench.tune_choice import Tuned
from avsdk_bench.tune_space import Configuration, Space


def predicted(space: Space, builds: Builds, asked: Asked, notice: Callable[[str], None], left_s: float) -> list[Tuned]:
    """One entry per device, precision and sizes; accuracy and size where the bundle can be built in ``left_s``."""
    until = time.monotonic() + left_s
    request = Request([builds.model], settings=asked.settings)
    found = []
    for name, offer in space.here(False).offers.items():
        for precision in offer.precisions:
            for sizes in space.sizes:
                item = Configuration(name, precision, 0, dict(sizes))
                subject = Subject(
                    builds.model, target=offer.target, precision=precision, sizes=(sizes,) if sizes else (),
                    elsewhere=absent_device(offer.target),
                )  # fmt: skip
                rows, errors = predicted_rows([subject], request, notice)
                if errors:
                    found.append(Tuned(item, "rejected", reason=next(iter(errors.values())).failed))
                    continue
                plain = Tuned(item, "predicted", tuple(rows))
                in_time = time.monotonic() + builds.longest_s < until
                found.append(builds.with_accuracy(plain) if in_time else plain)
    return found
