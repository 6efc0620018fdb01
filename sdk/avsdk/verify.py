"""Runs a bundle on its golden samples and compares, in a child process that a bad artifact may take down."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avsdk.bundle import Bundle, open_bundle
from avsdk.golden import PIPELINE, read_golden
from avsdk.host import default_threads
from avsdk.parity import Arrays, Parity, compare, merge
from avsdk.precision import TOLERANCES, Tolerance
from avsdk.predictor import Predictor, predictor_for
from avsdk.schema import decode, encode
from avsdk.session import LoadedGraph, session_class
from avsdk.worker import call_in_child

_TIMEOUT_S = 900.0
_PICTURE_FP32 = Tolerance(cosine=0.99999, snr_db=50.0, max_abs=None, agreement=1.0, steps=2.0)
"""An fp32 difference of 1e-4 flips the rounding to 8 bits of a few pixels: one step each, 60 dB and more in all."""


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
) -> Verified:
    """Run every graph, and the whole pipeline where the bundle has golden media, in a child process.

    ``executed_on`` is written into the record; ``python`` and ``env`` start the child, this Python where empty.
    Where the engine cannot run here the record says ``not_run`` and why.
    Raises ``SilentFallback`` when something else executed than the bundle promises.
    """
    manifest = open_bundle(path).manifest
    for engine, device in sorted({(item.engine, item.device) for item in manifest.artifacts}):
        state = session_class(engine).availability(device)
        if not state.ok:
            return Verified(Parity.not_run(f"no device here: {state.reason}"), {}, {})
    answer = call_in_child(
        run_golden,
        name=f"verify-{manifest.engine}",
        python=python or sys.executable,
        env=env,
        timeout_s=_TIMEOUT_S,
        path=str(path),
        threads=threads or default_threads(),
        executed_on=executed_on,
    )
    records = tuple(decode(Parity, item, where="parity") for item in answer["parity"])
    return Verified(merge(records), answer["effective_precision"], answer["precision_shares"])


def run_golden(path: str, threads: int, executed_on: str) -> dict[str, Any]:
    """In the child: parity per graph and of the pipeline, and the execution read back from the runtime."""
    bundle = open_bundle(Path(path))
    graphs = bundle.load_graphs(threads)
    records, precision, shares = [], {}, {}
    for name, graph in graphs.items():
        records.append(_graph_parity(bundle, graph, executed_on))
        execution = graph.open_sessions()[0].execution()
        precision[name] = execution.effective_precision
        shares[name] = dict(execution.precision_shares)
        graph.close()
    if PIPELINE in bundle.manifest.golden:
        records.append(_pipeline_parity(bundle, threads, executed_on))
    return {
        "parity": [encode(item) for item in records],
        "effective_precision": precision,
        "precision_shares": shares,
    }


def _graph_parity(bundle: Bundle, graph: LoadedGraph, executed_on: str) -> Parity:
    """Compare at every golden size that was built; with dynamic axes that is all of them."""
    name = graph.graph.name
    samples = read_golden(bundle.file(bundle.manifest.golden[name]))
    fitting = [sample for sample in samples if _is_built(graph, sample[0])]
    if not fitting:
        return Parity.not_run(f"no golden sample of graph {name!r} has a built size")
    return compare(
        name,
        [wanted for _, wanted in fitting],
        [graph.run({key: np.asarray(array) for key, array in feeds.items()}) for feeds, _ in fitting],
        TOLERANCES[bundle.manifest.precision],
        reference=_reference(bundle),
        candidate=f"{graph.artifacts[0].engine}:{graph.artifacts[0].device}",
        executed_on=executed_on,
    )


def _pipeline_parity(bundle: Bundle, threads: int, executed_on: str) -> Parity:
    """Media in, answer out, through the predictor of the bundle."""
    predictor: Predictor = predictor_for(bundle, threads=threads, settings={})
    references: list[Arrays] = []
    candidates: list[Arrays] = []
    for feeds, wanted in read_golden(bundle.file(bundle.manifest.golden[PIPELINE])):
        if predictor.accepts(feeds["media"]):
            references.append({"answer": np.asarray(wanted["answer"]).astype(np.float32)})
            candidates.append({"answer": np.asarray(predictor(feeds["media"])).astype(np.float32)})
    predictor.close()
    if not references:
        return Parity.not_run("no golden picture has a built size")
    precision = bundle.manifest.precision
    return compare(
        PIPELINE,
        references,
        candidates,
        _PICTURE_FP32 if precision == "fp32" else TOLERANCES[precision],
        reference=_reference(bundle),
        candidate=f"{bundle.manifest.engine}:{bundle.manifest.device}",
        executed_on=executed_on,
    )


def _reference(bundle: Bundle) -> str:
    return str(bundle.manifest.source.get("reference", "the fp32 reference of its source"))


def _is_built(graph: LoadedGraph, feeds: Arrays) -> bool:
    if not graph.built_sizes:
        return True
    sizes = graph.graph.sizes_of({name: np.asarray(array).shape for name, array in feeds.items()})
    return sizes in graph.built_sizes
