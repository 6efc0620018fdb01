"""What one ONNX node computes: its kind, its operations, and the sizes of the matrix product that it amounts to.

An operation is one addition, multiplication or comparison; a multiply-add is two. Counts are of the direct algorithm:
an engine that takes Winograd's for 3x3 convolutions does up to 2.25 times less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Shape = Sequence[int]

KINDS = (
    "conv", "depthwise", "transposed", "conv3d", "matmul", "recurrent", "norm", "elementwise", "reduction", "movement",
)  # fmt: skip
"""Kinds of operators that are unlike in how near they come to a machine's limits."""
PRODUCTS = frozenset({"conv", "depthwise", "transposed", "conv3d", "matmul", "recurrent"})
"""Kinds that multiply by weights or matrices, which lower precisions speed up."""

VIEWS = frozenset("Reshape Squeeze Unsqueeze Flatten Identity Dropout Constant Shape Size".split())
"""What moves nothing: a tensor seen in another shape, or a constant."""
CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Operators whose bodies run a number of times that the graph does not tell."""
MOVES = frozenset(
    "AffineGrid Cast CastLike CenterCropPad Col2Im Compress Concat ConstantOfShape DepthToSpace Expand EyeLike Gather "
    "GatherElements GatherND GridSample NonZero OneHot Pad Range Resize ReverseSequence ScatterElements ScatterND "
    "Slice SpaceToDepth Split TensorScatter Tile Transpose Trilu Unique Upsample".split()
)
_CHEAP = frozenset(
    "Abs Add And Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Clip DequantizeLinear Div Equal "
    "Floor Greater GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Max Mean Min Mod Mul "
    "Neg Not Or PRelu QuantizeLinear Reciprocal Relu Round Shrink Sign Sub Sum ThresholdedRelu Where Xor".split()
)
_COSTLY: Mapping[str, int] = {
    **dict.fromkeys("Sqrt Pow".split(), 4),
    **dict.fromkeys("Exp Log Sigmoid Softplus Elu Celu Selu Softsign".split(), 10),
    **dict.fromkeys("Acos Acosh Asin Asinh Atan Atanh Cos Cosh Sin Sinh Tan Tanh Erf Gelu Mish Swish".split(), 14),
    **dict.fromkeys("RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Det".split(), 20),
}
"""Rough operations per element of what is computed by a polynomial."""
ELEMENTWISE = _CHEAP | _COSTLY.keys()
_NORMS: Mapping[str, int] = {
    "BatchNormalization": 2, "InstanceNormalization": 8, "LayerNormalization": 8, "GroupNormalization": 8,
    "RMSNormalization": 5, "MeanVarianceNormalization": 8, "LpNormalization": 4, "LRN": 12, "Softmax": 14,
    "LogSoftmax": 15, "Hardmax": 2,
}  # fmt: skip
"""Operations per element, with the passes over the tensor that statistics take."""
_REDUCTIONS = frozenset(
    "ArgMax ArgMin CumSum GlobalAveragePool GlobalLpPool GlobalMaxPool ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
    "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare TopK CumProd".split()
)
_POOLS = frozenset({"AveragePool", "LpPool", "MaxPool"})
_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "DeformConv", "QLinearConv"})
_MATRICES = frozenset({"MatMul", "MatMulInteger", "QLinearMatMul"})


@dataclass(frozen=True)
class Count:
    """What a node does. ``rows``, ``columns``, ``depth``: of the matrix product that it amounts to, 0 for no product.

    ``steps`` is how often its weights are read: more than once where a recurrence comes back to them.
    """

    kind: str
    flops: int
    rows: int = 0
    columns: int = 0
    depth: int = 0
    steps: int = 1


@dataclass(frozen=True)
class Node:
    """A node as it is counted: shapes of its inputs and outputs, None for one that is left out, and attributes."""

    op: str
    inputs: tuple[Shape | None, ...]
    outputs: tuple[Shape | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def input(self, place: int) -> Shape:
        """The shape of an input that must be there. Raises ``LookupError``."""
        found = self.inputs[place]
        if found is None:
            raise LookupError(place)
        return found

    @property
    def elements(self) -> int:
        """Of the first output that is there."""
        return math.prod(next(shape for shape in self.outputs if shape is not None))


def counted(node: Node) -> Count | None:
    """The count of one node; None for an operator that is not known. Raises ``LookupError`` for a missing input."""
    if node.op in VIEWS:
        return Count("movement", 0)
    if node.op in MOVES:
        return Count("movement", _resized(node) if node.op in ("Resize", "Upsample", "GridSample") else 0)
    if node.op in ELEMENTWISE:
        return Count("elementwise", node.elements * _COSTLY.get(node.op, 1))
    if node.op in _NORMS:
        return Count("norm", math.prod(node.input(0)) * _NORMS[node.op])
    if node.op in _REDUCTIONS:
        return Count("reduction", math.prod(node.input(0)))
    if node.op in _POOLS:
        return Count("reduction", node.elements * math.prod(node.attributes.get("kernel_shape", [1])))
    found = _PRODUCTS.get(node.op)
    return found(node) if found is not None else None


def _resized(node: Node) -> int:
    """Per element of the result: two for each neighbour that is weighted."""
    mode = str(node.attributes.get("mode", "nearest"))
    sides = {"nearest": 0, "linear": 2, "bilinear": 2, "cubic": 4, "bicubic": 4}.get(mode, 2)
    scaled = sum(a != b for a, b in zip(node.input(0), node.outputs[0] or (), strict=False))
    return 2 * node.elements * sides**scaled if sides and scaled else 0


def _convolution(node: Node) -> Count:
    weights = node.input(3 if node.op == "QLinearConv" else 1)
    groups = int(node.attributes.get("group", 1))
    depth = math.prod(weights[1:])
    flops = 2 * node.elements * depth
    if node.op == "DeformConv":
        flops += 8 * node.elements // max(1, weights[0]) * math.prod(weights[2:]) * weights[1] * groups
    return Count(_convolved(weights, groups), flops, node.elements // max(1, weights[0]), weights[0] // groups, depth)


def _transposed(node: Node) -> Count:
    """Each input element meets every weight of its channel once."""
    weights, groups = node.input(1), int(node.attributes.get("group", 1))
    given = node.input(0)
    rows = math.prod(given) // max(1, given[1])
    kind = "depthwise" if groups > 1 and weights[1] == 1 else "transposed"
    return Count(kind, 2 * math.prod(given) * math.prod(weights[1:]), rows, math.prod(weights[1:]), given[1] // groups)


def _convolved(weights: Shape, groups: int) -> str:
    """The kind of a convolution by its weights (out, in per group, kernel...)."""
    if groups > 1 and weights[1] == 1:
        return "depthwise"
    return "conv3d" if len(weights) == 5 else "conv"


def _matrices(node: Node) -> Count:
    first, second = node.input(0), node.input(3 if node.op == "QLinearMatMul" else 1)
    columns = second[-1] if len(second) > 1 else 1
    rows = first[-2] if len(first) > 1 else 1
    if len(second) == 2:  # one matrix for the whole batch: its rows are all there are
        rows = math.prod(first[:-1])
    return Count("matmul", 2 * node.elements * first[-1], rows, columns, first[-1])


def _gemm(node: Node) -> Count:
    first = node.input(0)
    depth = first[0] if node.attributes.get("transA", 0) else first[-1]
    columns = (node.outputs[0] or (1, 1))[-1]
    return Count("matmul", 2 * node.elements * depth, node.elements // max(1, columns), columns, depth)


def _recurrence(node: Node) -> Count:
    """Per step and row all weights of input and state, and about ten operations per unit for the gates.

    Sources: the equations of LSTM, GRU and RNN in the ONNX operator specification; W is (directions, gates * hidden,
    input), R (directions, gates * hidden, hidden).
    """
    given, weights, state = node.input(0), node.input(1), node.input(2)
    steps, rows = (given[1], given[0]) if node.attributes.get("layout", 0) else (given[0], given[1])
    per_row = math.prod(weights) + math.prod(state)
    gates = 10 * math.prod(state[:2])
    return Count("recurrent", steps * rows * (2 * per_row + gates), rows, state[1], weights[2] + state[2], steps)


def _attention(node: Node) -> Count:
    """Two products per head, a softmax between them; inputs (batch, heads, length, size) or (batch, length, all)."""
    query, key, value = (node.input(place) for place in range(3))
    past = node.inputs[4] if len(node.inputs) > 4 else None
    length = key[-2] + (past[-2] if past is not None else 0)
    heads = query[1] if len(query) == 4 else int(node.attributes["q_num_heads"])
    size = query[-1] if len(query) == 4 else query[-1] // heads
    of_value = value[-1] if len(value) == 4 else value[-1] // int(node.attributes["kv_num_heads"])
    pairs = query[0] * heads * query[-2] * length
    return Count("matmul", pairs * (2 * size + 2 * of_value + 14), query[-2], length, size)


def _einsum(node: Node) -> Count:
    """One multiply-add for every combination of the labels, for each operand after the first."""
    terms = str(node.attributes["equation"]).replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for place, term in enumerate(terms):
        if "." in term:
            raise LookupError(place)
        sizes.update(zip(term, node.input(place), strict=True))
    whole = math.prod(sizes.values())
    depth = whole // max(1, node.elements)
    columns = node.outputs[0][-1] if node.outputs[0] else 1
    flops = 2 * whole * max(1, len(terms) - 1)
    return Count("matmul" if len(terms) > 1 else "reduction", flops, node.elements // max(1, columns), columns, depth)


_PRODUCTS: Mapping[str, Callable[[Node], Count]] = {
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    **dict.fromkeys(_MATRICES, _matrices),
    **dict.fromkeys(_RECURRENT, _recurrence),
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "Attention": _attention,
    "Einsum": _einsum,
}
