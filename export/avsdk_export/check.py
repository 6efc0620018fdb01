"""Does the ONNX file give PyTorch's numbers? Asked right after the translation, on the golden samples."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from avsdk.engines.onnxruntime import reference_outputs
from avsdk.errors import NotAvailable, ParityFailed
from avsdk.golden import read_golden
from avsdk.parity import Parity, compare
from avsdk.precision import TOLERANCES
from avsdk.worker import call_in_child

_TIMEOUT_S = 900.0


def require_parity(onnx: Path, golden: Path, graph: str) -> Parity:
    """Compare in a child process, by ONNX Runtime with graph optimisation off; raises ``ParityFailed``."""
    if find_spec("onnxruntime") is None:
        raise NotAvailable(
            "the exported ONNX cannot be compared with PyTorch: the package onnxruntime is not installed",
            fix="pip install 'avsdk[onnxruntime]'",
        )
    samples = read_golden(golden)
    answers = call_in_child(
        reference_outputs,
        name="check-onnx",
        timeout_s=_TIMEOUT_S,
        onnx=str(onnx),
        samples=[feeds for feeds, _ in samples],
    )
    for answer in answers:
        if "failed" in answer:
            raise ParityFailed(
                f"the ONNX file of graph {graph!r} refuses a golden sample: {answer['failed']}",
                expected="a graph that takes every size of its spec",
                fix="narrow the ranges of its ModelSpec, or report the model",
            )
    record = compare(
        graph,
        [wanted for _, wanted in samples],
        answers,
        TOLERANCES["fp32"],
        reference="PyTorch fp32",
        candidate="ONNX Runtime, graph optimisation off",
        executed_on="this-cpu",
    )
    record.require(where=f"the ONNX file of graph {graph!r}")
    return record
