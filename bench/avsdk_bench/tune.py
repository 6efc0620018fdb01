"""The search for the best configurations of a model: what Optuna proposes is built, judged, and measured by the bench.

Candidates are screened in batches, each in short interleaved rounds. The fastest of those within the limits, and what
nothing beats, are measured once more together, in paired rounds, which is what a ranking may rest on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from avsdk.errors import AvsdkError, UsageError
from avsdk_bench.bench import run_bench
from avsdk_bench.plan import CellPlan
from avsdk_bench.report import Report, Row
from avsdk_bench.rounds import LEAST_ROUNDS, SURE_ROUNDS, Settings
from avsdk_bench.tune_build import Builds
from avsdk_bench.tune_choice import Limits, Tuned, front
from avsdk_bench.tune_ledger import Ledger
from avsdk_bench.tune_proposals import Proposals
from avsdk_bench.tune_space import Configuration, Space

Notice = Callable[[str], None]

BATCH = 4
FINALISTS = 6
_SCREEN_SHARE = 0.6
_SCREEN_S = 4.0
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

    def __post_init__(self) -> None:
        if not self.budget_s > 0:
            raise UsageError(f"a budget of {self.budget_s:g} s", expected="more than 0 s", fix="--budget-s 600")


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
        """Measure batches of what is proposed; why that ended: ``space`` or ``budget``."""
        until = self._started + _SCREEN_SHARE * self._request.budget_s
        known = {key: item for key, item in self._ledger.entries.items() if self._space.holds(item.configuration)}
        self._items.update(known)
        proposals = Proposals(self._space, list(known.values()), self._request.limits, self._request.seed)
        longest = 0.0
        while True:
            began = time.monotonic()
            batch = proposals.next(BATCH)
            if not batch:
                return "space"
            judged = [self._judged(item) for item in batch]
            measured = self._measured([item for item, verdict in zip(batch, judged, strict=True) if verdict is None])
            tried = [*filter(None, judged), *measured]
            self._items.update({item.configuration.key: item for item in tried})
            self._ledger.add(measured)
            proposals.tell(tried)
            self._progress(len(tried))
            longest = max(longest, time.monotonic() - began)
            if time.monotonic() + longest > until:
                return "budget"

    def _judged(self, item: Configuration) -> Tuned | None:
        """Why a configuration need not be measured; None for one that must be."""
        built = self._builds.get(item)
        if built.error is not None:
            return Tuned(item, "rejected", reason=built.error.failed)
        plans = self._builds.cells(item)
        sized = Tuned(item, "rejected", _unmeasured(plans), built.snr_db, built.drop)
        misses = [text for text in self._request.limits.misses(sized) if not text.startswith("latency")]
        return replace(sized, rows=(), reason="; ".join(misses)) if misses else None

    def _measured(self, batch: Sequence[Configuration]) -> list[Tuned]:
        if not batch:
            return []
        settings = Settings(
            budget_s=_SCREEN_S * len(batch), rounds=LEAST_ROUNDS, seed=self._request.seed, window_runs=5, window_s=0.25
        )
        found, _ = self._bench(batch, settings)
        return [replace(item, stage="screened" if item.rows else "rejected") for item in found]

    def _measure_finalists(self) -> Report | None:
        """The paired rounds. None where too little time is left, or only one configuration is in question."""
        left = self._request.budget_s - (time.monotonic() - self._started)
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
    return (near[:FINALISTS] + others)[: FINALISTS + 2]


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
