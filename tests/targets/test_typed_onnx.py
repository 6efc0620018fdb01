"""What a model's types say: precision shares, Turing's missing kernels, quantisation that is not symmetric."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from tests.targets.nvidia_models import named_model, style_like

from avsdk_targets.half_onnx import half_from_full
from avsdk_targets.typed_onnx import TypedGraph, without_weights

USUAL = {"image": [1, 3, 64, 64]}


def test_shares_count_multiply_adds_at_the_usual_sizes() -> None:
    half = TypedGraph(half_from_full(style_like()), USUAL).shares()
    first, second = 2 * 8 * 32 * 32 * 27, 2 * 3 * 64 * 64 * 72
    norm = 8 * 32 * 32
    others = 8 * 32 * 32 + 3 * 64 * 64
    assert half["fp32"] == pytest.approx(norm / (first + second + norm + others), rel=0.05)
    assert TypedGraph(style_like(), USUAL).shares() == {"fp32": 1.0}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("conv", []), ("deconv", []), ("layer_norm", []), ("grid_sample", []), ("conv3d", ["3-D Conv"]),
        ("gemm", ["Gemm"]), ("einsum", ["Einsum"]), ("gru", ["GRU"]), ("lstm", ["LSTM"]), ("attention", ["MatMul"] * 5),
        ("quantised_product", ["MatMul"]), ("quantised_conv", []),
    ],
)  # fmt: skip
def test_what_turing_lacks_is_found_and_nothing_else(name: str, found: list[str]) -> None:
    model = named_model(name)
    assert [operator for operator, _ in TypedGraph(model, {}).full_products()] == found
    if "quantised" not in name:
        assert not list(TypedGraph(half_from_full(model), {}).full_products())


def test_a_recurrent_layer_counts_for_its_products() -> None:
    """Three gates of eight from sixteen inputs and eight states, six steps; the rest is nothing to that."""
    graph = TypedGraph(named_model("gru"), {})
    node = next(node for node in named_model("gru").graph.node if node.op_type == "GRU")
    assert graph._flops(node) == 2 * 6 * 1 * (24 * 16 + 24 * 8)


def test_int8_is_what_follows_quantised_data_and_weights() -> None:
    assert TypedGraph(named_model("quantised_conv"), {}).shares() == {"int8": 1.0}
    model = named_model("quantised_conv")
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    conv.input[0] = "x"
    assert TypedGraph(model, {}).shares() == {"fp32": 1.0}, "the weights alone are stored in int8"


def test_a_zero_point_that_is_not_zero_names_its_node() -> None:
    assert TypedGraph(named_model("skewed_conv"), {}).asymmetric() == "the node that makes xq"
    assert TypedGraph(named_model("quantised_conv"), {}).asymmetric() == ""


def test_weights_in_other_files_are_left_there_but_for_the_small(tmp_path: Path) -> None:
    onnx.save(style_like(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    model = without_weights(tmp_path / "m.onnx")
    left = {item.name for item in model.graph.initializer if item.external_data}
    assert not {"pads", "scales"} & left
    assert "w1" in {item.name for item in model.graph.initializer}
    assert TypedGraph(model, USUAL).shares() == {"fp32": 1.0}
