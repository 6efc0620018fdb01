"""Runs cases through one engine in a worker, survives its death, and says which case it died on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance.cases import CaseName, write_cases
from tests.conformance.under_test import EngineUnderTest

from avsdk.errors import ToolchainCrashed
from avsdk.worker import Worker

_CASE_S = 60.0
_START_S = 120.0
_WORKER = {"OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore"}


@dataclass(frozen=True)
class Outcome:
    """What came of one case. ``stage``: compile, open, run, compare, crashed or passed. ``predicted``: the preflight's
    verdict before any of it: ok, rewrite, no_path or unknown, and ``why`` its reason for no path."""

    case: CaseName
    stage: str
    reason: str
    predicted: str
    why: str
    seconds: float

    @property
    def passed(self) -> bool:
        return self.stage == "passed"

    @property
    def compiled(self) -> bool:
        """Whether there was an artifact that the runtime loaded."""
        return self.stage in ("passed", "compare", "run")


def suite_cases(folder: Path, share: int = 1) -> tuple[CaseName, ...]:
    """Write the suite, or one case of ``share``, into ``folder``."""
    with Worker("conformance-cases", timeout_s=_START_S, env=_WORKER) as worker:
        listed = worker.call(write_cases, folder=str(folder), share=share)
    return tuple(CaseName(**item) for item in listed)


def run_cases(
    engine: str, folder: Path, cases: Iterable[CaseName], done: Callable[[Outcome], None] = lambda outcome: None
) -> tuple[Outcome, ...]:
    """One outcome per case, in order. A worker that dies or hangs is replaced; its case is ``crashed``."""
    outcomes: list[Outcome] = []
    worker: Worker | None = None
    try:
        for case in cases:
            if worker is None:
                worker = _opened(engine, folder)
            try:
                answer: Mapping[str, Any] = worker.ask("run", name=str(case), timeout_s=_CASE_S)
                outcome = Outcome(case, **answer)
            except ToolchainCrashed as error:
                outcome = Outcome(case, "crashed", error.failed.splitlines()[0][:300], "", "", 0.0)
                worker.close()
                worker = None
            outcomes.append(outcome)
            done(outcome)
    finally:
        if worker is not None:
            worker.close()
    return tuple(outcomes)


def _opened(engine: str, folder: Path) -> Worker:
    worker = Worker(f"conformance-{engine}", timeout_s=_START_S, env=_WORKER)
    worker.open(EngineUnderTest, engine=engine, cases=str(folder))
    return worker
