"""Cells that call a runtime without avsdk's session in between, on the same file, input, threads and settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from avsdk.bundle import Bundle, open_bundle
from avsdk.session import Array, Artifact
from avsdk_bench.cell import CellWorker, ColdStart, Prepared
from avsdk_bench.inputs import feeds_for

Call = Callable[[Mapping[str, Array]], object]


def open_onnxruntime(
    bundle: str, graph: str, sizes: Mapping[str, int], threads: int, seed: int, spawned_ns: int
) -> CellWorker:
    """``InferenceSession.run`` as it comes."""
    return _cell(bundle, graph, sizes, seed, spawned_ns, lambda path, artifact: _onnxruntime(path, threads))


def open_openvino(
    bundle: str, graph: str, sizes: Mapping[str, int], threads: int, seed: int, spawned_ns: int
) -> CellWorker:
    """``InferRequest.infer`` as it comes."""
    return _cell(bundle, graph, sizes, seed, spawned_ns, lambda path, artifact: _openvino(path, artifact, threads))


def _cell(
    path: str,
    graph: str,
    sizes: Mapping[str, int],
    seed: int,
    spawned_ns: int,
    load: Callable[[Path, Artifact], Call],
) -> CellWorker:
    def prepare(cold: ColdStart) -> Prepared:
        bundle = open_bundle(Path(path))
        feeds, source = feeds_for(bundle, bundle.manifest.spec.graph(graph), sizes, seed)
        artifact = _artifact(bundle, graph, sizes)
        with cold.phase("load_ms"):
            call = load(bundle.path / artifact.files[0], artifact)
        return Prepared(lambda: call(feeds), dict, lambda: None, source)

    return CellWorker(spawned_ns, prepare)


def _artifact(bundle: Bundle, graph: str, sizes: Mapping[str, int]) -> Artifact:
    return next(
        item
        for item in bundle.manifest.artifacts
        if item.graph == graph and (item.shapes is None or dict(item.shapes) == dict(sizes))
    )


def _onnxruntime(path: Path, threads: int) -> Call:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def _openvino(path: Path, artifact: Artifact, threads: int) -> Call:
    import openvino

    config = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[artifact.precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
    }
    request: Any = openvino.Core().compile_model(str(path), "CPU", config).create_infer_request()
    return lambda feeds: request.infer(feeds)
