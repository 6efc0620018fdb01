"""LiteRT from a bare ONNX file: onnx2tf's layouts are undone, and no file is accepted that was not compared."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from avsdk.engines.litert import LiteRtSession
from avsdk.errors import NotAvailable, ParityFailed, ToolchainCrashed, ToolchainMissing
from avsdk.spec import AxisRange, GraphSpec, TensorSpec
from avsdk_targets import litert_graph
from avsdk_targets.compiler import Compiled, CompileJob
from avsdk_targets.compilers import litert as compiler_module
from avsdk_targets.compilers.litert import LiteRtCompiler
from avsdk_targets.toolchain import Environment, PackageNeed, find

_AXES = {"height": AxisRange(4, 64, 1, 8), "width": AxisRange(4, 64, 1, 8)}
_SIZES = {"height": 8, "width": 8}  # as many as the channels: a wrong layout has the right shape


def _spec(out: str) -> GraphSpec:
    shape = (1, 8, "height", "width")
    return GraphSpec("net", (TensorSpec("image", "float32", shape),), (TensorSpec(out, "float32", shape),), _AXES)


def _model(path: Path) -> Path:
    weights = np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Relu", ["c"], ["styled"]),
    ]
    shape = [1, 8, "height", "width"]
    edges = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("image", "styled")]
    graph = onnx.helper.make_graph(nodes, "net", edges[:1], edges[1:], [onnx.numpy_helper.from_array(weights, "w")])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _require(*names: str) -> None:
    for name in names:
        try:
            find(name)
        except ToolchainMissing as error:
            pytest.skip(f"{error.failed}; {error.fix}")


def _compile(
    tmp_path: Path, precision: str = "fp32", compiler: LiteRtCompiler | None = None, **changes: Any
) -> Compiled:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    job = CompileJob(
        _model(tmp_path / "net.onnx"), _spec("styled"), "cpu", "host", precision, out, sizes=_SIZES, **changes
    )
    return (compiler or LiteRtCompiler()).compile(job)


def _expected(image: np.ndarray) -> np.ndarray:
    weights = np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float64)
    padded = np.pad(image.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.maximum(np.einsum("bihwyx,oiyx->bohw", windows, weights), 0)


@pytest.mark.parametrize(("precision", "least_error"), [("fp32", 1e-4), ("fp16w", 5e-2)])
def test_a_bare_onnx_is_built_in_the_layout_of_its_spec(tmp_path: Path, precision: str, least_error: float) -> None:
    _require("onnx2tf", *(["litert"] if precision != "fp32" else []))
    compiled = _compile(tmp_path, precision)
    assert compiled.artifact.options["route"] == "onnx2tf"
    assert "onnx2tf" in compiled.built_with
    image = np.random.default_rng(1).standard_normal((1, 8, 8, 8)).astype(np.float32)
    with LiteRtSession.open(tmp_path / "out", compiled.artifact, _spec("styled"), 1) as session:
        found = session.run({"image": image})["styled"]
        assert session.execution().effective_precision == ("fp32" if precision == "fp32" else "fp32 (fp16 weights)")
    assert np.abs(found - _expected(image)).max() < least_error


def test_the_weight_cache_is_filled_and_gives_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _require("onnx2tf")
    compiled = _compile(tmp_path, options={"weight_cache": "yes"})
    assert compiled.artifact.options["session"] == {"weight_cache": True}
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path / "home"))
    image = np.random.default_rng(1).standard_normal((1, 8, 8, 8)).astype(np.float32)
    for _ in range(2):
        with LiteRtSession.open(tmp_path / "out", compiled.artifact, _spec("styled"), 1) as session:
            assert np.abs(session.run({"image": image})["styled"] - _expected(image)).max() < 1e-4
            assert session.execution().effective_precision == "fp32"
        (cache,) = (tmp_path / "home" / "xnnpack").iterdir()
        assert cache.suffix == ".bin"
        assert cache.stat().st_size > 2000


# -- the other route after a failure -----------------------------------------------------------------------------------


def die(request: dict[str, Any]) -> dict[str, Any]:
    ctypes.string_at(0)
    return request


class DyingCompiler(LiteRtCompiler):
    package = PackageNeed("numpy", "numpy", "1.0")
    toolchain = None

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return die


def test_after_a_crash_the_onnx_is_tried_and_the_bundle_says_so(tmp_path: Path) -> None:
    _require("onnx2tf")
    compiled = _compile(tmp_path, compiler=DyingCompiler(), program=tmp_path / "net.pt2")
    (notice,) = compiled.artifact.options["notices"]
    assert notice.startswith("graph 'net' was converted from its ONNX by onnx2tf, since litert-torch failed: ")
    assert "died by SIGSEGV" in notice


def test_where_both_fail_both_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: LiteRtCompiler, job: CompileJob) -> Compiled:
        raise ParityFailed("another network came out")

    monkeypatch.setattr(compiler_module._OnnxRoute, "environment", lambda *_: Environment(Path("python")))
    monkeypatch.setattr(compiler_module._OnnxRoute, "compile", fail)
    with pytest.raises(ToolchainCrashed, match=r"(?s)died by SIGSEGV.*and onnx2tf, tried after it: another network"):
        _compile(tmp_path, compiler=DyingCompiler(), program=tmp_path / "net.pt2")


# -- what the child does, without the converter ------------------------------------------------------------------------


def _request(tmp_path: Path) -> dict[str, Any]:
    from avsdk.schema import encode

    return {
        "onnx": str(_static(tmp_path)), "out": str(tmp_path), "graph": encode(_spec("styled")), "sizes": _SIZES,
        "precision": "fp32", "device": "cpu",
    }  # fmt: skip


def _static(tmp_path: Path) -> Path:
    path = _model(tmp_path / "net.onnx")
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        for axis, size in zip(value.type.tensor_type.shape.dim, (1, 8, 8, 8), strict=True):
            axis.dim_value = size
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("failure", [ParityFailed("wrong layout"), RuntimeError("input_channel != 0\nNode 165")])
def test_outputs_are_held_in_a_second_try_and_no_wrong_file_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    tried = []

    def converted(onnx: str, feeds: Any, reference: Any, folder: Path, held: bool) -> Path:
        tried.append((held, sorted(feeds), reference["styled"].shape))
        (folder / "made.tflite").write_bytes(b"model")
        return folder / "made.tflite"

    def refuse(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(compiler_module, "_converted_onnx", converted)
    monkeypatch.setattr(compiler_module, "_load_and_compare", refuse)
    with pytest.raises(ParityFailed, match="onnx2tf made no file of graph 'net' that agrees with its ONNX: ") as caught:
        compiler_module.build_from_onnx(_request(tmp_path))
    assert tried == [(False, ["image"], (1, 8, 8, 8)), (True, ["image"], (1, 8, 8, 8))]
    assert caught.value.failed.count(";") == 1
    assert not list(tmp_path.glob("*.tflite"))

    monkeypatch.setattr(compiler_module, "_load_and_compare", lambda *_, **__: {"inputs": {}, "outputs": {}})
    monkeypatch.setattr(compiler_module.metadata, "version", lambda name: "1")
    assert compiler_module.build_from_onnx(_request(tmp_path))["options"]["route"] == "onnx2tf"


def test_held_outputs_keep_the_models_answers(tmp_path: Path) -> None:
    from avsdk.engines.onnxruntime import reference_outputs

    source = _static(tmp_path)
    held = litert_graph.hold_outputs(str(source), tmp_path / "held.onnx", {"styled": (1, 8, 8, 8)})
    feeds = [{"image": np.random.default_rng(1).standard_normal((1, 8, 8, 8)).astype(np.float32)}]
    (plain,), (kept,) = reference_outputs(str(source), feeds), reference_outputs(str(held), feeds)
    np.testing.assert_array_equal(plain["styled"], kept["styled"])
    assert [node.op_type for node in onnx.load(held).graph.node][-2:] == ["Reshape", "Reshape"]


class Loaded:
    """A converted file that gives ``answer``."""

    def __init__(self, answer: np.ndarray, name: str = "styled", shape: tuple[int, ...] = (1, 2, 2, 2)) -> None:
        self._answer, self._name, self._shape = answer, name, shape

    def get_input_details(self) -> list[dict[str, Any]]:
        return [{"name": "image", "index": 0, "shape": np.array(self._shape)}]

    def get_output_details(self) -> list[dict[str, Any]]:
        return [{"name": self._name, "index": 1}]

    def set_tensor(self, index: int, array: np.ndarray) -> None:
        assert index == 0

    def invoke(self) -> None:
        pass

    def get_tensor(self, index: int) -> np.ndarray:
        return self._answer


_ANSWER = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)


@pytest.mark.parametrize(
    ("loaded", "text"),
    [
        (Loaded(_ANSWER.transpose(0, 2, 3, 1)), "gives 'styled' .* dB from the reference"),
        (Loaded(_ANSWER.reshape(1, 4, 2)), r"gives 'styled' as \[1, 4, 2\]"),
        (Loaded(_ANSWER, shape=(1, 2, 4, 1)), r"takes 'image' as \[1, 2, 4, 1\]"),
        (Loaded(np.full_like(_ANSWER, np.nan)), "from the reference"),
        (Loaded(_ANSWER, name="other"), r"has 1 tensors: \['other'\]"),
    ],
)
def test_a_wrong_file_is_not_accepted(loaded: Loaded, text: str) -> None:
    graph = {"inputs": [{"name": "image"}], "outputs": [{"name": "styled"}]}
    feeds = {"image": np.zeros((1, 2, 2, 2), np.float32)}
    with pytest.raises(ParityFailed, match=text):
        litert_graph.names_of_compared(loaded, graph, feeds, {"styled": _ANSWER}, by_name=True)
    right = litert_graph.names_of_compared(Loaded(_ANSWER), graph, feeds, {"styled": _ANSWER}, by_name=True)
    assert right == {"inputs": {"image": "image"}, "outputs": {"styled": "styled"}}


def test_a_model_that_does_not_answer_is_not_converted(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="does not run the model at the asked sizes"):
        litert_graph.onnx_answers(str(_static(tmp_path)), {"image": np.zeros((1, 8, 4, 8), np.float32)})


def test_only_onnx2tf_installed_is_enough_for_a_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path))
    assert LiteRtCompiler().check("cpu", "host", "fp32").fix == "avsdk toolchain install litert"
    onnx2tf = Environment(Path("python"), {"onnx2tf": "2.6.9"}, "onnx2tf")
    monkeypatch.setattr(compiler_module._OnnxRoute, "environment", lambda *_: onnx2tf)
    assert LiteRtCompiler().check("cpu", "host", "fp32").ok


# -- names that the converter does not keep ----------------------------------------------------------------------------


def test_names_that_the_converter_changes_are_replaced_and_others_stay(tmp_path: Path) -> None:
    """TensorFlow's ``x:0``, also inside a branch that takes it from outside, and a weight of a name that is given."""
    graph = {"inputs": [{"name": "x:0"}], "outputs": [{"name": "out y"}]}
    assert litert_graph.plain_names({"inputs": [{"name": "a/b.c-1"}], "outputs": []}) == {"a/b.c-1": "a/b.c-1"}
    names = litert_graph.plain_names(graph)
    assert names == {"x:0": "tensor_0", "out y": "tensor_1"}
    assert litert_graph.renamed_graph(graph, names)["outputs"] == [{"name": "tensor_1"}]
    branches = {
        f"{name}_branch": onnx.helper.make_graph(
            [onnx.helper.make_node(op, ["x:0"], [f"{op}:0"])], name, [],
            [onnx.helper.make_tensor_value_info(f"{op}:0", onnx.TensorProto.FLOAT, [2])],
        )
        for name, op in (("then", "Neg"), ("else", "Exp"))
    }  # fmt: skip
    nodes = [
        onnx.helper.make_node("If", ["flag"], ["m"], **branches),
        onnx.helper.make_node("Mul", ["m", "tensor_0"], ["out y"]),
    ]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in names]
    held = {"flag": np.array(True), "tensor_0": np.array([2, 3], np.float32)}
    weights = [onnx.numpy_helper.from_array(value, name) for name, value in held.items()]
    made = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    source = tmp_path / "a.onnx"
    onnx.save(onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), source)
    target = litert_graph.renamed_onnx(str(source), tmp_path / "b.onnx", names)
    onnx.checker.check_model(onnx.load(target), full_check=True)
    found = litert_graph.onnx_answers(target, {"tensor_0": np.array([1, 5], np.float32)})
    assert found["tensor_1"].tolist() == [-2, -15]
    assert litert_graph.renamed_onnx(str(source), tmp_path / "c.onnx", {"x:0": "x:0"}) == str(source)
