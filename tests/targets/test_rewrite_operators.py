"""Every rule that spells an operator out gives the operator's own numbers, at sizes drawn at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.targets.rewriting import model_of, normal, one, ops, require_same, rewritten, run

from avsdk.errors import NotAvailable
from avsdk_targets.rewrite import SPELT_OUT
from avsdk_targets.rewrites.steps import RULES

SEEDS = pytest.mark.parametrize("seed", range(3))


def test_the_list_for_compilers_is_the_list_of_rules() -> None:
    assert RULES.keys() == SPELT_OUT


# -- activations -------------------------------------------------------------------------------------------------------

ACTIVATIONS: list[tuple[str, int, dict[str, Any]]] = [
    ("Abs", 13, {}),
    ("HardSwish", 14, {}),
    ("HardSigmoid", 20, {}),
    ("HardSigmoid", 20, {"alpha": 0.5, "beta": 0.1}),
    ("Mish", 18, {}),
    ("Gelu", 20, {}),
    ("Gelu", 20, {"approximate": "tanh"}),
    ("Celu", 20, {"alpha": 1.7}),
]


@pytest.mark.parametrize(("op", "opset", "attributes"), ACTIVATIONS)
@pytest.mark.parametrize("newest", [13, 20])
def test_activations(op: str, opset: int, attributes: dict[str, Any], newest: int, tmp_path: Path) -> None:
    before = one(op, {"x": ["n", 5]}, "x", opset=opset, **attributes)
    after, applied = rewritten(before, tmp_path, opset=(7, newest), lacking=[op])
    assert op not in ops(after)
    assert f"{op} spelt out (1)" in applied
    x = np.concatenate([np.linspace(-8, 8, 35, dtype=np.float32), np.zeros(5, np.float32)]).reshape(-1, 5)
    require_same(before, after, {"x": x})


def test_numbers_without_a_sign_are_their_own_absolute_value(tmp_path: Path) -> None:
    before = one("Abs", {"x": [4]}, "x", kind=TensorProto.UINT8, opset=13)
    after, _ = rewritten(before, tmp_path, lacking=["Abs"])
    require_same(before, after, {"x": np.array([0, 1, 200, 255], np.uint8)})


def test_celu_of_a_negative_alpha_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match=r"Celu of opset 20.* alpha=-1.5: above 0 only"):
        rewritten(one("Celu", {"x": [4]}, "x", alpha=-1.5), tmp_path, lacking=["Celu"])


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_swish(alpha: float, tmp_path: Path) -> None:
    before = one("Swish", {"x": [4, 3]}, "x", opset=24, alpha=alpha)
    after, _ = rewritten(before, tmp_path, opset=(7, 22))
    x = normal(np.random.default_rng(1), 4, 3)
    np.testing.assert_allclose(run(after, {"x": x})[0], x / (1 + np.exp(-alpha * x)), rtol=1e-5, atol=1e-6)


def test_half_precision_stays_half(tmp_path: Path) -> None:
    before = one("Gelu", {"x": [6]}, "x", kind=TensorProto.FLOAT16)
    after, _ = rewritten(before, tmp_path, lacking=["Gelu"])
    require_same(before, after, {"x": np.linspace(-2, 2, 6, dtype=np.float16)}, 2e-3)


# -- normalisations ----------------------------------------------------------------------------------------------------


@SEEDS
def test_layer_normalization(seed: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(seed)
    shape = [int(size) for size in generator.integers(2, 6, 3)]
    axis = int(generator.integers(-3, 3))
    tail = shape[axis % 3 :]
    weights = {"s": normal(generator, *tail), "b": normal(generator, *tail)}
    operands = ["x", "s", "b"][: 2 + seed % 2]
    before = one("LayerNormalization", {"x": ["n", *shape[1:]]}, *operands, weights=weights, axis=axis, opset=17)
    after, _ = rewritten(before, tmp_path, opset=(7, 13))
    require_same(before, after, {"x": 3 + normal(generator, *shape)})


def test_layer_normalization_gives_its_mean_and_inverse_deviation(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    before = one("LayerNormalization", {"x": [2, 7]}, "x", "s", outputs=3, weights={"s": normal(generator, 7)})
    after, _ = rewritten(before, tmp_path, lacking=["LayerNormalization"])
    require_same(before, after, {"x": normal(generator, 2, 7)})


def test_layer_normalization_of_halves_is_computed_in_full(tmp_path: Path) -> None:
    x = np.full((2, 64), 300, np.float16)
    x[:, ::2] = -300
    weights = {"s": np.ones(64, np.float16)}
    before = one("LayerNormalization", {"x": [2, 64]}, "x", "s", weights=weights, kind=TensorProto.FLOAT16)
    after, _ = rewritten(before, tmp_path, lacking=["LayerNormalization"])
    require_same(before, after, {"x": x}, 1e-3)  # in halves the squares would be infinite


def test_rms_normalization(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    x, scale = normal(generator, 3, 8), normal(generator, 8)
    before = one("RMSNormalization", {"x": ["n", 8]}, "x", "s", weights={"s": scale}, opset=23, epsilon=1e-3)
    after, _ = rewritten(before, tmp_path, opset=(7, 13))
    wanted = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-3) * scale
    np.testing.assert_allclose(run(after, {"x": x})[0], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("opset", "scales"), [(18, 3), (21, 6)])
def test_group_normalization(opset: int, scales: int, tmp_path: Path) -> None:
    """Opset 18 had one scale per group, 21 one per channel."""
    generator = np.random.default_rng(3)
    x = 1 + normal(generator, 2, 6, 4, 5)
    scale, bias = normal(generator, scales), normal(generator, scales)
    before = one(
        "GroupNormalization", {"x": [2, 6, 4, 5]}, "x", "s", "b", weights={"s": scale, "b": bias}, opset=opset,
        num_groups=3,
    )  # fmt: skip
    after, _ = rewritten(before, tmp_path, opset=(7, 13), lacking=["GroupNormalization"])
    grouped = x.reshape(2, 3, -1)
    normed = (grouped - grouped.mean(-1, keepdims=True)) / np.sqrt(grouped.var(-1, keepdims=True) + 1e-5)
    each = [np.repeat(item, 6 // scales).reshape(1, 6, 1, 1) for item in (scale, bias)]
    np.testing.assert_allclose(
        run(after, {"x": x})[0], normed.reshape(x.shape) * each[0] + each[1], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("op", ["MeanVarianceNormalization", "Selu", "ThresholdedRelu", "Softsign"])
def test_operators_that_onnx_defines_by_others_take_their_definition(op: str, tmp_path: Path) -> None:
    """Their defaults too: the inliner takes an attribute that is left out for absent."""
    before = one(op, {"x": [2, 3, 4, 5]}, "x", opset=20)
    after, applied = rewritten(before, tmp_path, opset=(7, 20), lacking=[op])
    assert op not in ops(after)
    assert f"{op} spelt out (1)" in applied
    require_same(before, after, {"x": normal(np.random.default_rng(0), 2, 3, 4, 5)}, 1e-4)


@pytest.mark.parametrize("op", ["Selu", "Softsign"])
def test_a_definition_in_newer_operators_serves_an_older_model(op: str, tmp_path: Path) -> None:
    before = one(op, {"x": [2, 3]}, "x", opset=13)
    after, _ = rewritten(before, tmp_path, opset=(7, 13), lacking=[op, "Abs"])
    assert not {op, "Abs"} & ops(after)
    assert after.opset_import[0].version == 13
    require_same(before, after, {"x": normal(np.random.default_rng(0), 2, 3)})


def test_attention_takes_its_definition(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    shapes: dict[str, Any] = {"q": [1, 2, 4, 8], "k": [1, 2, 6, 8], "v": [1, 2, 6, 8]}
    before = one("Attention", shapes, "q", "k", "v", opset=23)
    after, _ = rewritten(before, tmp_path, opset=(7, 13), lacking=["CastLike"], shapes=shapes)
    feeds = {name: normal(generator, *shape) for name, shape in shapes.items()}
    scores = np.exp(feeds["q"] @ feeds["k"].swapaxes(-1, -2) / np.sqrt(8))
    wanted = scores / scores.sum(-1, keepdims=True) @ feeds["v"]
    np.testing.assert_allclose(run(after, feeds)[0], wanted, rtol=1e-4, atol=1e-5)


def test_attention_with_a_cache_and_no_mask_takes_its_definition(tmp_path: Path) -> None:
    """An operand that is left out before others, for which the inliner itself has no type."""
    generator = np.random.default_rng(0)
    shapes: dict[str, Any] = {name: [1, 2, 4, 8] for name in ("q", "k", "v", "past_k", "past_v")}
    before = one("Attention", shapes, "q", "k", "v", "", "past_k", "past_v", outputs=3, opset=24)
    after, applied = rewritten(before, tmp_path, opset=(7, 13), lacking=["CastLike"])
    assert "Attention spelt out (1)" in applied
    assert [item.domain for item in after.opset_import] == [""]
    feeds = {name: normal(generator, *shape) for name, shape in shapes.items()}
    keys, values = (np.concatenate([feeds[f"past_{name}"], feeds[name]], 2) for name in "kv")
    scores = np.exp(feeds["q"] @ keys.swapaxes(-1, -2) / np.sqrt(8))
    found = run(after, feeds)
    np.testing.assert_allclose(found[0], scores / scores.sum(-1, keepdims=True) @ values, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[1], keys)


# -- einsum ------------------------------------------------------------------------------------------------------------

EQUATIONS = [
    "ij,jk->ik", "ij,jk", "ij,kj->ki", "bij,bjk->bik", "bhqd,bhkd->bhqk", "btc,chd->bhtd", "i,i->", "i,j->ij",
    "bi,bi->b", "bij->bji", "ijk->j", "ij->", "...ij,...jk->...ik", "b...d,de->b...e", "abc,cba->b", "ij,ij->ij",
    "bchw,kc->bkhw", "abcd,cdef->abef", "ba", "ij,j->i", "a,b->ba",
]  # fmt: skip


@pytest.mark.parametrize("equation", EQUATIONS)
@SEEDS
def test_einsum(equation: str, seed: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(seed)
    sizes = {letter: int(generator.integers(1, 6)) for letter in "abcdefhijkqtw"}
    feeds = {}
    for index, term in enumerate(equation.partition("->")[0].split(",")):
        letters = [sizes[letter] for letter in term.replace("...", "")]
        free = [2, 3] if "..." in term else []
        place = term.find("...")
        feeds[f"x{index}"] = normal(generator, *letters[: max(place, 0)], *free, *letters[max(place, 0) :])
    before = one("Einsum", {name: list(value.shape) for name, value in feeds.items()}, *feeds, equation=equation)
    after, _ = rewritten(before, tmp_path, opset=(7, 13), lacking=["Einsum"])
    assert "Einsum" not in ops(after)
    require_same(before, after, feeds, 1e-4)


def test_einsum_keeps_dynamic_axes_where_nothing_is_joined(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    shapes: dict[str, Any] = {"q": ["b", 2, "t", 8], "k": ["b", 2, "s", 8]}
    before = one("Einsum", shapes, "q", "k", equation="bhqd,bhkd->bhqk")
    after, _ = rewritten(before, tmp_path, lacking=["Einsum"])
    require_same(before, after, {"q": normal(generator, 3, 2, 4, 8), "k": normal(generator, 3, 2, 7, 8)}, 1e-4)


@pytest.mark.parametrize(
    ("equation", "shapes", "text"),
    [
        ("ii->i", {"x": [3, 3]}, "takes a diagonal"),
        ("ij,jk,kl->il", {"x": [2, 2], "y": [2, 2], "z": [2, 2]}, "3 operands: two at most"),
        ("btc,chd->bhtd", {"x": ["b", 4, 8], "w": [8, 2, 4]}, "the axis 'b' has no fixed size"),
        ("...i,...i->...", {"x": [2, 3, 4], "w": [3, 4]}, "broadcasts the axes of its ellipses"),
        ("ij,jk->ik", {"x": [2, 1], "w": [3, 4]}, "the axis 'j' is 1 in one operand and 3"),
        ("ij->k", {"x": [2, 2]}, "no operand of 'ij->k' has the axis 'k'"),
    ],
)
def test_einsum_beyond_the_rule_is_refused(equation: str, shapes: dict[str, Any], text: str, tmp_path: Path) -> None:
    before = one("Einsum", shapes, *shapes, equation=equation)
    with pytest.raises(NotAvailable, match="Einsum of opset 20") as caught:
        rewritten(before, tmp_path, lacking=["Einsum"])
    assert text in caught.value.failed
    assert caught.value.exit_code == 3


# -- recurrent ---------------------------------------------------------------------------------------------------------


def recurrent(
    op: str, generator: np.random.Generator, direction: str, extras: str, **attributes: Any
) -> onnx.ModelProto:
    """``extras`` of b (bias), h (first state), c (first cell), p (peepholes), s (the lengths, all of them whole)."""
    gates, hidden, features, steps, batch = (3 if op == "GRU" else 4), 5, 3, 4, 2
    number = 2 if direction == "bidirectional" else 1
    first = [batch, number, hidden] if attributes.get("layout") else [number, batch, hidden]
    weights = {
        "w": normal(generator, number, gates * hidden, features),
        "r": normal(generator, number, gates * hidden, hidden),
        "b": normal(generator, number, 2 * gates * hidden), "s": np.full(batch, steps, np.int32),
        "h": normal(generator, *first), "c": normal(generator, *first), "p": normal(generator, number, 3 * hidden),
    }  # fmt: skip
    order = ["w", "r", *(name if name in extras else "" for name in ("bshcp" if op == "LSTM" else "bsh"))]
    outputs = ["y", "yh", *(["yc"] if op == "LSTM" else [])]
    node = helper.make_node(op, ["x", *order], outputs, hidden_size=hidden, direction=direction, **attributes)
    shape = [batch, steps, features] if attributes.get("layout") else [steps, batch, features]
    kept = {name: weights[name] for name in order if name}
    return model_of([node], {"x": shape}, outputs, kept, opset=14)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("linear", [0, 1])
@pytest.mark.parametrize("extras", ["", "b", "bhs"])
def test_gru(direction: str, linear: int, extras: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(len(extras))
    before = recurrent("GRU", generator, direction, extras, linear_before_reset=linear)
    after, _ = rewritten(before, tmp_path, opset=(7, 13), lacking=["GRU"], shapes={"x": [4, 2, 3]})
    assert "GRU" not in ops(after)
    require_same(before, after, {"x": normal(generator, 4, 2, 3)})


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("extras", ["", "b", "bhcps"])
def test_lstm(direction: str, extras: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(len(extras))
    before = recurrent("LSTM", generator, direction, extras)
    after, _ = rewritten(before, tmp_path, opset=(7, 13), lacking=["LSTM"], shapes={"x": [4, 2, 3]})
    assert "LSTM" not in ops(after)
    require_same(before, after, {"x": normal(generator, 4, 2, 3)})


@pytest.mark.parametrize("op", ["GRU", "LSTM"])
def test_batches_first_is_the_same_layer_with_axes_turned(op: str, tmp_path: Path) -> None:
    """ONNX Runtime has no ``layout`` of 1, so the layer with the other layout is the reference."""
    extras = "bhc"
    plain = recurrent(op, np.random.default_rng(1), "bidirectional", extras)
    turned = recurrent(op, np.random.default_rng(1), "bidirectional", extras, layout=1)
    for mine, theirs in zip(turned.graph.initializer, plain.graph.initializer, strict=True):
        if mine.name in "hc":
            value = onnx.numpy_helper.to_array(theirs).transpose(1, 0, 2)
            mine.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(value), mine.name))
    after, _ = rewritten(turned, tmp_path, opset=(7, 13), lacking=[op])
    x = normal(np.random.default_rng(2), 4, 2, 3)
    wanted, found = run(plain, {"x": x}), run(after, {"x": np.ascontiguousarray(x.transpose(1, 0, 2))})
    np.testing.assert_allclose(found[0], wanted[0].transpose(2, 0, 1, 3), rtol=1e-5, atol=1e-5)
    for state, other in zip(found[1:], wanted[1:], strict=True):
        np.testing.assert_allclose(state, other.transpose(1, 0, 2), rtol=1e-5, atol=1e-5)


def test_a_recurrent_layer_takes_the_length_that_is_fixed(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    before = recurrent("GRU", generator, "forward", "b")
    before.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "frames"
    with pytest.raises(NotAvailable, match=r"GRU of opset 14.*'x' has an axis of no fixed size"):
        rewritten(before, tmp_path, lacking=["GRU"])
    after, applied = rewritten(before, tmp_path, lacking=["GRU"], shapes={"x": [7, 2, 3]})
    assert "sizes fixed: x 7x2x3" in applied
    require_same(before, after, {"x": normal(generator, 7, 2, 3)})


def test_named_activations_are_kept(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    before = recurrent("GRU", generator, "forward", "b", activations=["Sigmoid", "Relu"])
    after, _ = rewritten(before, tmp_path, lacking=["GRU"])
    assert "Relu" in ops(after)
    require_same(before, after, {"x": normal(generator, 4, 2, 3)})


def test_weights_of_every_step_are_cut_once(tmp_path: Path) -> None:
    before = recurrent("GRU", np.random.default_rng(0), "forward", "b")
    after, _ = rewritten(before, tmp_path, lacking=["GRU"], shapes={"x": [4, 2, 3]})
    cut = [item for item in after.graph.initializer if list(item.dims) in ([5, 10], [5, 5])]
    assert len(cut) == 2, "the update and reset gates' weights, and the candidate's"


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"clip": 1.0}, "the attribute clip"),
        ({"activations": ["Sigmoid", "ThresholdedRelu"]}, "the activation ThresholdedRelu"),
        ({"activation_alpha": [0.5, 0.5]}, "the attribute activation_alpha"),
    ],
)
def test_what_a_recurrent_rule_does_not_know_is_refused(attributes: dict[str, Any], text: str, tmp_path: Path) -> None:
    before = recurrent("GRU", np.random.default_rng(0), "forward", "", **attributes)
    with pytest.raises(NotAvailable) as caught:
        rewritten(before, tmp_path, lacking=["GRU"])
    assert text in caught.value.failed


def test_lengths_that_differ_and_endless_ones_are_refused(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    before = recurrent("GRU", generator, "forward", "bs")
    short = next(item for item in before.graph.initializer if item.name == "s")
    short.CopyFrom(onnx.numpy_helper.from_array(np.array([4, 2], np.int32), "s"))
    with pytest.raises(NotAvailable, match=r"sequence_lens \[4, 2\] differ from the 4 steps"):
        rewritten(before, tmp_path, lacking=["GRU"])
    with pytest.raises(NotAvailable, match="513 steps: 512 at most are unrolled"):
        rewritten(recurrent("GRU", generator, "forward", ""), tmp_path, lacking=["GRU"], shapes={"x": [513, 2, 3]})
