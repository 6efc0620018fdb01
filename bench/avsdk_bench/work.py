"""The work in an ONNX graph at given sizes: a list of operators, each with its operations and the bytes it moves.

What every engine fuses is one operator here: elementwise operations behind the convolution, product or norm that makes
their input, and norms and activations that are spelt out in several nodes. ``graph_work`` opens the model with the onnx
package in a child process; avsdk's own reader looked through the file before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from avsdk.errors import UnusableInput
from avsdk.onnx_check import check_onnx
from avsdk.schema import decode
from avsdk.spec import GraphSpec, Sizes
from avsdk.worker import call_in_child
from avsdk_bench.flops import PRODUCTS
from avsdk_targets.sources import spec_of

BYTES: Mapping[str, tuple[int, int]] = {
    "fp32": (4, 4), "bf16": (2, 2), "fp16": (2, 2), "fp16w": (4, 2), "int8": (1, 1), "fp11": (2, 2),
}  # fmt: skip
"""Bytes of an activation and of a weight in each precision."""
_TIMEOUT_S = 300.0
_MEMORY_MB = 16_384


@dataclass(frozen=True)
class Operator:
    """One operator as an engine would run it. Counts of elements are of floating point; ``other_bytes`` are the rest's.

    ``nodes`` are the ONNX operators in it; of its ``flops``, ``fused_flops`` are those of elementwise nodes behind the
    first. ``rows``, ``columns``, ``depth``: of the matrix product it amounts to.
    ``steps``: how often its weights are read. ``quantised``: it multiplies what was quantised in the graph.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    flops: int
    read: int
    weights: int
    written: int
    other_bytes: int = 0
    rows: int = 0
    columns: int = 0
    depth: int = 0
    steps: int = 1
    fused_flops: int = 0
    quantised: bool = False

    def computed_in(self, precision: str) -> str:
        """The precision that it computes in: products in the one asked for, and under int8 the others in fp32."""
        if self.quantised:
            return "int8"
        if precision == "fp16w":
            return "fp32"
        return "fp32" if precision == "int8" and self.kind not in PRODUCTS else precision

    def moved_bytes(self, precision: str) -> int:
        """Bytes read and written, each tensor once, weights once per step."""
        stored = "fp32" if precision == "int8" and self.kind not in PRODUCTS else precision
        activation, _ = BYTES["int8" if self.quantised else stored]
        return (self.read + self.written) * activation + self.weight_bytes(precision) * self.steps + self.other_bytes

    def weight_bytes(self, precision: str) -> int:
        """Bytes of its weights."""
        return self.weights * BYTES["int8" if self.quantised else precision][1]


@dataclass(frozen=True)
class Work:
    """The work of one graph. ``not_counted`` says what is missing: bodies of control flow, foreign operators, tensors
    whose size depends on the data. ``given`` and ``answered`` are elements of the graph's inputs and outputs.
    """

    operators: tuple[Operator, ...]
    given: int
    answered: int
    not_counted: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """Operations of one run."""
        return sum(item.flops for item in self.operators)

    def moved_bytes(self, precision: str) -> int:
        """Bytes that all operators read and write."""
        return sum(item.moved_bytes(precision) for item in self.operators)

    def flops_by_kind(self) -> dict[str, int]:
        """Operations per kind of operator, most first."""
        counted: Counter[str] = Counter()
        for item in self.operators:
            counted[item.kind] += item.flops
        return dict(counted.most_common())


def graph_work(onnx: Path, graph: GraphSpec, sizes: Sizes) -> Work:
    """The work of the graph at these sizes of its dynamic axes; those not given are the spec's defaults.

    Raises ``UsageError`` for an axis it does not have or a size out of range, ``ModelRefused`` for a damaged or hostile
    file, ``UnusableInput`` where the model does not fit the sizes.
    """
    found = onnx.stat()
    shapes = tuple((item.name, item.sized(graph.complete_sizes(sizes))) for item in graph.inputs)
    return _counted(onnx.resolve(), (found.st_mtime_ns, found.st_size), shapes)


def graph_of(onnx: Path) -> GraphSpec:
    """What the file's graph takes and gives: the spec that avsdk wrote into it, else one read off its inputs."""
    _, graph = spec_of(onnx, check_onnx(onnx))
    return graph


@lru_cache(maxsize=256)
def _counted(onnx: Path, state: tuple[int, int], shapes: Sequence[tuple[str, tuple[int, ...]]]) -> Work:
    """``state`` is the file's time and size: a file that was written again is counted again."""
    check_onnx(onnx)
    answer: Mapping[str, Any] = call_in_child(
        "avsdk_bench.work_child:count_graph",
        name="roofline",
        timeout_s=_TIMEOUT_S,
        memory_mb=_MEMORY_MB,
        onnx=str(onnx),
        shapes={name: list(shape) for name, shape in shapes},
    )
    if answer["misfit"]:
        raise UnusableInput(
            f"{onnx.name} does not fit these sizes: {answer['misfit']}",
            expected="sizes that the model's own fixed shapes allow",
            fix="--axis with other sizes",
        )
    return decode(Work, answer["work"], where="roofline")
