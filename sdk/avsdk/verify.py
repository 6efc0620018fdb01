"""Runs a bundle on its golden samples and compares, in a child process that a bad artifact may take down."""

from __future__ import annotations

import contextlib
import math
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from avsdk import plugins
from avsdk.bands import BandedGraph
from avsdk.bundle import Bundle, Manifest, open_bundle
from avsdk.errors import BundleRefused
from avsdk.golden import PIPELINE, Sample, read_golden
from avsdk.host import default_threads
from avsdk.parity import Arrays, Parity, compare, merge
from avsdk.precision import TOLERANCES, Tolerance
from avsdk.predictor import Predictor, predictor_for
from avsdk.schema import decode, encode
from avsdk.session import LoadedGraph, session_class
from avsdk.toolchains import installed_python
from avsdk.worker import call_in_child

_TIMEOUT_S = 900.0
_SLOW_TIMEOUT_S = 1800.0
_WORD = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_PICTURE_FP32 = Tolerance(cosine=0.99999, snr_db=50.0, max_abs=None, agreement=1.0, steps=2.0)
"""An fp32 difference of 1e-4 flips the rounding to 8 bits of a few pixels: one step each, 60 dB and more in all."""


_ANY = Tolerance(cosine=-1.0, snr_db=-math.inf, max_abs=None, agreement=0.0)


@dataclass(frozen=True)
class Verified:
    """What a bundle's golden samples showed: parity, and per graph what executed."""

    parity: Parity
    effective_precision: Mapping[str, str]
    precision_shares: Mapping[str, Mapping[str, float]]


def verify_bundle(
    path: Path,
    *,
    executed_on: str = "device",
    threads: int | None = None,
    python: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    budget_s: float | None = None,
    samples: Mapping[str, Path] | None = None,
) -> Verified:
    """Run every graph, and the whole pipeline where the bundle has golden media, in a child process.

    ``executed_on`` is written into the record; ``python`` and ``env`` start the child, this Python where empty. Samples
    run smallest first under ``budget_s`` (seconds): the first one always, another only while it fits; the record says
    what was left out. ``samples``: golden files by graph to be judged on instead of the bundle's own, graph by graph;
    the record then says how far the bundle is from the reference, and no tolerance is applied.
    Where the engine cannot run there the record says ``not_run`` and why.
    Raises ``SilentFallback`` when something else executed than the bundle promises.
    """
    manifest = open_bundle(path).manifest
    if not python:
        absent = absent_engine(manifest)
        if absent:
            return Verified(Parity.not_run(f"no device here: {absent}"), {}, {})
    answer = call_in_child(
        run_golden,
        name=f"verify-{manifest.engine}" + (f" ({executed_on})" if python else ""),
        python=python or sys.executable,
        env=env,
        timeout_s=_SLOW_TIMEOUT_S if python else _TIMEOUT_S,
        path=str(path),
        threads=threads or default_threads(),
        executed_on=executed_on,
        budget_s=budget_s,
        samples=None if samples is None else {name: str(file) for name, file in samples.items()},
        known=plugins.offered("engines", "predictors"),
    )
    records = tuple(decode(Parity, item, where="parity") for item in answer["parity"])
    found = merge(records)
    reason = "; ".join(text for text in (found.reason, *answer["left_out"]) if text)
    return Verified(replace(found, reason=reason), answer["effective_precision"], answer["precision_shares"])


def emulation_of(manifest: Manifest) -> dict[str, Any]:
    """How ``verify_bundle`` is called to emulate the device of a bundle as its record says, where that is installed.

    Empty where the bundle was not proven under emulation, the toolchain is not here, or this machine is an Arm itself.
    Raises ``BundleRefused`` for a record that could name another program than a toolchain's.
    """
    recorded = manifest.measured.get("emulation")
    if recorded is None or platform.machine() in ("aarch64", "arm64"):
        return {}
    try:
        toolchain, cpu, budget_s = str(recorded["toolchain"]), str(recorded["cpu"]), float(recorded["budget_s"])
    except (TypeError, KeyError, ValueError, OverflowError):
        toolchain, cpu, budget_s = "", "", 0.0
    if not (_WORD.fullmatch(toolchain) and _WORD.fullmatch(cpu)):
        raise BundleRefused(
            f"the bundle records the emulation {str(recorded)[:200]}",
            expected="the name of a toolchain, the name of a processor, and seconds",
            fix="export the bundle again",
        )
    python = installed_python(toolchain)
    if len(python) < 2:  # not here, or no emulator: what an ordinary toolchain's Python runs is not emulated
        return {}
    # QEMU reads its -cpu from this variable too, so that the words which start the toolchain's Python stay the same.
    return {"executed_on": "emulated", "python": python, "env": {"QEMU_CPU": cpu}, "budget_s": budget_s}


def absent_engine(manifest: Manifest) -> str:
    """Why the first of the bundle's engines cannot run in this Python; empty when all can."""
    for engine, device in sorted({(item.engine, item.device) for item in manifest.artifacts}):
        state = session_class(engine).availability(device)
        if not state.ok:
            return state.reason or f"{engine}:{device}"
    return ""


def run_golden(
    path: str,
    threads: int,
    executed_on: str,
    budget_s: float | None = None,
    samples: Mapping[str, str] | None = None,
    known: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """In the child: parity per graph and of the pipeline, and the execution read back from the runtime.

    ``samples``: see ``verify_bundle``. ``known``: the plug-ins that the parent knows, by group.
    """
    plugins.lend(known or {})
    bundle = open_bundle(Path(path))
    absent = absent_engine(bundle.manifest)
    if absent:
        record = Parity.not_run(f"no device here: {absent}")
        return {"parity": [encode(record)], "left_out": [], "effective_precision": {}, "precision_shares": {}}
    graphs = bundle.load_graphs(threads)
    budget = _Budget(budget_s)
    records, precision, shares = [], {}, {}
    for name, graph in graphs.items():
        if samples is None:
            golden, tolerance = bundle.file(bundle.manifest.golden[name]), tolerance_of(bundle.manifest)
        else:
            golden, tolerance = Path(samples[name]), _ANY
        records.append(_graph_parity(bundle, graph, golden, tolerance, executed_on, budget))
        # an emulator would take long, and proves the numbers already
        if executed_on == "device" and budget_s is None and samples is None:
            records += _bands_parity(bundle, graph, executed_on)
        execution = graph.open_sessions()[0].execution()
        precision[name] = execution.effective_precision
        shares[name] = dict(execution.precision_shares)
        graph.close()
    if PIPELINE in bundle.manifest.golden and samples is None:
        records += _pipeline_parity(bundle, threads, executed_on, budget)
    return {
        "parity": [encode(item) for item in records],
        "left_out": budget.left_out(),
        "effective_precision": precision,
        "precision_shares": shares,
    }


class _Budget:
    """Bounds the time of all golden samples of a bundle. ``limit_s`` None is no bound."""

    def __init__(self, limit_s: float | None) -> None:
        self.limit_s = limit_s
        self._spent_s = 0.0
        self._s_per_element: float | None = None
        self._skipped: dict[str, int] = {}

    def run(self, name: str, samples: Sequence[Sample], run: Callable[[Arrays], Arrays]) -> list[tuple[Arrays, Arrays]]:
        """The wanted and the found outputs of the samples that fit, smallest first where there is a bound."""
        ordered = samples if self.limit_s is None else sorted(samples, key=lambda sample: _elements(sample[0]))
        done: list[tuple[Arrays, Arrays]] = []
        for feeds, wanted in ordered:
            if not self._fits(_elements(feeds)):
                self._skipped[name] = len(ordered) - len(done)
                break
            started = time.monotonic()
            done.append((wanted, run({key: np.asarray(array) for key, array in feeds.items()})))
            took_s = time.monotonic() - started
            self._spent_s += took_s
            self._s_per_element = took_s / _elements(feeds)
        return done

    def start_graph(self) -> None:
        """Forget how long an element takes: another graph begins, whose first sample always runs."""
        self._s_per_element = None

    def left_out(self) -> list[str]:
        """One line per graph of which samples were left out."""
        return [
            f"{count} golden sample{'s' if count > 1 else ''} of {name} left out, which would take too long here"
            for name, count in self._skipped.items()
        ]

    def _fits(self, elements: int) -> bool:
        """By the time per element of the sample before; the first of a graph has none before it and always fits."""
        if self.limit_s is None or self._s_per_element is None:
            return True
        return self._spent_s + self._s_per_element * elements <= self.limit_s


def _elements(feeds: Arrays) -> int:
    return max(1, sum(np.asarray(array).size for array in feeds.values()))


def tolerance_of(manifest: Manifest) -> Tolerance:
    """What the golden samples of a bundle must meet.

    A bundle that was accepted by an accuracy budget keeps what its golden samples showed then, within 1 dB, where that
    is less than its precision asks for: the budget was judged on other samples, and perhaps by another measure.
    """
    tolerance = TOLERANCES[manifest.precision]
    accuracy = manifest.measured.get("accuracy")
    shown = accuracy.get("golden_snr_db") if isinstance(accuracy, Mapping) else None
    if not isinstance(shown, (int, float)) or isinstance(shown, bool):
        return tolerance
    return replace(tolerance, snr_db=min(tolerance.snr_db, shown - 1.0))


def _graph_parity(
    bundle: Bundle, graph: LoadedGraph, golden: Path, tolerance: Tolerance, executed_on: str, budget: _Budget
) -> Parity:
    """Compare at every golden size that was built; with dynamic axes that is all of them."""
    name = graph.graph.name
    samples = read_golden(golden)
    fitting = [sample for sample in samples if _is_built(graph, sample[0])]
    if not fitting:
        return Parity.not_run(f"no golden sample of graph {name!r} has a built size")
    budget.start_graph()
    done = budget.run(name, fitting, graph.run)
    return compare(
        name,
        [wanted for wanted, _ in done],
        [found for _, found in done],
        tolerance,
        reference=_reference(bundle),
        candidate=f"{graph.artifacts[0].engine}:{graph.artifacts[0].device}",
        executed_on=executed_on,
    )


def _bands_parity(bundle: Bundle, graph: LoadedGraph, executed_on: str) -> list[Parity]:
    """The smallest golden sample once more in bands, the narrowest there are, where the bundle can."""
    if graph.stages is None:
        return []
    name = graph.graph.name
    banded = BandedGraph(graph.root, graph.stages, graph.artifacts[0], graph.threads)
    multiple = graph.stages.multiple_of
    samples = [
        (feeds, wanted)
        for feeds, wanted in read_golden(bundle.file(bundle.manifest.golden[name]))
        if all(size % multiple == 0 for array in feeds.values() for size in array.shape[2:])
    ]
    if not samples:
        return []
    feeds, wanted = min(samples, key=lambda sample: _elements(sample[0]))
    (picture,), (output,) = feeds.values(), wanted
    found = banded.run(np.asarray(picture)[:1], banded.narrowest(), contextlib.nullcontext)
    return [
        compare(
            f"{name} in bands",
            [{output: np.asarray(wanted[output])[:1]}],
            [{output: found}],
            tolerance_of(bundle.manifest),
            reference=_reference(bundle),
            candidate=f"{banded.artifact.engine}:{banded.artifact.device}",
            executed_on=executed_on,
        )
    ]


def _pipeline_parity(bundle: Bundle, threads: int, executed_on: str, budget: _Budget) -> list[Parity]:
    """Media in, answer out, through the predictor of the bundle; no record where the budget left every sample out."""
    predictor: Predictor = predictor_for(bundle, threads=threads, settings={})
    stored = read_golden(bundle.file(bundle.manifest.golden[PIPELINE]))
    samples = [sample for sample in stored if predictor.accepts(sample[0]["media"])]
    if not samples:
        predictor.close()
        return [Parity.not_run("no golden picture has a built size")]
    done = budget.run(PIPELINE, samples, lambda feeds: {"answer": np.asarray(predictor(feeds["media"]))})
    predictor.close()
    if not done:
        return []
    precision = bundle.manifest.precision
    compared = compare(
        PIPELINE,
        [{"answer": np.asarray(wanted["answer"]).astype(np.float32)} for wanted, _ in done],
        [{"answer": np.asarray(found["answer"]).astype(np.float32)} for _, found in done],
        _PICTURE_FP32 if precision == "fp32" else tolerance_of(bundle.manifest),
        reference=_reference(bundle),
        candidate=f"{bundle.manifest.engine}:{bundle.manifest.device}",
        executed_on=executed_on,
    )
    return [compared]


def _reference(bundle: Bundle) -> str:
    return str(bundle.manifest.source.get("reference", "the fp32 reference of its source"))


def _is_built(graph: LoadedGraph, feeds: Arrays) -> bool:
    if not graph.built_sizes:
        return True
    sizes = graph.graph.sizes_of({name: np.asarray(array).shape for name, array in feeds.items()})
    return sizes in graph.built_sizes
