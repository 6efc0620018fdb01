"""The search for the best configurations of a model: what Optuna proposes is built, judged, and measured by the bench.

Candidates are screened in batches, each in short interleaved rounds. The fastest of those within the limits, and what
nothing beats, are measured once more together, in paired rounds, which is what a ranking may rest on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from avsdk.errors import AvsdkError, UsageError
from avsdk_bench.bench import run_bench
from avsdk_bench.plan import CellPlan
from avsdk_bench.report import Report, Row
from avsdk_bench.rounds import LEAST_ROUNDS, SURE_ROUNDS, Settings
from avsdk_bench.scenario import SINGLE_STREAM
from avsdk_bench.tune_build import Builds
from avsdk_bench.tune_choice import Limits, Tuned, front
from avsdk_bench.tune_ledger import Ledger
from avsdk_bench.tune_proposals import Proposals
from avsdk_bench.tune_space import Configuration, Space

Notice = Callable[[str], None]

BATCH = 4
FINALISTS = 6
MOST_FINALISTS = 10
_SCREEN_SHARE = 0.6
_BUILD_SHARE = 0.8
_PUBLISH_SHARE = 0.03
_SCREEN_S = 4.0
_LEAST_SCREEN_S = 0.4
_FINAL_S = 20.0
_LEAST_FINAL_S = 2.0
_CLOSE = 1.25
"""A candidate is measured again that took at most this much more than the fastest: screening is no nearer than that."""


@dataclass(frozen=True)
class Request:
    """What ``avsdk tune`` was asked for. ``limits`` judge; ``budget_s`` is for everything, builds included."""

    model: str
    space: Space
    limits: Limits
    out: Path
    budget_s: float = 600.0
    seed: int = 0
    scenario: str = SINGLE_STREAM

    def __post_init__(self) -> None:
        if not 0 < self.budget_s < math.inf:
            raise UsageError(
                f"a budget of {self.budget_s:g} s", expected="more than 0 s, and an end", fix="--budget-s 600"
            )


@dataclass
class Found:
    """What a search ended with. ``items``: everything that was tried; ``final``: the report of the paired rounds."""

    items: list[Tuned] = field(default_factory=list)
    final: Report | None = None
    stopped_by: str = ""
    elapsed_s: float = 0.0
    size: int = 0


class Search:
    """One search. ``run`` may be interrupted: what was measured is in the ledger by then."""

    def __init__(
        self,
        request: Request,
        builds: Builds,
        ledger: Ledger,
        notice: Notice,
        progress: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._request = request
        self._builds = builds
        self._ledger = ledger
        self._notice = notice
        self._progress = progress
        self._space = request.space.here()
        self._items: dict[str, Tuned] = {}
        self._started = time.monotonic()
        self._skipped = False

    def run(self) -> Found:
        """Screen until the time for it is used or nothing is left, then measure the finalists together."""
        found = Found(size=sum(1 for _ in self._space.configurations()))
        if self._space.offers:
            found.stopped_by = self._screen()
            found.final = self._measure_finalists()
        found.items = list(self._items.values())
        found.elapsed_s = round(time.monotonic() - self._started, 3)
        return found

    def _screen(self) -> str:
        """Measure what is proposed, batch by batch; why that ended: ``space`` or ``budget``."""
        until = self._started + _SCREEN_SHARE * self._request.budget_s
        entries = [item for item in self._ledger.entries.values() if self._space.holds(item.configuration)]
        known = [replace(item, stage="screened") for item in entries]  # the paired rounds of another run are no more
        self._items.update({item.configuration.key: item for item in known})
        proposals = Proposals(self._space, known, self._request.limits, self._request.seed)
        longest = 0.0
        while True:
            batch = self._batch(proposals, until)
            began = time.monotonic()
            if not batch:
                return "budget" if began >= until or self._skipped else "space"
            measured = self._measured(batch, until)
            self._ledger.add(measured)
            self._keep(measured, proposals)
            longest = max(longest, time.monotonic() - began)
            if time.monotonic() + longest > until and not proposals.first:
                return "budget"

    def _batch(self, proposals: Proposals, until: float) -> list[Configuration]:
        """Proposals that are worth measuring, built; fewer where the time ends, but one where nothing is known yet."""
        ready: list[Configuration] = []
        while len(ready) < BATCH:
            known = ready or any(item.rows for item in self._items.values())
            proposed = None if known and time.monotonic() >= until and not proposals.first else proposals.next()
            if proposed is None:
                break
            if known and not self._builds.knows(proposed) and self._too_late_to_build():
                self._skipped = True  # there is no time left to build it
                proposals.drop(proposed)
                continue
            verdict = self._judged(proposed)
            if verdict is None:
                ready.append(proposed)
            else:
                self._keep([verdict], proposals)
        return ready

    def _too_late_to_build(self) -> bool:
        """Builds may take more of the budget than screening: an engine that was never seen may be the best."""
        spent = time.monotonic() - self._started
        return spent + self._builds.longest_s > _BUILD_SHARE * self._request.budget_s

    def _keep(self, tried: Sequence[Tuned], proposals: Proposals) -> None:
        self._items.update({item.configuration.key: item for item in tried})
        proposals.tell(tried)
        self._progress(len(tried))

    def _judged(self, item: Configuration) -> Tuned | None:
        """Why a configuration need not be measured, with as little work as that takes; None for one that must be."""
        slow = self._too_slow(item)
        if slow:
            return Tuned(item, "rejected", reason=slow)
        built = self._builds.get(item)
        if built.error is not None:
            return Tuned(item, "rejected", reason=built.error.failed)
        limits = replace(self._request.limits, max_latency_ms=None)
        misses = limits.misses(Tuned(item, "rejected", _unmeasured(self._builds.cells(item)), built.snr_db, built.drop))
        reason = "; ".join(misses) or self._too_slow(item)
        return Tuned(item, "rejected", (), built.snr_db, built.drop, reason) if reason else None

    def _too_slow(self, item: Configuration) -> str:
        """That the roofline admits no time within the limit; empty where it does, or nothing tells what the work is."""
        limit = self._request.limits.max_latency_ms
        bound = None if limit is None else self._builds.bound_ms(item)
        if limit is None or bound is None or bound <= limit:
            return ""
        return f"it takes {bound:.4g} ms at the very least, by the roofline, and the limit is {limit:g} ms"

    def _measured(self, batch: Sequence[Configuration], until: float) -> list[Tuned]:
        each_s = min(_SCREEN_S, max(_LEAST_SCREEN_S, (until - time.monotonic()) / len(batch)))
        settings = Settings(
            budget_s=each_s * len(batch), rounds=LEAST_ROUNDS, seed=self._request.seed, window_runs=5, window_s=0.25
        )
        found, _ = self._bench(batch, settings)
        return [replace(item, stage="screened" if item.rows else "rejected") for item in found]

    def _measure_finalists(self) -> Report | None:
        """The paired rounds. None where too little time is left, or only one configuration is in question."""
        left = (1.0 - _PUBLISH_SHARE) * self._request.budget_s - (time.monotonic() - self._started)
        chosen = finalists(list(self._items.values()), self._request.limits)
        chosen = chosen[: max(2, int(left / _LEAST_FINAL_S))]
        if len(chosen) < 2:
            return None
        if left < _LEAST_FINAL_S * len(chosen):
            self._notice("no time was left for paired rounds: the figures are those of the screening; raise --budget-s")
            return None
        settings = Settings(budget_s=min(left, _FINAL_S * len(chosen)), rounds=SURE_ROUNDS, seed=self._request.seed)
        found, report = self._bench([item.configuration for item in chosen], settings)
        kept = [replace(item, stage="final") for item in found if item.rows]
        self._items.update({item.configuration.key: item for item in kept})
        self._ledger.add(kept)
        return report

    def _bench(self, batch: Sequence[Configuration], settings: Settings) -> tuple[list[Tuned], Report]:
        """Measure all cells of these in one bench; a configuration of which a cell failed has no rows."""
        plans: list[CellPlan] = []
        owners: list[int] = []
        for place, item in enumerate(batch):
            cells = self._builds.cells(item)
            plans += cells
            owners += [place] * len(cells)
        report, errors = run_bench(plans, settings)
        return [
            self._tuned(item, [row for row, owner in zip(report.rows, owners, strict=True) if owner == place],
                        [error for cell, error in errors.items() if owners[cell] == place])
            for place, item in enumerate(batch)
        ], report  # fmt: skip

    def _tuned(self, item: Configuration, rows: Sequence[Row], errors: Sequence[AvsdkError]) -> Tuned:
        built = self._builds.get(item)
        if errors:
            return Tuned(item, "rejected", (), built.snr_db, built.drop, errors[0].failed)
        return Tuned(item, "screened", tuple(rows), built.snr_db, built.drop)


def finalists(items: Sequence[Tuned], limits: Limits) -> list[Tuned]:
    """Who is measured again: of what was measured within the limits the fastest and those near it, then the front.

    Where nothing is within the limits, the front alone, the fastest first.
    """
    measured = [item for item in items if item.rows and item.stage != "predicted"]
    within = [item for item in measured if not limits.misses(item)]
    ranked = sorted(within or measured, key=lambda item: (-item.work, item.item_ms))
    if not ranked:
        return []
    near = [item for item in ranked if item.work == ranked[0].work and item.item_ms <= _CLOSE * ranked[0].item_ms]
    others = [ranked[place] for place in front(ranked) if ranked[place] not in near]
    return (near[:FINALISTS] + others)[:MOST_FINALISTS]


def _unmeasured(plans: Sequence[CellPlan]) -> tuple[Row, ...]:
    """What is known of a configuration's rows before they are measured: the size."""
    return tuple(
        Row(
            bundle=plan.bundle, graph=plan.graph, target=plan.target, engine=plan.engine, device=plan.device,
            precision=plan.precision, threads=plan.threads, shapes=plan.sizes, size_mb=plan.size_mb,
            status="unavailable",
        )
        for plan in plans
    )  # fmt: skip
