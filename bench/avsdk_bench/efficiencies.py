"""How near each engine comes to a machine's limits, per kind of operator: fitted on what was measured, kept as data.

``efficiencies.json`` is written by ``bench/numbers/prediction.py``. Its factors are inverse efficiencies: an operator
of a kind takes ``compute`` times its operations over the peak, more where the matrix product that it amounts to is
small, plus ``memory`` times its bytes over the bandwidth. All are at least 0, so that more work is never faster.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from avsdk.schema import check_schema, decode
from avsdk_bench.roofline import Roof
from avsdk_bench.work import Operator, Work

FILE = Path(__file__).with_name("efficiencies.json")
LEVEL = 0.9
"""What the intervals are to cover."""
SMALL = 8
"""Columns, rows or depth of a product at which a factor for small ones counts in full; vectors are about as long."""


@dataclass(frozen=True)
class Factors:
    """Of one kind of operator: ``compute`` and ``memory``, and what is added to ``compute`` for a product of 8 columns,
    of depth 8 and of 8 rows; half of it at 16, and so on."""

    compute: float
    memory: float
    narrow: float = 0.0
    shallow: float = 0.0
    short: float = 0.0


@dataclass(frozen=True)
class Fit:
    """The factors of one engine, where they are from, and how wrong they were on models left out of the fit.

    ``errors`` are shares per graph and size, predicted over measured less 1, each by a fit without that graph;
    ``spread`` is the logarithm's half width that holds ``LEVEL`` of them; ``coverage`` the share of the left-out cells
    that an interval made without their graph held.
    """

    machine: str
    version: str
    date: str
    threads: tuple[int, ...]
    kinds: Mapping[str, Factors]
    operator_us: float
    run_us: float
    spread: float
    median_error: float
    coverage: float
    errors: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Elsewhere:
    """How much wider intervals are where nothing like it was measured, as half widths of the logarithm.

    ``engine``: of another engine on the measured machine, from predicting each engine by the fit of the others.
    ``machine``: added for another processor, ``accelerator``: for another kind of device. The last two are assumed, for
    want of a second machine.
    """

    engine: float
    machine: float
    accelerator: float


@dataclass(frozen=True)
class Efficiencies:
    """The whole file. ``flops_per_s`` and so on are the limits of the machine that was measured."""

    engines: Mapping[str, Fit]
    elsewhere: Elsewhere


@cache
def load_efficiencies() -> Efficiencies:
    """The fits that come with avsdk."""
    document = json.loads(FILE.read_text(encoding="utf-8"))
    return decode(Efficiencies, check_schema(document, where=FILE.name), where=FILE.name)


@dataclass(frozen=True)
class Parts:
    """Seconds of a run by what they go to."""

    compute: float
    memory: float
    overhead: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.compute + self.memory + self.overhead

    @property
    def most(self) -> str:
        """What most of the time goes to."""
        return max(("compute", "memory", "overhead"), key=lambda name: float(getattr(self, name)))


def parts_of(work: Work, roof: Roof, precision: str, fit: Fit, operator_us: float | None = None) -> Parts:
    """The time of a graph by one engine's factors; ``operator_us`` in the place of what the fit has for a start."""
    compute = memory = 0.0
    for item in work.operators:
        factors = fit.kinds[item.kind]
        calculated, fused = roof.compute_s(item, precision), item.fused_flops / max(1, item.flops)
        compute += calculated * (1.0 - fused) * compute_factor(item, factors)
        compute += calculated * fused * fit.kinds["elementwise"].compute
        memory += roof.memory_s(item, precision) * factors.memory
    starts = sum(item.steps for item in work.operators)
    each_us = fit.operator_us if operator_us is None else operator_us
    return Parts(compute, memory, 1e-6 * (each_us * starts + fit.run_us))


def compute_factor(item: Operator, factors: Factors) -> float:
    """The inverse efficiency of one operator's arithmetic."""
    small = ((factors.narrow, item.columns), (factors.shallow, item.depth), (factors.short, item.rows))
    return factors.compute + sum(factor * SMALL / max(SMALL, size) for factor, size in small if size)
