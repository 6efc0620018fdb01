"""Does the ONNX file give PyTorch's numbers? Asked right after the translation, on the golden samples."""

from __future__ import annotations

import os
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import NotAvailable
from avsdk.parity import Parity, compare
from avsdk.precision import TOLERANCES
from avsdk.schema import decode, encode
from avsdk.worker import call_in_child

_TIMEOUT_S = 900.0


def require_parity(onnx: Path, golden: Path, graph: str) -> Parity:
    """Compare in a child process, by ONNX Runtime with graph optimisation off; raises ``ParityFailed``."""
    if find_spec("onnxruntime") is None:
        raise NotAvailable(
            "the exported ONNX cannot be compared with PyTorch: the package onnxruntime is not installed",
            fix="pip install 'avsdk[onnxruntime]'",
        )
    document = call_in_child(
        onnx_parity, name="check-onnx", timeout_s=_TIMEOUT_S, onnx=str(onnx), golden=str(golden), graph=graph
    )
    record = decode(Parity, document, where="parity")
    record.require(where=f"the ONNX file of graph {graph!r}")
    return record


def onnx_parity(onnx: str, golden: str, graph: str) -> Any:
    """In the child: run every golden sample and compare; the record as JSON."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the package is imported
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    samples = read_golden(Path(golden))
    found = [dict(zip(names, session.run(names, feeds), strict=True)) for feeds, _ in samples]
    record = compare(
        graph,
        [wanted for _, wanted in samples],
        found,
        TOLERANCES["fp32"],
        reference="PyTorch fp32",
        candidate="ONNX Runtime, graph optimisation off",
        executed_on="this-cpu",
    )
    return encode(record)


def read_golden(path: Path) -> list[tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]]:
    """The inputs and outputs of every sample of a golden file."""
    samples: dict[int, tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]] = defaultdict(lambda: ({}, {}))
    with np.load(path, allow_pickle=False) as stored:
        for key in stored.files:
            side, index, name = key.split(".", 2)
            samples[int(index)][side == "out"][name] = stored[key]
    return [samples[index] for index in sorted(samples)]
