"""What was measured, as data: a row per cell, the comparisons between them, and how it was done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

import avsdk
from avsdk import schema
from avsdk.errors import AvsdkError
from avsdk.files import write_atomic
from avsdk.host import Host
from avsdk_bench import scenario, statistics
from avsdk_bench.facts import Accuracy, GraphFacts, Machine, RuntimeFacts
from avsdk_bench.noise import Noise
from avsdk_bench.plan import THIS_CPU, CellPlan, ColdStartFacts, sizes_text
from avsdk_bench.records import Elsewhere, Judged, VendorComparison
from avsdk_bench.rounds import Measurement
from avsdk_bench.scenario import SINGLE_STREAM
from avsdk_bench.subjects import measured_elsewhere

Status = Literal["measured", "replayed", "predicted", "unavailable"]


@dataclass(frozen=True)
class Row:
    """One cell. Times in ms; ``p50_ci_ms`` is a 95 % interval, ``p90_ms`` and ``p99_ms`` bounds that hold with 99 %.

    ``includes``: the stages in the
    times. ``roofline`` holds ``bound_ms``, ``bound_by`` and ``reached`` (a share), where it is known. ``machine`` names
    an entry of the report's ``elsewhere``; it is empty for the machine of the report itself.
    ``prediction``: of a row ``predicted`` what ``p50_ms`` and ``p50_ci_ms`` say, which is to hold the median with the
    probability ``level``; beside a measured one what would have been predicted, and its ``error`` as a share.
    ``threads`` is 0 where the whole device is meant.
    ``load`` is how requests arrived, with the loop that sent them; ``outcome`` what the scenario says beside latencies.
    For ``offline`` the times are per run, of one query of many runs; for ``server`` and ``real-time`` they count from
    the scheduled arrival. ``stopped_by``: ``precision`` where this row's interval is at most 1 % wide, else what ended
    the measuring.

    A number that was not measured, or for which there are too few samples, is None.
    """

    bundle: str
    graph: str
    target: str
    engine: str
    device: str
    precision: str
    threads: int
    shapes: Mapping[str, int]
    size_mb: float | None
    status: Status
    scenario: str = SINGLE_STREAM
    load: Mapping[str, Any] = field(default_factory=dict)
    outcome: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    fix: str = ""
    effective_precision: str | None = None
    precision_shares: Mapping[str, float] | None = None
    placement: Mapping[str, float] | None = None
    p50_ms: float | None = None
    p50_ci_ms: tuple[float, float] | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    min_ms: float | None = None
    throughput_per_s: float | None = None
    n: int = 0
    rounds: int = 0
    stopped_by: str = ""
    cold_start_ms: float | None = None
    cold_start: Mapping[str, float] | None = None
    cold_starts: Mapping[str, Mapping[str, float]] | None = None
    peak_rss_mb: float | None = None
    memory: Mapping[str, Any] | None = None
    energy: Mapping[str, Any] | None = None
    stages_ms: Mapping[str, float] | None = None
    steady: bool = False
    warm_up_runs: int = 0
    involuntary_switches: int | None = None
    outliers: tuple[tuple[int, int], ...] = ()
    input: str = ""
    model: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    samples_ms: tuple[tuple[float, ...], ...] = ()
    iqr_ms: tuple[float, float] | None = None
    starts_ms: tuple[float, ...] = ()
    includes: tuple[str, ...] = ()
    graphs: tuple[GraphFacts, ...] = ()
    parity: Accuracy | None = None
    runtime: RuntimeFacts | None = None
    roofline: Mapping[str, Any] | None = None
    prediction: Mapping[str, Any] | None = None
    machine: str = ""

    @property
    def label(self) -> str:
        """What messages call the row."""
        words = (Path(self.bundle).name, self.graph, sizes_text(self.shapes), self.place, self.machine)
        return " · ".join(word for word in words if word)

    @property
    def snr_db(self) -> float | None:
        """How far the bundle's numbers are from its fp32 reference's, where that was compared."""
        return self.parity.snr_db if self.parity is not None else None

    @property
    def place(self) -> str:
        """Engine, device and the engine's settings: ``torch:cpu compile``; the device where no engine serves it."""
        return " ".join([f"{self.engine}:{self.device}".lstrip(":"), *self.settings.values()])


@dataclass(frozen=True)
class Comparison:
    """Two rows that do the same work, compared round by round: ``ratio`` below 1 means that row ``row`` is faster.

    ``steady`` is false where too few rounds were undisturbed for the verdict to be relied on.
    """

    row: int
    reference: int
    ratio: float
    ratio_ci: tuple[float, float]
    rounds: int
    verdict: str
    steady: bool = False


@dataclass(frozen=True)
class Method:
    """How the numbers came about; enough to judge them and to do it again."""

    budget_s: float
    least_rounds: int
    rounds: int
    void_rounds: int
    void_rounds_used: bool
    stopped_by: str
    elapsed_s: float
    seed: int
    order: tuple[tuple[int, ...], ...]
    void: tuple[bool, ...]
    calibration_ms: tuple[tuple[float, float], ...]
    percentiles: str = "upper bounds with 99 % confidence, as MLPerf LoadGen's early stopping; not an MLPerf result"
    clock: str = "perf_counter_ns around each run, from outside the session"


@dataclass(frozen=True)
class Report:
    """One bench: the machine, the rows in the order that was asked for, comparisons, noise, method, command."""

    host: Host
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    noise: Noise
    method: Method
    command: str
    date: str
    avsdk: str = avsdk.__version__
    machine: Machine | None = None
    elsewhere: Mapping[str, Elsewhere] = field(default_factory=dict)
    baseline: tuple[Judged, ...] = ()
    vendors: tuple[VendorComparison, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints and ``--out`` holds."""
        document: dict[str, Any] = schema.encode(self)
        return {"schema": schema.SCHEMA, **document}

    def write(self, path: Path) -> None:
        """Write the whole report, raw samples included, or nothing."""
        write_atomic(path, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")


@dataclass
class Observed:
    """What a cell's process told about itself, beside the latencies."""

    cold: ColdStartFacts | None = None
    starts: Mapping[str, Mapping[str, float]] | None = None
    execution: Mapping[str, Mapping[str, Any]] | None = None
    memory: Mapping[str, Any] | None = None
    stages: Mapping[str, float] | None = None
    runtime: Mapping[str, Any] | None = None
    load: Mapping[str, Any] = field(default_factory=dict)
    energy: Mapping[str, Any] | None = None
    switches: int | None = None
    failure: AvsdkError | None = None


def row_from(plan: CellPlan, observed: Observed, measurement: Measurement, cell: int) -> Row:
    """The row of one cell; ``unavailable`` with the reason where it could not be measured."""
    stood_in = _by_a_cpu_instead(plan, observed.execution)
    facts = _identity(plan) | _execution_facts(observed.execution) | ({"device": THIS_CPU} if stood_in else {})
    if observed.cold is not None:
        facts |= {
            "cold_start_ms": round(observed.cold.total_ms, 3),
            "cold_start": {name: round(value, 3) for name, value in observed.cold.phases.items()},
            "cold_starts": observed.starts,
            "input": observed.cold.source,
        }
    if observed.runtime is not None:
        facts["runtime"] = schema.decode(RuntimeFacts, observed.runtime, where="runtime")
    if observed.stages:
        facts["includes"] = tuple(observed.stages)
    failure = observed.failure or measurement.failures.get(cell)
    if failure is not None:
        return Row(**facts, status="unavailable", reason=failure.failed, fix=failure.fix)
    memory = observed.memory or {}
    return Row(
        **facts,
        **_latencies(plan, measurement, cell, observed.load),
        load=observed.load,
        status="measured",
        reason=measured_elsewhere(plan.device) if stood_in else plan.remark,
        memory=observed.memory,
        energy=observed.energy,
        stages_ms={name: round(value, 4) for name, value in observed.stages.items()} if observed.stages else None,
        peak_rss_mb=memory.get("peak_rss_mb"),
        involuntary_switches=observed.switches,
    )


def comparisons_from(plans: Sequence[CellPlan], measurement: Measurement) -> tuple[Comparison, ...]:
    """Each cell against the first measured one that does the same work: same graph, same sizes, same threads."""
    found = []
    references: dict[tuple[object, ...], int] = {}
    for cell, plan in enumerate(plans):
        if cell in measurement.failures or not measurement.medians_ms(cell):
            continue
        reference = references.setdefault((plan.group, plan.threads), cell)
        paired = measurement.ratio(cell, reference) if reference != cell else None
        if paired is not None:
            ci = (round(paired.ratio.low, 5), round(paired.ratio.high, 5))
            ratio, steady = round(paired.ratio.value, 5), measurement.enough_valid
            found.append(Comparison(cell, reference, ratio, ci, paired.rounds, paired.verdict, steady))
    return tuple(found)


def method_from(measurement: Measurement, budget_s: float) -> Method:
    """How the measurement was done."""
    calibrations = [item.calibration_ms for item in measurement.rounds]
    return Method(
        budget_s=budget_s,
        least_rounds=measurement.least_rounds,
        rounds=len(measurement.rounds),
        void_rounds=measurement.void_rounds,
        void_rounds_used=bool(measurement.void_rounds) and not measurement.enough_valid,
        stopped_by=measurement.stopped_by or "no cell could be measured",
        elapsed_s=round(measurement.elapsed_s, 3),
        seed=measurement.seed,
        order=tuple(item.order for item in measurement.rounds),
        void=tuple(item.void for item in measurement.rounds),
        calibration_ms=tuple((round(before, 4), round(after, 4)) for before, after in calibrations),
    )


def _identity(plan: CellPlan) -> dict[str, Any]:
    return {
        "bundle": plan.bundle, "graph": plan.graph, "target": plan.target, "engine": plan.engine, "device": plan.device,
        "precision": plan.precision, "threads": plan.threads, "shapes": dict(plan.sizes), "size_mb": plan.size_mb,
        "model": dict(plan.model), "settings": dict(plan.settings), "graphs": plan.graphs, "parity": plan.parity,
        "includes": ("infer",), "scenario": plan.load.scenario,
    }  # fmt: skip


def _by_a_cpu_instead(plan: CellPlan, execution: Mapping[str, Mapping[str, Any]] | None) -> bool:
    """Whether a processor ran what was built for another kind of device, as PJRT's own may for a TPU."""
    meant = plan.device not in ("cpu", THIS_CPU)
    return meant and bool(execution) and all(facts["device"] == "cpu" for facts in (execution or {}).values())


def _execution_facts(execution: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    """Precision and placement; with several graphs the keys name the graph: ``encoder/fp32``."""
    if not execution:
        return {}
    single = len(execution) == 1

    def joined(key: str) -> dict[str, float]:
        return {
            (name if single else f"{graph}/{name}"): round(share, 4)
            for graph, facts in execution.items()
            for name, share in facts[key].items()
        }

    precisions = dict.fromkeys(str(facts["effective_precision"]) for facts in execution.values())
    return {
        "effective_precision": "; ".join(precisions),
        "precision_shares": joined("precision_shares"),
        "placement": joined("placement"),
    }


def _latencies(plan: CellPlan, measurement: Measurement, cell: int, load: Mapping[str, Any]) -> dict[str, Any]:
    turns = measurement.turns(cell)
    rounds = [item.samples[cell] / 1e6 for item in turns]
    pooled = np.concatenate(rounds)
    interval = measurement.interval_ms(cell)
    warm = measurement.warm_ups[cell]
    ends = np.cumsum([0, *(len(item) for item in rounds)])
    marked = [(int(np.searchsorted(ends, place, side="right")) - 1, place) for place in statistics.outliers(pooled)]
    bounds = {f"p{share}_ms": statistics.percentile_bound(pooled, share / 100) for share in (90, 99)}
    return {
        "p50_ms": round(float(np.median(measurement.medians_ms(cell))), 6),
        "p50_ci_ms": (round(interval.low, 6), round(interval.high, 6)) if interval else None,
        **{name: None if bound is None else round(bound, 6) for name, bound in bounds.items()},
        "min_ms": round(float(pooled.min()), 6),
        "iqr_ms": tuple(round(float(value), 6) for value in np.quantile(pooled, (0.25, 0.75))),
        "throughput_per_s": round(scenario.throughput_per_s(load, plan.items, turns, cell), 4),
        "outcome": scenario.outcome(load, turns, cell),
        "n": len(pooled),
        "rounds": len(rounds),
        "stopped_by": measurement.row_stopped_by(cell),
        "steady": warm.steady and measurement.enough_valid,
        "warm_up_runs": len(warm.samples),
        "outliers": tuple((at, place - int(ends[at])) for at, place in marked),
        "samples_ms": tuple(tuple(np.round(item, 6).tolist()) for item in rounds),
    }
