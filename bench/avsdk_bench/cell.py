"""What lives inside a cell: one process that holds one thing to measure and runs it in a timed loop.

The parent starts the process and asks ``CellWorker`` by the protocol of ``avsdk.worker``. The loop times ``run`` from
outside; a session never times itself. Needs numpy and ``avsdk`` only, so that a cell can live in a toolchain's Python.
"""

from __future__ import annotations

import builtins
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

_ENTERED_NS = time.perf_counter_ns()  # before numpy is imported: the start of the import phase

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from avsdk.bundle import Bundle, open_bundle, with_session  # noqa: E402
from avsdk.errors import NotAvailable  # noqa: E402
from avsdk.opening import watched  # noqa: E402
from avsdk.schema import encode  # noqa: E402
from avsdk.session import Execution, LoadedGraph, session_class  # noqa: E402
from avsdk.spec import GraphSpec, Sizes  # noqa: E402
from avsdk_bench import inputs, loops, memory  # noqa: E402

if TYPE_CHECKING:
    from avsdk.predictor import Predictor

_COMPILE = "compile_ms"


class ColdStart:
    """Where the time from the parent's ``spawn`` to the first output went, in ms per phase.

    Linux's ``perf_counter`` is one clock for all processes, so the parent's mark and the child's can be compared.
    """

    def __init__(self, spawned_ns: int) -> None:
        self.phases: dict[str, float] = {
            "spawn_ms": (_ENTERED_NS - spawned_ns) / 1e6,
            "import_ms": (time.perf_counter_ns() - _ENTERED_NS) / 1e6,
        }

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase; what is imported within it counts as import, what an engine marks as compiling as compile."""
        compiled = self.phases.get(_COMPILE, 0.0)
        with _import_clock() as imports, watched(self._compiling):
            start = time.perf_counter_ns()
            yield
            elapsed = (time.perf_counter_ns() - start) / 1e6
        within = imports[0] + self.phases.get(_COMPILE, 0.0) - compiled
        self.phases[name] = self.phases.get(name, 0.0) + elapsed - within
        self.phases["import_ms"] += imports[0]

    @contextlib.contextmanager
    def _compiling(self) -> Iterator[None]:
        """The imports within it were counted as such already."""
        with _import_clock() as imports:
            start = time.perf_counter_ns()
            yield
            elapsed = (time.perf_counter_ns() - start) / 1e6
        self.phases[_COMPILE] = self.phases.get(_COMPILE, 0.0) + elapsed - imports[0]


@dataclass(frozen=True)
class Prepared:
    """A thing that is loaded and ready: ``run`` once, ask what executed, close. ``source``: where the input is from.

    ``callers``: how many threads may call ``run`` at once, so that all of it executes.
    """

    run: Callable[[], object]
    executions: Callable[[], Mapping[str, Execution]]
    close: Callable[[], None]
    source: str
    stages: StageTimes | None = None
    callers: int = 1


class StageTimes:
    """Runs a predictor and tells how its time divides over the stages."""

    def __init__(self, predictor: Predictor, media: inputs.Media) -> None:
        self._predictor = predictor
        self._media = media
        self._runs = 0

    def run(self) -> object:
        """One pass over the media, from its file where it can be decoded."""
        self._runs += 1
        if self._media.decode is None:
            return self._predictor(self._media.array)
        with self._predictor.watch.stage("decode"):
            array = self._media.decode()
        return self._predictor(array)

    def restart(self) -> None:
        """Forget the runs so far: the first one is no guide to the others."""
        self._predictor.watch = type(self._predictor.watch)()
        self._runs = 0

    def mean_ms(self) -> dict[str, float]:
        """The mean time of each stage since the restart."""
        return self._predictor.watch.mean_ms(self._runs)


class CellWorker:
    """The object that a cell's process hosts. ``prepare`` loads what is measured, in phases of the cold start."""

    def __init__(self, spawned_ns: int, prepare: Callable[[ColdStart], Prepared]) -> None:
        cold = ColdStart(spawned_ns)
        self._prepared = prepare(cold)
        self._memory = {"load": memory.held(memory.family())}
        with cold.phase("first_output_ms"):
            self._prepared.run()
        if self._prepared.stages is not None:
            self._prepared.stages.restart()
        self._memory["first_run"] = memory.held(memory.family())
        self._cold = cold.phases

    def opened(self) -> dict[str, Any]:
        """The cold start in ms and by phase, and where the input came from."""
        return {"cold_start_ms": sum(self._cold.values()), "phases": self._cold, "input": self._prepared.source}

    def execution(self) -> dict[str, Any]:
        """What executed, per graph. Raises ``SilentFallback`` where that is not what the artifact was built for."""
        found = self._prepared.executions()
        return {name: {**encode(item), "effective_precision": item.effective_precision} for name, item in found.items()}

    def run(self, n: int, lead_in: int = 0) -> NDArray[np.int64]:
        """Run ``lead_in + n`` times and return the last ``n`` durations in ns.

        The lead-in refills the caches that other cells emptied since this cell's last turn; its length is fixed
        beforehand, so that it selects nothing.
        """
        for _ in range(lead_in):
            self._prepared.run()
        return loops.queries(self._prepared.run, n, 1)

    def turn(self, load: Mapping[str, Any], n: int, lead_in: int, seed: int) -> NDArray[np.int64]:
        """``n`` samples of a scenario in ns, after the lead-in: see ``loops.turn``."""
        for _ in range(lead_in):
            self._prepared.run()
        return loops.turn(load, self._prepared.run, n, seed)

    def callers(self) -> int:
        """How many threads may run it at once."""
        return self._prepared.callers

    def loadgen_version(self) -> str:
        """The version of LoadGen in this process's Python; empty where it is not."""
        return loops.loadgen_version()

    def memory(self) -> dict[str, Any]:
        """MB at load, after the first run and now, and the peak so far; sums over this process and what it started."""
        now = memory.held(memory.family())
        return {**self._memory, "steady": now, "peak_rss_mb": now["peak_rss_mb"]}

    def stages(self) -> dict[str, float] | None:
        """Mean ms per stage of a pipeline, over all runs but the first; None for a graph."""
        return self._prepared.stages.mean_ms() if self._prepared.stages is not None else None

    def pids(self) -> list[int]:
        """This process and what it started."""
        return memory.family()

    def close(self) -> None:
        """Free what was loaded."""
        self._prepared.close()


def open_graph(
    bundle: str,
    graph: str,
    sizes: Sizes,
    threads: int,
    seed: int,
    spawned_ns: int,
    session_settings: Mapping[str, Any] | None = None,
) -> CellWorker:
    """A cell that runs one graph's session on fixed inputs. ``session_settings``: others than the bundle records."""

    def prepare(cold: ColdStart) -> Prepared:
        opened = _checked_bundle(bundle, cold, session_settings)
        loaded = opened.load_graphs(threads)[graph]
        with cold.phase("import_ms"):
            _require_engines(loaded)
        feeds, source = inputs.feeds_for(opened, loaded.graph, sizes, seed)
        with cold.phase("load_ms"):
            session = loaded.session_for(sizes)
        return Prepared(
            lambda: session.run(feeds),
            lambda: {graph: session.execution()},
            loaded.close,
            source,
            callers=session.requests(),
        )

    return CellWorker(spawned_ns, prepare)


def open_pipeline(
    bundle: str,
    sizes: Sizes,
    threads: int,
    seed: int,
    spawned_ns: int,
    session_settings: Mapping[str, Any] | None = None,
) -> CellWorker:
    """A cell that decodes a file and runs the whole predictor on it, pre- and post-processing included."""

    def prepare(cold: ColdStart) -> Prepared:
        opened = _checked_bundle(bundle, cold, session_settings)
        with cold.phase("import_ms"):
            from avsdk.predictor import predictor_for

            for loaded in opened.load_graphs(threads).values():
                _require_engines(loaded)
        made = inputs.media_for(opened, sizes, seed)
        with cold.phase("load_ms"):
            predictor = predictor_for(opened, threads=threads, settings={})
            for loaded in predictor.graphs.values():
                loaded.session_for(_sizes_of(loaded.graph, sizes))

        def executions() -> Mapping[str, Execution]:
            return {name: each.open_sessions()[0].execution() for name, each in predictor.graphs.items()}

        media = inputs.media_file_for(predictor, opened.manifest.spec, made, Path(tempfile.mkdtemp()))
        stages = StageTimes(predictor, media)
        return Prepared(stages.run, executions, predictor.close, media.source, stages)

    return CellWorker(spawned_ns, prepare)


def _checked_bundle(path: str, cold: ColdStart, session_settings: Mapping[str, Any] | None) -> Bundle:
    with cold.phase("verify_ms"):
        opened = open_bundle(Path(path))
    return opened if session_settings is None else with_session(opened, session_settings)


def _require_engines(loaded: LoadedGraph) -> None:
    """Import the engines, and the runtimes where asking for them does that, before the loading is timed."""
    for artifact in loaded.artifacts:
        state = session_class(artifact.engine).availability(artifact.device)
        if not state.ok:
            raise NotAvailable(f"{artifact.engine}:{artifact.device} cannot run here: {state.reason}", fix=state.fix)


def _sizes_of(graph: GraphSpec, sizes: Sizes) -> dict[str, int]:
    return graph.complete_sizes({name: size for name, size in sizes.items() if name in graph.axes})


@contextlib.contextmanager
def _import_clock() -> Iterator[list[float]]:
    """Measure the ms spent in import statements meanwhile, nested ones counted once."""
    spent, depth, original = [0.0], [0], builtins.__import__

    def timed(*arguments: Any, **named: Any) -> Any:
        depth[0] += 1
        start = time.perf_counter_ns()
        try:
            return original(*arguments, **named)
        finally:
            depth[0] -= 1
            if depth[0] == 0:
                spent[0] += (time.perf_counter_ns() - start) / 1e6

    builtins.__import__ = timed
    try:
        yield spent
    finally:
        builtins.__import__ = original
