"""ONNX files that mean nothing are refused with what is wrong in them, before any runtime sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avsdk.engines import onnxruntime as onnxruntime_engine
from avsdk.errors import AvsdkError, ModelRefused, NotAvailable, UsageError
from avsdk.onnx_check import OnnxFacts, check_onnx
from avsdk_targets.sources import OnnxSource
from avsdk_targets.structure import examine, require_structure

pytest.importorskip("onnxruntime")

FLOAT = TensorProto.FLOAT


def network(**weights: np.ndarray) -> onnx.ModelProto:
    """y = relu(x @ w) + b."""
    tensors = {"w": np.eye(4, dtype=np.float32), "b": np.ones(4, np.float32), **weights}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
            helper.make_node("Relu", ["h"], ["r"], name="rectifier"),
            helper.make_node("Add", ["r", "b"], ["y"], name="sum"),
        ],
        "net",
        [helper.make_tensor_value_info("x", FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", FLOAT, ["batch", 4])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def cyclic() -> onnx.ModelProto:
    model = network()
    model.graph.node[0].input[0] = "y"
    return model


def cyclic_through_a_branch() -> onnx.ModelProto:
    """The branch of an If reads what comes of the If."""
    model = network()
    model.graph.node[1].output[0] = "unused"
    branch = helper.make_graph(
        [helper.make_node("Identity", ["y"], ["inside"], name="peek")], "branch", [],
        [helper.make_tensor_value_info("inside", FLOAT, None)],
    )  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(
        helper.make_node("If", ["yes"], ["r"], name="choice", then_branch=branch, else_branch=branch)
    )
    return model


def made_twice() -> onnx.ModelProto:
    model = network()
    model.graph.node[1].output[0] = "h"
    return model


def weight_made_twice() -> onnx.ModelProto:
    model = network()
    model.graph.initializer.append(model.graph.initializer[0])
    return model


def weight_overwritten() -> onnx.ModelProto:
    model = network()
    model.graph.node[1].output[0] = "b"
    return model


def reads_nothing() -> onnx.ModelProto:
    model = network()
    model.graph.node[1].input[0] = "nowhere"
    return model


def gives_nothing() -> onnx.ModelProto:
    model = network()
    model.graph.output[0].name = "z"
    return model


def foreign_operator() -> onnx.ModelProto:
    model = network()
    model.graph.node[1].domain = "org.example"
    model.opset_import.append(helper.make_opsetid("org.example", 1))
    return model


def unsaid_domain() -> onnx.ModelProto:
    model = network()
    model.graph.node[1].domain = "org.example"
    return model


def unknown_operator() -> onnx.ModelProto:
    model = network()
    model.graph.node[1].op_type = "Rellu"
    return model


def too_new_an_operator() -> onnx.ModelProto:
    model = network()
    model.graph.node[1].op_type = "Gelu"
    return model


def with_weight(**fields: object) -> onnx.ModelProto:
    """The tensor w with some of its fields overwritten."""
    model = network()
    weight = model.graph.initializer[0]
    for name, value in fields.items():
        if name == "dims":
            weight.dims[:] = value  # type: ignore[index]
        else:
            setattr(weight, name, value)
    return model


def constant_cut_short() -> onnx.ModelProto:
    model = network()
    tensor = model.graph.initializer.pop()
    tensor.raw_data = tensor.raw_data[:-1]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["b"], value=tensor))
    return model


def too_few_values() -> onnx.ModelProto:
    model = network()
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].float_data.extend([1.0] * 15)
    return model


@pytest.mark.parametrize(
    ("make", "kind", "texts"),
    [
        (lambda: with_weight(raw_data=bytes(60)), ModelRefused, ["'w' of net.onnx has the shape [4, 4] and 60 bytes"]),
        (
            lambda: with_weight(dims=[1 << 40, 4]),
            ModelRefused,
            ["shape [1099511627776, 4] and 64 bytes"],
        ),
        (lambda: with_weight(dims=[-4, 4]), ModelRefused, ["'w' of net.onnx has the shape [-4, 4]"]),
        (lambda: with_weight(data_type=99), ModelRefused, ["'w' of net.onnx is of the type 99"]),
        (lambda: with_weight(data_type=0), ModelRefused, ["'w' of net.onnx is of the type 0"]),
        (too_few_values, ModelRefused, ["'w' of net.onnx has the shape [4, 4] and 15 values"]),
        (constant_cut_short, ModelRefused, ["'b' of net.onnx has the shape [4] and 15 bytes"]),
        (cyclic, ModelRefused, ["net.onnx is cyclic: ", "MatMul 'product' -> ", "Loop or Scan"]),
        (cyclic_through_a_branch, ModelRefused, ["is cyclic", "If 'choice'", "Add 'sum'"]),
        (made_twice, ModelRefused, ["makes the tensor 'h' twice: by MatMul 'product' and by Relu 'rectifier'"]),
        (weight_made_twice, ModelRefused, ["has two weights of the name 'w'"]),
        (weight_overwritten, ModelRefused, ["makes the tensor 'b' twice: by an input or a weight"]),
        (reads_nothing, ModelRefused, ["Relu 'rectifier' reads 'nowhere', which nothing makes"]),
        (gives_nothing, ModelRefused, ["gives 'z', which nothing makes"]),
        (foreign_operator, NotAvailable, ["Relu 'rectifier' is of the operator domain 'org.example'", "replace it"]),
        (unsaid_domain, ModelRefused, ["of the domain 'org.example', whose version the model does not say"]),
        (unknown_operator, ModelRefused, ["Rellu 'rectifier' is no operator of ONNX's opset 17", "'Relu'"]),
        (too_new_an_operator, ModelRefused, ["Gelu 'rectifier' is no operator of ONNX's opset 17"]),
        (lambda: network(w=np.full((4, 4), np.nan, np.float32)), ModelRefused, ["'w' of net.onnx hold NaN"]),
        (lambda: network(b=np.array([0, np.nan, 0, 0], np.float16)), ModelRefused, ["'b' of net.onnx hold NaN"]),
        (lambda: network(w=np.full((4, 4), -np.inf, np.float32)), ModelRefused, ["'w' of net.onnx hold infinity"]),
    ],
)
def test_what_means_nothing_is_refused(tmp_path: Path, make: object, kind: type[AvsdkError], texts: list[str]) -> None:
    assert callable(make)
    with pytest.raises(kind) as caught:
        examine(str(saved(make(), tmp_path)))
    assert all(text in str(caught.value) for text in texts), str(caught.value)
    assert caught.value.fix
    assert caught.value.exit_code == (5 if kind is ModelRefused else 3)


def test_the_error_comes_whole_out_of_the_child(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="net.onnx is cyclic: .* 'product'"):
        OnnxSource().materialise(str(saved(cyclic(), tmp_path)), tmp_path / "out", {})


def test_a_sound_model_passes_also_where_its_nodes_stand_in_any_order(tmp_path: Path) -> None:
    model = network(b=np.full(4, -np.inf, np.float32))  # as a mask may hold
    model.graph.node.reverse()
    examine(str(saved(model, tmp_path)))


def test_a_function_of_the_model_is_an_operator(tmp_path: Path) -> None:
    model = foreign_operator()
    function = helper.make_function(
        "org.example", "Relu", ["a"], ["b"], [helper.make_node("Abs", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    model.functions.append(function)
    examine(str(saved(model, tmp_path)))


def test_nan_in_external_data_is_found(tmp_path: Path) -> None:
    model = network()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "w.bin", offset=8, length=64)
    model.graph.initializer[0].ClearField("raw_data")
    values = np.zeros(18, np.float32)
    values[-1] = np.nan
    (tmp_path / "w.bin").write_bytes(values.tobytes())
    with pytest.raises(ModelRefused, match="'w' of net.onnx hold NaN"):
        examine(str(saved(model, tmp_path)))


def test_an_opset_of_the_future_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="has opset 99, newer than") as caught:
        require_structure(tmp_path / "net.onnx", OnnxFacts(13, {"": 99}, {}, (), 0))
    assert "export the model again" in caught.value.fix


def test_a_model_that_answers_nan_is_refused(tmp_path: Path) -> None:
    model = network()
    model.graph.node[1].op_type = "Div"
    model.graph.node[1].input[:] = ["zero", "zero"]
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 4), np.float32), "zero"))
    with pytest.raises(ModelRefused, match="answers with NaN in the output 'y'"):
        OnnxSource().materialise(str(saved(model, tmp_path)), tmp_path / "out", {})


def test_a_model_of_logarithms_gets_positive_samples(tmp_path: Path) -> None:
    model = network()
    model.graph.node[1].op_type = "Log"
    files = OnnxSource().materialise(str(saved(model, tmp_path)), tmp_path / "out", {})
    with np.load(files.golden["model"]) as golden:
        assert all(np.isfinite(golden[name]).all() for name in golden.files)
        assert golden["in.0.x"].min() >= 0.1


@pytest.mark.parametrize("opset", [7, 13, 28])
def test_old_and_new_opsets_have_a_reference(tmp_path: Path, opset: int) -> None:
    model = network()
    model.opset_import[0].version = opset
    model.ir_version = 14 if opset > 26 else 8
    path = saved(model, tmp_path)
    assert check_onnx(path).opset == opset
    files = OnnxSource().materialise(str(path), tmp_path / "out", {})
    assert ("at opset 26" in files.origin["reference"]) == (opset > 26)
    assert files.onnx["model"].read_bytes() == path.read_bytes(), "the bundle carries the model as it came"


def sized(*axes: int | str) -> onnx.ModelProto:
    """A model that takes one tensor of these sizes, as its file says."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", FLOAT, axes)],
        [helper.make_tensor_value_info("y", FLOAT, axes)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("size", [1 << 20, 1 << 40, 1 << 62])
def test_inputs_that_no_memory_holds_are_refused_before_they_are_made(tmp_path: Path, size: int) -> None:
    with pytest.raises(UsageError, match=rf"the inputs x \[{size}, 512\] hold {size * 512} values") as caught:
        OnnxSource().materialise(str(saved(sized(size, 512), tmp_path)), tmp_path / "out", {})
    assert "with smaller sizes" in caught.value.fix


def test_a_default_that_no_memory_holds_is_left_out_where_a_size_is_given(tmp_path: Path) -> None:
    path = str(saved(sized("batch", "a", "b", "c", "d"), tmp_path))
    files = OnnxSource().materialise(path, tmp_path / "one", {"sizes": '[{"a": 2, "b": 2, "c": 2, "d": 2}]'})
    with np.load(files.golden["model"]) as golden:
        assert golden["in.0.x"].shape == (1, 2, 2, 2, 2)
    with pytest.raises(UsageError, match="hold 281474976710656 values") as caught:
        wide = '[{"a": 4096, "b": 4096, "c": 4096, "d": 4096}]'
        OnnxSource().materialise(path, tmp_path / "two", {"sizes": wide})
    assert "--axis batch=SIZE,a=SIZE,b=SIZE,c=SIZE,d=SIZE" in caught.value.fix


def test_a_small_model_with_a_large_answer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_engine, "_MOST_ANSWER_BYTES", 100)
    (answer,) = onnxruntime_engine.reference_outputs(str(saved(sized(26), tmp_path)), [{"x": np.zeros(26, np.float32)}])
    assert answer == {"failed": "its outputs have 104 bytes, more than 100"}
