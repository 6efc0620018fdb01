"""The cast to fp16 and bf16: valid models, nearly the same numbers, and fp32 kept where half would be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.targets.nvidia_models import MODELS, model_of, named_model, style_like

from avsdk.errors import NotAvailable
from avsdk_targets import half_onnx
from avsdk_targets.half_onnx import half_from_full, save_onnx


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, feeds)[0]
    return result


def kinds_of(model: onnx.ModelProto) -> dict[str, list[int]]:
    """The types of every node's inputs, by operator."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {item.name: item.type.tensor_type.elem_type for item in (*graph.value_info, *graph.input, *graph.output)}
    kinds |= {item.name: item.data_type for item in graph.initializer}
    return {node.op_type: [kinds[name] for name in node.input if name] for node in graph.node}


def noise_db(full: np.ndarray, cast: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(full**2) / max(np.sum((full - cast) ** 2), 1e-30)))


def test_the_cast_model_is_valid_keeps_its_borders_and_gives_nearly_the_same_numbers() -> None:
    model = style_like()
    half = half_from_full(model)
    onnx.checker.check_model(half, full_check=True)
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 32, 48)).astype(np.float32)
    full, cast = run(model, image=image), run(half, image=image)
    assert cast.dtype == np.float32
    assert np.any(full != cast), "nothing ran in fp16"
    assert noise_db(full, cast) > 40


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith(("quantised", "skewed"))])
def test_every_kind_of_layer_gives_nearly_the_same_numbers(name: str) -> None:
    model = named_model(name)
    half = half_from_full(model)
    onnx.checker.check_model(half, full_check=True)
    x = np.random.default_rng(1).normal(0, 1, MODELS[name][1]).astype(np.float32)
    assert noise_db(run(model, x=x), run(half, x=x)) > 40


def test_convolutions_run_in_fp16_norms_in_fp32_and_scales_stay_fp32() -> None:
    half = half_from_full(style_like())
    seen = kinds_of(half)
    assert set(seen["Conv"]) == {TensorProto.FLOAT16}
    assert set(seen["InstanceNormalization"]) == {TensorProto.FLOAT}
    assert seen["Resize"] == [TensorProto.FLOAT16, TensorProto.FLOAT]
    assert all(node.name for node in half.graph.node)
    names = [name for node in half.graph.node for name in node.output]
    assert len(set(names)) == len(names)


def test_bf16_is_cast_the_same_way() -> None:
    half = half_from_full(style_like(), "bf16")
    seen = kinds_of(half)
    assert set(seen["Conv"]) == {TensorProto.BFLOAT16}
    assert set(seen["InstanceNormalization"]) == {TensorProto.FLOAT}
    assert not any("fp16" in name.replace("bf16", "") for node in half.graph.node for name in node.output)


@pytest.mark.parametrize(("name", "operator"), [("gru", "GRU"), ("deconv", "ConvTranspose")])
def test_what_the_vendor_cannot_do_in_bf16_stays_in_fp32(name: str, operator: str) -> None:
    assert set(kinds_of(half_from_full(named_model(name), "bf16"))[operator]) == {TensorProto.FLOAT}
    assert TensorProto.FLOAT16 in kinds_of(half_from_full(named_model(name)))[operator]


def test_an_input_of_several_nodes_is_cast_once() -> None:
    half = half_from_full(style_like())
    assert sum(node.op_type == "Cast" and node.input[0] == "image" for node in half.graph.node) == 1


def test_a_weight_that_fp16_cannot_hold_keeps_its_operation_in_fp32() -> None:
    large = numpy_helper.from_array(np.full((3,), 1e5, np.float32), "b2")
    half = half_from_full(style_like(b2=large))
    onnx.checker.check_model(half, full_check=True)
    assert [node for node in half.graph.node if node.op_type == "Conv"][1].input[2] == "b2"
    wide = half_from_full(style_like(b2=large), "bf16")
    assert [node for node in wide.graph.node if node.op_type == "Conv"][1].input[2] == "b2__bf16"


def spelt_out_layer_norm(as_constant: bool) -> onnx.ModelProto:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[-1]),
        helper.make_node("Sub", ["x", "mean"], ["d"]),
        helper.make_node("Mul", ["d", "d"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["variance"], axes=[-1]),
        helper.make_node("Add", ["variance", "eps"], ["safe"]),
        helper.make_node("Sqrt", ["safe"], ["deviation"]),
        helper.make_node("Div", ["d", "deviation"], ["y"]),
    ]
    if as_constant:
        nodes.insert(0, helper.make_node("Constant", [], ["eps"], value_float=1e-12))
    weights = {} if as_constant else {"eps": np.float32(1e-12)}
    return model_of(nodes, weights, (2, 16), opset=17)  # type: ignore[arg-type]


@pytest.mark.parametrize("as_constant", [True, False])
def test_an_epsilon_that_fp16_would_round_to_nothing_is_added_in_fp32(as_constant: bool) -> None:
    half = half_from_full(spelt_out_layer_norm(as_constant))
    onnx.checker.check_model(half, full_check=True)
    assert set(kinds_of(half)["Add"]) == {TensorProto.FLOAT}
    assert np.all(np.isfinite(run(half, x=np.zeros((2, 16), np.float32))))


def test_what_scales_a_sum_follows_it_in_fp32() -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "share"], ["y"]),
    ]
    model = model_of(nodes, {"share": np.float32([1 / 32])}, (2, 16))
    assert run(half_from_full(model), x=np.full((2, 16), 60_000, np.float32))[0, 0] == 60_000


def test_control_flow_is_refused() -> None:
    body = helper.make_graph([], "body", [], [])
    model = style_like()
    model.graph.node.append(helper.make_node("If", ["flag"], ["x"], then_branch=body, else_branch=body))
    with pytest.raises(NotAvailable, match="the graph holds If, whose body is not cast to bf16"):
        half_from_full(model, "bf16")


def test_a_foreign_operator_stays_in_fp32() -> None:
    model = named_model("conv")
    model.graph.node[1].op_type, model.graph.node[1].domain = "Polished", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    half = half_from_full(model)
    made = {name: node for node in half.graph.node for name in node.output}
    polished = next(node for node in half.graph.node if node.op_type == "Polished")
    assert made[polished.input[0]].op_type == "Cast"
    assert polished.output[0] == "y"


def test_a_large_model_is_cast_and_written_with_its_weights_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half_onnx, "_INLINE_BYTES", 100)
    monkeypatch.setattr(half_onnx, "_INFERRED_WHOLE_BYTES", 100)
    nodes, weights = MODELS["conv"][0]()
    weights = {**weights, "w": np.ones((64, 4, 3, 3), np.float32), "b": np.ones(64, np.float32)}
    half = half_from_full(model_of(nodes, weights, (1, 4, 8, 8)))
    assert set(kinds_of(half)["Conv"]) == {TensorProto.FLOAT16}
    assert save_onnx(half, tmp_path / "m.onnx") == ["m.onnx", "m.weights"]
    assert {file.name for file in tmp_path.iterdir()} == {"m.onnx", "m.weights"}
    onnx.checker.check_model(str(tmp_path / "m.onnx"))


def test_weights_that_are_listed_as_inputs_too_do_not_become_inputs_that_somebody_must_feed() -> None:
    model = named_model("conv")
    for item in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(item.name, item.data_type, item.dims))
    model.ir_version = 3
    half = half_from_full(model)
    onnx.checker.check_model(half, full_check=True)
    assert [item.name for item in half.graph.input] == ["x"]


def test_a_tensor_that_has_the_name_of_a_cast_keeps_it() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["x__as_fp16"]),
        helper.make_node("MatMul", ["x__as_fp16", "w"], ["w__fp16"]),
        helper.make_node("MatMul", ["x", "w"], ["y__fp16"]),
        helper.make_node("Add", ["w__fp16", "y__fp16"], ["y"]),
    ]
    model = model_of(nodes, {"w": np.eye(16, dtype=np.float32)}, (2, 16))
    half = half_from_full(model)
    onnx.checker.check_model(half, full_check=True)
    x = np.random.default_rng(0).normal(0, 1, (2, 16)).astype(np.float32)
    assert noise_db(run(model, x=x), run(half, x=x)) > 40


def test_a_tensor_of_unknown_type_is_refused_by_the_node_that_makes_it() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    model = model_of(nodes, {"w": np.eye(16, dtype=np.float32)}, (2, 16))
    model.graph.node[0].op_type, model.graph.node[0].domain = "Gelu", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    del model.graph.value_info[:]
    with pytest.raises(NotAvailable, match=r"the type of 'a' is not known, which com\.microsoft\.Gelu makes"):
        half_from_full(model)


def test_sparse_weights_are_refused() -> None:
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {}, (2, 16))
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    places = numpy_helper.from_array(np.zeros(1, np.int64), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [16, 16]))
    with pytest.raises(NotAvailable, match="the sparse weights 'w', which are not cast to fp16"):
        half_from_full(model)


def kept_in_full(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], shape: list[int]) -> dict[str, bool]:
    """Which nodes of a graph of ``x`` compute in fp32 after the cast to fp16, by name."""
    values = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None),
    ]
    if nodes[-1].op_type in {"ArgMin", "ArgMax"}:
        ends[1] = helper.make_tensor_value_info("y", TensorProto.INT64, None)
    else:
        ends[1] = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], values)
    cast = half_from_full(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    kinds = {
        item.name: item.type.tensor_type.elem_type for item in onnx.shape_inference.infer_shapes(cast).graph.value_info
    }
    kinds |= {item.name: item.data_type for item in cast.graph.initializer} | {"x": TensorProto.FLOAT}
    return {node.name: kinds[node.input[0]] == TensorProto.FLOAT for node in cast.graph.node if node.op_type != "Cast"}


def test_distances_to_a_codebook_stay_in_fp32() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="layer"),
        helper.make_node("MatMul", ["h", "codes"], ["dots"], name="product"),
        helper.make_node("Mul", ["dots", "two"], ["twice"], name="twice"),
        helper.make_node("Sub", ["squares", "twice"], ["d"], name="distance"),
        helper.make_node("ArgMin", ["d"], ["y"], name="choice", axis=1),
    ]
    weights = {"w": np.ones((8, 8), "f4"), "codes": np.ones((8, 16), "f4"), "two": np.full(1, 2, "f4"),
               "squares": np.ones(16, "f4")}  # fmt: skip
    found = kept_in_full(nodes, weights, [4, 8])
    assert found == {"layer": False, "product": True, "twice": True, "distance": True, "choice": True}


def test_a_gram_matrix_and_a_division_by_a_norm_stay_in_fp32() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="layer"),
        helper.make_node("Transpose", ["h"], ["t"], name="turn", perm=[1, 0]),
        helper.make_node("MatMul", ["t", "h"], ["g"], name="gram"),
        helper.make_node("ReduceL2", ["g"], ["n"], name="norm", axes=[1]),
        helper.make_node("Div", ["g", "n"], ["u"], name="unit"),
        helper.make_node("MatMul", ["u", "w"], ["y"], name="after"),
    ]
    found = kept_in_full(nodes, {"w": np.ones((8, 8), "f4")}, [4, 8])
    assert found == {"layer": False, "turn": False, "gram": True, "norm": True, "unit": True, "after": False}
