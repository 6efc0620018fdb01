"""Types of tensors: those that numpy lacks travel as the bytes that ONNX prescribes, and through the runtimes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from avsdk.dtypes import EXTENDED, KNOWN, from_stored, numpy_dtype, stored
from avsdk.errors import NotAvailable, UnknownName
from avsdk.session import Artifact, session_class
from avsdk.spec import AxisRange, GraphSpec, TensorSpec


@pytest.mark.parametrize("name", sorted(KNOWN - {"string"}))
def test_every_type_has_a_dtype_of_its_name(name: str) -> None:
    assert numpy_dtype(name).name == name


def test_text_is_held_as_objects() -> None:
    assert numpy_dtype("string") == np.dtype(object)


def test_a_misspelt_type_gets_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'float32'"):
        numpy_dtype("flaot32")


def test_without_ml_dtypes_the_line_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    numpy_dtype.cache_clear()
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(NotAvailable, match="pip install ml_dtypes"):
        numpy_dtype("bfloat16")


@pytest.mark.parametrize("name", sorted(EXTENDED))
@pytest.mark.parametrize("shape", [(3, 5), (4,), (), (0, 2)])
def test_bytes_are_those_of_onnx_and_come_back(name: str, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 2, shape)
    array = np.asarray(values).astype(numpy_dtype(name))
    content = stored(array)
    assert content.tobytes() == onnx.numpy_helper.from_array(array, "x").raw_data
    back = from_stored(content, name, shape)
    assert back.dtype == array.dtype
    assert back.shape == shape
    assert stored(back).tobytes() == content.tobytes()


@pytest.mark.parametrize(("name", "lowest"), [("int4", -8), ("int2", -2)])
def test_signed_narrow_values_keep_their_sign(name: str, lowest: int) -> None:
    array = np.arange(lowest, -lowest).astype(numpy_dtype(name))
    assert from_stored(stored(array), name, array.shape).astype(int).tolist() == list(range(lowest, -lowest))


# -- through the runtimes ----------------------------------------------------------------------------------------------


def cast_model(folder: Path, name: str, *, goes_in: bool) -> GraphSpec:
    """``y`` is ``x`` cast from the type to fp32, or the other way."""
    number = EXTENDED[name][0]
    given, made = (number, TensorProto.FLOAT) if goes_in else (TensorProto.FLOAT, number)
    node = helper.make_node("Cast", ["x"], ["y"], to=made)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", given, [3, 5])],
        [helper.make_tensor_value_info("y", made, [3, 5])],
    )
    opsets = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "model.onnx")
    kinds = (name, "float32") if goes_in else ("float32", name)
    return GraphSpec("g", (TensorSpec("x", kinds[0], (3, 5)),), (TensorSpec("y", kinds[1], (3, 5)),))


def artifact_of(engine: str, folder: Path) -> Artifact:
    file = "model.onnx"
    if engine == "openvino":
        import openvino

        openvino.save_model(openvino.Core().read_model(folder / file), folder / "model.xml", compress_to_fp16=False)
        file = "model.xml"
    return Artifact("g", engine, "cpu", "fp32", (file,))


@pytest.mark.parametrize("goes_in", [True, False])
@pytest.mark.parametrize(
    ("engine", "name"),
    [("onnxruntime", name) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4")]
    + [("openvino", name) for name in ("bfloat16", "float8_e4m3fn", "int4", "uint4")],
)
def test_a_session_takes_and_gives_them(engine: str, name: str, goes_in: bool, tmp_path: Path) -> None:
    state = session_class(engine).availability("cpu")
    if not state.ok:
        pytest.skip(state.reason)
    values = np.random.default_rng(1).integers(0, 4, (3, 5)).astype(np.float32)
    graph = cast_model(tmp_path, name, goes_in=goes_in)
    given = values.astype(numpy_dtype(name)) if goes_in else values
    with session_class(engine).open(tmp_path, artifact_of(engine, tmp_path), graph, 1) as session:
        found = session.run({"x": given})["y"]
    assert found.dtype == numpy_dtype("float32" if goes_in else name)
    assert found.astype(np.float32).tolist() == values.tolist()


def test_openvino_keeps_a_scalar_a_scalar(tmp_path: Path) -> None:
    """Numpy's ascontiguousarray makes a vector of one, which the plugin refuses."""
    pytest.importorskip("openvino")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "k"], ["y"])],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [2]), ("k", []))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx"
    )
    spec = GraphSpec(
        "g",
        (TensorSpec("x", "float32", (2,)), TensorSpec("k", "float32", ())),
        (TensorSpec("y", "float32", (2,)),),
    )
    with session_class("openvino").open(tmp_path, artifact_of("openvino", tmp_path), spec, 1) as session:
        assert session.run({"x": np.float32([1, 2]), "k": np.asarray(np.float32(3))})["y"].tolist() == [4, 5]


def test_an_axis_may_be_empty_and_a_list_has_no_shape() -> None:
    axes = {"n": AxisRange(0, 10, 1, 1)}
    spec = GraphSpec("g", (TensorSpec("x", "float32", ("n", 2)), TensorSpec("s", "sequence", ())), (), axes)
    assert spec.sizes_of({"x": (0, 2)}) == {"n": 0}
