"""Operations and bytes of each kind of operator, against counts made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from avsdk_bench.flops import KINDS, Node, counted

Shapes = list[tuple[int, ...] | None]


def count(op: str, inputs: Shapes, *outputs: tuple[int, ...], **attributes: Any) -> Any:
    found = counted(Node(op, tuple(inputs), outputs, attributes))
    assert found is not None
    assert found.kind in KINDS
    return found


@pytest.mark.parametrize(
    ("op", "inputs", "output", "attributes", "kind", "flops", "product"),
    [
        # 16 x 16 places, 8 channels out, 3 x 3 x 3 products each
        ("Conv", [(1, 3, 16, 16), (8, 3, 3, 3)], (1, 8, 16, 16), {}, "conv", 2 * 256 * 8 * 27, (256, 8, 27)),
        ("Conv", [(2, 4, 9), (6, 4, 5)], (2, 6, 5), {}, "conv", 2 * 2 * 5 * 6 * 20, (10, 6, 20)),
        # four groups of 2 channels in and 2 out
        ("Conv", [(1, 8, 4, 4), (8, 2, 3, 3)], (1, 8, 4, 4), {"group": 4}, "conv", 2 * 16 * 8 * 18, (16, 2, 18)),
        ("Conv", [(1, 8, 4, 4), (8, 1, 3, 3)], (1, 8, 4, 4), {"group": 8}, "depthwise", 2 * 16 * 8 * 9, (16, 1, 9)),
        ("Conv", [(1, 2, 4, 5, 6), (3, 2, 3, 3, 3)], (1, 3, 4, 5, 6), {}, "conv3d", 2 * 120 * 3 * 54, (120, 3, 54)),
        # every one of 5 x 5 x 4 inputs meets 6 x 2 x 2 weights
        ("ConvTranspose", [(1, 4, 5, 5), (4, 6, 2, 2)], (1, 6, 10, 10), {}, "transposed", 2 * 100 * 24, (25, 24, 4)),
        ("MatMul", [(7, 5), (5, 3)], (7, 3), {}, "matmul", 2 * 7 * 5 * 3, (7, 3, 5)),
        ("MatMul", [(2, 6, 7, 5), (1, 6, 5, 3)], (2, 6, 7, 3), {}, "matmul", 2 * 12 * 7 * 5 * 3, (7, 3, 5)),
        ("MatMul", [(4, 7, 5), (5, 3)], (4, 7, 3), {}, "matmul", 2 * 28 * 5 * 3, (28, 3, 5)),
        ("Gemm", [(5, 7), (5, 3), (3,)], (7, 3), {"transA": 1}, "matmul", 2 * 7 * 5 * 3, (7, 3, 5)),
        ("Einsum", [(4, 7, 5), (4, 5, 3)], (4, 7, 3), {"equation": "bij,bjk->bik"}, "matmul", 2 * 4 * 105, (28, 3, 5)),
        # 10 steps, 2 rows, each 2 x 264 + 10 x 24: W is (1, 4 * 6, 5), R (1, 4 * 6, 6), and there are 24 gates
        ("LSTM", [(10, 2, 5), (1, 24, 5), (1, 24, 6)], (10, 1, 2, 6), {}, "recurrent", 20 * 768, (2, 24, 11)),
        ("GRU", [(10, 2, 5), (2, 18, 5), (2, 18, 6)], (10, 2, 2, 6), {}, "recurrent", 20 * 1152, (2, 18, 11)),
        ("InstanceNormalization", [(1, 3, 8, 8), (3,), (3,)], (1, 3, 8, 8), {}, "norm", 8 * 192, (0, 0, 0)),
        ("Softmax", [(2, 10)], (2, 10), {}, "norm", 14 * 20, (0, 0, 0)),
        ("Relu", [(2, 10)], (2, 10), {}, "elementwise", 20, (0, 0, 0)),
        ("Tanh", [(2, 10)], (2, 10), {}, "elementwise", 14 * 20, (0, 0, 0)),
        ("Add", [(2, 10), (1, 10)], (2, 10), {}, "elementwise", 20, (0, 0, 0)),
        ("MaxPool", [(1, 4, 8, 8)], (1, 4, 4, 4), {"kernel_shape": [2, 2]}, "reduction", 64 * 4, (0, 0, 0)),
        ("GlobalAveragePool", [(1, 4, 8, 8)], (1, 4, 1, 1), {}, "reduction", 256, (0, 0, 0)),
        ("Resize", [(1, 4, 8, 8)], (1, 4, 16, 16), {"mode": "nearest"}, "movement", 0, (0, 0, 0)),
        ("Resize", [(1, 4, 8, 8)], (1, 4, 16, 16), {"mode": "linear"}, "movement", 2 * 1024 * 4, (0, 0, 0)),
        ("Resize", [(1, 4, 8, 8)], (1, 4, 8, 16), {"mode": "cubic"}, "movement", 2 * 512 * 4, (0, 0, 0)),
        ("Transpose", [(2, 10)], (10, 2), {}, "movement", 0, (0, 0, 0)),
        # 2 heads of size 4 over 5 queries and 7 keys
        (
            "Attention", [(1, 2, 5, 4), (1, 2, 7, 4), (1, 2, 7, 4)], (1, 2, 5, 4), {}, "matmul",
            2 * 35 * (2 * 4 + 2 * 4 + 14), (5, 7, 4),
        ),
    ],
)  # fmt: skip
def test_operations_are_those_counted_by_hand(
    op: str, inputs: Shapes, output: tuple[int, ...], attributes: dict[str, Any], kind: str, flops: int,
    product: tuple[int, int, int],
) -> None:  # fmt: skip
    found = count(op, inputs, output, **attributes)
    assert (found.kind, found.flops) == (kind, flops)
    assert (found.rows, found.columns, found.depth) == product


def test_a_recurrence_comes_back_to_its_weights_at_every_step() -> None:
    assert count("LSTM", [(10, 2, 5), (1, 24, 5), (1, 24, 6)], (10, 1, 2, 6)).steps == 10
    batch_first = count("LSTM", [(2, 10, 5), (1, 24, 5), (1, 24, 6)], (2, 10, 1, 6), layout=1)
    assert (batch_first.steps, batch_first.flops) == (10, 20 * (2 * 264 + 240))


def test_what_is_not_known_has_no_count() -> None:
    assert counted(Node("SomethingElse", ((1,),), ((1,),))) is None
    with pytest.raises(LookupError):
        counted(Node("Conv", ((1, 3, 8, 8), None), ((1, 8, 8, 8),)))
    with pytest.raises(LookupError):
        counted(Node("Einsum", ((2, 3), (3, 4)), ((2, 4),), {"equation": "...j,jk->...k"}))
