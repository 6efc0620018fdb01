"""The cells of a bench, as the parent sees them: what each is to measure, and the process that does it."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from avsdk import plugins
from avsdk.bundle import Bundle
from avsdk.errors import AvsdkError, NotAvailable, UnknownName, UsageError
from avsdk.golden import PIPELINE
from avsdk.session import Artifact, session_class
from avsdk.spec import GraphSpec, Sizes
from avsdk.worker import Worker
from avsdk_bench import cell, loadgen, loops, memory, noise
from avsdk_bench.energy import Account
from avsdk_bench.facts import Accuracy, GraphFacts, accuracy_of, graph_facts, runtime_facts
from avsdk_bench.inputs import can_make_media
from avsdk_bench.scenario import OFFLINE, OWN, Load, natural_period_ms, seconds_per_sample
from avsdk_bench.subjects import Subject, measured_here

THIS_CPU = "this-cpu"
OPEN_TIMEOUT_S = 900.0
_TURN_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class CellPlan:
    """One cell: a graph, or the whole pipeline, of one bundle at one set of sizes.

    ``factory`` runs in the cell's process and returns a ``CellWorker``; it gets ``arguments`` and the parent's clock.
    ``python`` are the words that start that process, this Python where empty. ``settings`` are the engine's own;
    ``remark`` stands in the row, as that it was measured elsewhere than on the target. ``absent``: why there is nothing
    to measure. ``load`` is how requests arrive, ``natural_period_ms`` how often a live source would send one.
    """

    bundle: str
    graph: str
    target: str
    engine: str
    device: str
    precision: str
    threads: int
    sizes: Mapping[str, int]
    size_mb: float | None
    factory: Callable[..., object]
    arguments: Mapping[str, Any]
    model: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""
    python: tuple[str, ...] = ()
    absent: AvsdkError | None = None
    graphs: tuple[GraphFacts, ...] = ()
    parity: Accuracy | None = None
    load: Load = field(default_factory=Load)
    natural_period_ms: float | None = None

    @property
    def items(self) -> int:
        """Items per run: the batch."""
        return self.sizes.get("batch", 1)

    @property
    def label(self) -> str:
        """What messages call the cell."""
        words = [Path(self.bundle).name, self.graph, sizes_text(self.sizes), *self.settings.values()]
        return " ".join(word for word in words if word)

    @property
    def group(self) -> tuple[str, str]:
        """Cells of one group do the same work and may be compared."""
        return self.graph, sizes_text(self.sizes)


@dataclass(frozen=True)
class ColdStartFacts:
    """The answer of a cell that opened: ms from spawn to the first output, by phase, and the origin of its input."""

    total_ms: float
    phases: Mapping[str, float]
    source: str


class Process(Protocol):
    """What a cell asks of the process that it lives in: ``avsdk.worker.Worker``, here or on another machine."""

    def ask(self, method: str, /, **arguments: Any) -> Any:
        """Call a method of what the process holds."""

    def call(self, function: Callable[..., Any], /, **arguments: Any) -> Any:
        """Call a function in the process."""

    def close(self) -> None:
        """End the process."""


class Cell:
    """The process of one cell. The parent sleeps while a request is served; ``account`` is charged with the turns."""

    def __init__(self, plan: CellPlan, env: Mapping[str, str] | None = None) -> None:
        self.plan = plan
        self._worker: Process | None = None
        self._env = dict(env or {})
        self.load: Mapping[str, Any] = {"scenario": plan.load.scenario, "loop": OWN}
        self.account: Account | None = None
        self._pids: list[int] = []

    def open(self) -> ColdStartFacts:
        """Start the process and load what it measures. Raises what the load raises."""
        if self.plan.absent is not None:
            raise self.plan.absent
        spawned = time.perf_counter_ns()
        worker = self._worker = Worker(
            self.plan.label,
            self.plan.python or sys.executable,
            timeout_s=_TURN_TIMEOUT_S,
            env={**_thread_limits(self.plan.threads), **self._env},
        )
        if self.plan.python:  # no package there offers avsdk's plug-ins
            worker.call(plugins.lend, entries=plugins.offered("engines", "predictors"))
        worker.open(self.plan.factory, timeout_s=OPEN_TIMEOUT_S, spawned_ns=spawned, **self.plan.arguments)
        facts = worker.ask("opened")
        self._pids = [int(pid) for pid in worker.ask("pids")]
        return ColdStartFacts(facts["cold_start_ms"], facts["phases"], facts["input"])

    def runtime(self) -> Mapping[str, Any]:
        """The runtime that lives in the process: version, build, processors, environment."""
        assert self._worker is not None
        found: Mapping[str, Any] = self._worker.call(runtime_facts, engine=self.plan.engine)
        return found

    def execution(self) -> Mapping[str, Mapping[str, Any]]:
        """What executed, per graph. Raises ``SilentFallback``."""
        found: Mapping[str, Mapping[str, Any]] = self._ask("execution")
        return found

    def run(self, n: int, lead_in: int = 0) -> NDArray[np.int64]:
        """``n`` durations in ns."""
        samples: NDArray[np.int64] = self._ask("run", n=n, lead_in=lead_in)
        return samples

    @property
    def group(self) -> tuple[str, str]:
        """Cells of one group do the same work."""
        return self.plan.group

    def settle(self, typical_s: float, slowest_s: float) -> float:
        """Work out what the scenario leaves to the cell. Raises ``NotAvailable`` for LoadGen where it is not."""
        version = "" if self.plan.load.loop == OWN else str(self._ask("loadgen_version"))
        plan = self.plan
        self.load = plan.load.in_use(plan.items, typical_s, version, plan.natural_period_ms, slowest_s)
        if self.load["scenario"] == OFFLINE and self.load["loop"] == OWN:
            self.load = {**self.load, "callers": int(self._ask("callers"))}
        if self.load["loop"] == loops.LOADGEN and not version:
            raise NotAvailable(f"the Python of {plan.label} has no MLPerf LoadGen", fix=loadgen.FIX)
        return seconds_per_sample(self.load, typical_s)

    def turn(self, n: int, lead_in: int, seed: int) -> NDArray[np.int64]:
        """``n`` samples of the scenario in ns."""
        runs = n * int(self.load.get("runs_per_query", 1)) + lead_in
        counted = self.account.turn(runs * self.plan.items) if self.account else contextlib.nullcontext()
        with counted:
            samples: NDArray[np.int64] = self._ask("turn", load=self.load, n=n, lead_in=lead_in, seed=seed)
        return samples

    def resident_mb(self) -> float | None:
        """The resident memory of the cell's processes, read from outside."""
        return memory.resident_mb(self._pids)

    def memory(self) -> Mapping[str, Any]:
        """MB of the cell's processes by stage, and their peak."""
        found: Mapping[str, Any] = self._ask("memory")
        return found

    def stages(self) -> Mapping[str, float] | None:
        """Mean ms per stage of a pipeline; None for a graph."""
        found: Mapping[str, float] | None = self._ask("stages")
        return found

    def involuntary_switches(self) -> int | None:
        """Of the cell's processes, so far; None where the system does not tell."""
        return noise.involuntary_switches(self._pids)

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()

    def _ask(self, method: str, **arguments: Any) -> Any:
        if self._worker is None:
            raise UsageError(f"the cell {self.plan.label!r} was asked before it was opened")
        return self._worker.ask(method, **arguments)

    def __enter__(self) -> Cell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def plans_for(
    bundle: Bundle,
    axes: Sequence[Sizes],
    threads: int,
    *,
    seed: int = 0,
    name: str = "",
    settings: Mapping[str, str] | None = None,
    pipeline: bool = True,
) -> list[CellPlan]:
    """A cell per graph and size, and one for the whole pipeline per size where the bench can make its media.

    Without ``axes`` the sizes are those that were built, or the spec's defaults where the axes are dynamic. Raises
    ``UsageError`` for an axis that no graph has or a size that the spec does not admit.
    """
    subject = Subject(name or str(bundle.path), bundle, settings or {})
    graphs = bundle.manifest.spec.graphs
    check_axes(graphs, axes)
    plans = []
    for graph in graphs:
        for sizes in _cell_sizes(bundle, graph, axes):
            arguments = {"graph": graph.name, "sizes": sizes}
            plans.append(_plan(subject, bundle, graph.name, sizes, threads, seed, cell.open_graph, arguments))
    if pipeline and can_make_media(bundle.manifest.spec):
        for sizes in _cell_sizes(bundle, graphs[0], axes):
            single = {**sizes, "batch": 1} if "batch" in sizes else sizes
            arguments = {"sizes": single}
            plans.append(_plan(subject, bundle, PIPELINE, single, threads, seed, cell.open_pipeline, arguments))
    return plans


def absent_plan(subject: Subject, threads: int) -> CellPlan:
    """The cell of a target that nothing could be built for: a row that says why."""
    assert subject.target is not None
    candidates = subject.target.candidates
    return CellPlan(
        bundle=subject.name,
        graph=PIPELINE,
        target=subject.target.name,
        engine=candidates[0].engine if candidates else "",
        device=candidates[0].device if candidates else subject.target.name,
        precision=subject.precision,
        threads=threads,
        sizes=dict(subject.sizes[0]) if subject.sizes else {},
        size_mb=None,
        factory=cell.open_graph,
        arguments={},
        settings=dict(subject.settings),
        absent=subject.absent,
    )


def sizes_text(sizes: Sizes) -> str:
    """``256x256`` for height and width, ``axis=size`` for the others; a batch of 1 goes without saying."""
    shown = dict(sizes)
    parts = []
    if {"height", "width"} <= set(shown):
        parts.append(f"{shown.pop('height')}x{shown.pop('width')}")
    parts += [f"{axis}={size}" for axis, size in shown.items() if not (axis == "batch" and size == 1)]
    return " ".join(parts)


def sizes_from_text(text: str) -> dict[str, int]:
    """Parse ``height=400,width=600``."""
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, equals, value = part.partition("=")
        if not equals or not axis.strip() or not value.strip().isdecimal() or int(value) < 1:
            raise UsageError(f"--axis {text!r}: {part!r} is no axis", expected="AXIS=SIZE,... as height=400,width=600")
        sizes[axis.strip()] = int(value)
    return sizes


def _plan(
    subject: Subject, bundle: Bundle, graph: str, sizes: Mapping[str, int], threads: int, seed: int,
    factory: Callable[..., object], arguments: Mapping[str, Any],
) -> CellPlan:  # fmt: skip
    manifest = bundle.manifest
    artifact = _artifact(manifest.artifacts, graph, sizes)
    used = [artifact] if artifact and graph != PIPELINE else manifest.artifacts
    names = {file for item in used for file in item.files}
    first = artifact or manifest.artifacts[0]
    remark = measured_here(manifest.target, first.engine)
    return CellPlan(
        bundle=subject.name,
        graph=graph,
        target=manifest.target,
        engine=first.engine,
        device=THIS_CPU if remark and first.device == "cpu" else first.device,
        precision=first.precision,
        threads=threads,
        sizes=sizes,
        size_mb=round(math.fsum(bundle.file(file).stat().st_size for file in names) / 1e6, 3),
        factory=factory,
        arguments={"bundle": str(bundle.path.resolve()), "threads": threads, "seed": seed, **arguments},
        model={file: manifest.files[file] for file in manifest.model.values()},
        settings=dict(subject.settings),
        remark=remark,
        python=_python_of(first.engine),
        graphs=graph_facts(bundle, graph),
        parity=accuracy_of(bundle, graph),
        natural_period_ms=natural_period_ms(manifest.spec, sizes),
    )


def _python_of(engine: str) -> tuple[str, ...]:
    """The words that start the Python that the engine's runtime lives in; empty for this one and for one not here."""
    try:
        return session_class(engine).python()
    except NotAvailable:
        return ()


def _artifact(artifacts: Sequence[Artifact], graph: str, sizes: Sizes) -> Artifact | None:
    """The artifact that would run this graph at these sizes; another of the graph where none was built for them."""
    of_graph = [item for item in artifacts if item.graph == graph]
    fitting = [item for item in of_graph if item.shapes is None or dict(item.shapes) == dict(sizes)]
    return next(iter(fitting + of_graph), None)


def check_axes(graphs: Sequence[GraphSpec], axes: Sequence[Sizes]) -> None:
    """Raise ``UnknownName`` for an axis that no graph has."""
    known = {axis for graph in graphs for axis in graph.axes}
    for sizes in axes:
        if unknown := sorted(set(sizes) - known):
            raise UnknownName.among("axis", unknown[0], known, fix="leave --axis out: all sizes are fixed")


def _cell_sizes(bundle: Bundle, graph: GraphSpec, axes: Sequence[Sizes]) -> list[dict[str, int]]:
    artifacts = [item for item in bundle.manifest.artifacts if item.graph == graph.name]
    built = [dict(item.shapes) for item in artifacts if item.shapes is not None]
    asked = [{axis: size for axis, size in sizes.items() if axis in graph.axes} for sizes in axes] or built or [{}]
    found = [graph.complete_sizes(sizes) for sizes in asked]
    return [sizes for place, sizes in enumerate(found) if sizes not in found[:place]]


def _thread_limits(threads: int) -> dict[str, str]:
    """Bound the pools of libraries that a session does not configure itself, such as numpy's."""
    return {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
