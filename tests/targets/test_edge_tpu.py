"""The Edge TPU: the check without its compiler, what its compiler's log says, and the export that lacks it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from avsdk.errors import NotAvailable, ToolchainCrashed, ToolchainMissing
from avsdk.session import Artifact
from avsdk.spec import GraphSpec, TensorSpec
from avsdk_targets import edge_tpu
from avsdk_targets.compiler import Compiled, CompileJob
from avsdk_targets.compilers.litert import LiteRtCompiler
from avsdk_targets.edge_tpu import mapping_from_log, placed, unfit_operations
from avsdk_targets.toolchain import find

_SPEC = GraphSpec(
    "net", (TensorSpec("image", "float32", (1, 3, 16, 16)),), (TensorSpec("out", "float32", (1, 8, 8, 8)),), {}
)
_EDGES = [{"name": "in", "kind": "int8", "shape": [1, 4]}, {"name": "out", "kind": "int8", "shape": [1, 4]}]
# As the documentation of the compiler shows it.
_LOG = """Edge TPU Compiler version 16.0.384591198
Model compiled successfully in 1138 ms.

Operator                       Count      Status

CONV_2D                        13         Mapped to Edge TPU
SOFTMAX                        1          Mapped to Edge TPU
"""
_PARTIAL = f"""{_LOG}\
QUANTIZE      2      Operation is otherwise supported, but not mapped due to some unspecified limitation
RESIZE_BILINEAR                1          Operation version not supported
CONV_2D                        3          More than one subgraph is not supported
"""


# -- the check ---------------------------------------------------------------------------------------------------------


def test_an_integer_model_of_fixed_sizes_is_fit() -> None:
    assert unfit_operations([{"name": "CONV_2D", "kinds": ["int8", "int8", "int32", "int8"]}], _EDGES) == []


@pytest.mark.parametrize(
    ("operations", "tensors", "text"),
    [
        ([{"name": "CONV_2D", "kinds": ["float32", "int8"]}] * 2, _EDGES, "2 x CONV_2D computes in float32, not int8"),
        (
            [{"name": "DEQUANTIZE", "kinds": ["int8", "float16"]}],
            _EDGES,
            "1 x DEQUANTIZE computes in float16, not int8",
        ),
        ([], [{"name": "in", "kind": "float32", "shape": [1, 4]}], "in is float32, not int8"),
        ([], [{"name": "in", "kind": "int8", "shape": [-1, 4]}], "in has sizes that are not fixed"),
    ],
)
def test_what_the_edge_tpu_cannot_take_is_named(operations: list[Any], tensors: list[Any], text: str) -> None:
    assert unfit_operations(operations, tensors) == [text]


# -- its compiler ------------------------------------------------------------------------------------------------------


def test_the_log_says_what_is_mapped_and_what_is_not() -> None:
    whole = mapping_from_log(_LOG)
    assert (whole.version, whole.mapped, whole.left, whole.share) == ("16.0.384591198", 14, (), 1.0)
    partial = mapping_from_log(_PARTIAL)
    assert partial.mapped == 14
    assert partial.share == pytest.approx(14 / 20)
    assert partial.left[1] == "RESIZE_BILINEAR 1 Operation version not supported"
    with pytest.raises(ToolchainCrashed, match="no table of operations"):
        mapping_from_log("Model compiled successfully")


def _pretend_compiler(folder: Path, log: str, monkeypatch: pytest.MonkeyPatch, *, code: int = 0) -> None:
    """A program that writes what the real one would, and the log that it is given."""
    folder.mkdir()
    (folder / "log").write_text(log)
    made = 'out="$3"; model="$4"; name="$(basename "$model" .tflite)"; cp "$model" "$out/${name}_edgetpu.tflite"'
    made += '; touch "$out/${name}_edgetpu.log"'
    program = folder / edge_tpu.COMPILER
    program.write_text(
        f'#!/bin/sh\ntest "$1 $2" = "-s -o" || exit 9\n{made if code == 0 else ""}\ncat {folder}/log\nexit {code}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.defpath}")


def _placed(tmp_path: Path, options: dict[str, Any] | None = None, **facts: Any) -> Compiled:
    (tmp_path / "net.tflite").write_bytes(b"model")
    job = CompileJob(tmp_path / "x.onnx", _SPEC, "edgetpu", "edgetpu", "int8", tmp_path, options=options or {})
    artifact = Artifact("net", "litert", "edgetpu", "int8", ("net.tflite",), None, {"operations": 5, **facts})
    return placed(job, Compiled(artifact, {"onnx2tf": "2.6.9"}))


def test_a_wholly_mapped_model_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_compiler(tmp_path / "bin", _LOG, monkeypatch)
    found = _placed(tmp_path)
    assert found.artifact.files == ("net_edgetpu.tflite",)
    assert found.artifact.options["edgetpu"] == {"mapped": 14, "left": []}
    assert found.built_with == {"onnx2tf": "2.6.9", "edgetpu_compiler": "16.0.384591198"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "net_edgetpu.tflite"]


def test_a_partly_mapped_model_is_refused_unless_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_compiler(tmp_path / "bin", _PARTIAL, monkeypatch)
    with pytest.raises(NotAvailable, match=r"(?s)runs 70% of graph 'net'; not:.*QUANTIZE 2 Operation is") as caught:
        _placed(tmp_path)
    assert "--set litert.edgetpu_partial=allow" in caught.value.fix
    found = _placed(tmp_path, {"edgetpu_partial": "allow"})
    assert len(found.artifact.options["edgetpu"]["left"]) == 3


def test_a_compiler_that_fails_is_typed_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_compiler(tmp_path / "bin", "Invalid model\nERROR: not quantized\n", monkeypatch, code=1)
    with pytest.raises(ToolchainCrashed, match=r"(?s)exit code 1 .*ERROR: not quantized"):
        _placed(tmp_path)


def test_without_it_a_fit_model_gets_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotAvailable, match=r"graph 'net' is fit for the Edge TPU .* 5 operations") as caught:
        _placed(tmp_path, edgetpu_unfit=[])
    assert "edgetpu_compiler -s -o . net.tflite" in caught.value.expected
    assert "edgetpu-compiler" in caught.value.fix
    assert caught.value.exit_code == 3


def test_an_unfit_model_is_refused_before_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_compiler(tmp_path / "bin", _LOG, monkeypatch)
    with pytest.raises(NotAvailable, match=r"(?s)not fit for the Edge TPU \(5 operations\):.*2 x GELU computes in"):
        _placed(tmp_path, edgetpu_unfit=["2 x GELU computes in float32, not int8"])


def test_doctor_says_that_it_is_absent_and_that_a_try_explains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(LiteRtCompiler, "environment", lambda *_: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    verdict = LiteRtCompiler().check("edgetpu", "edgetpu", "int8")
    assert (verdict.ok, verdict.explains) == (False, True)
    assert verdict.reason == "edgetpu_compiler is not on PATH"
    _pretend_compiler(tmp_path / "bin", _LOG, monkeypatch)
    assert LiteRtCompiler().check("edgetpu", "edgetpu", "int8").ok


# -- with the real converters ------------------------------------------------------------------------------------------


def _conv(path: Path, *, quantised: bool) -> Path:
    """A convolution; quantised as quantisers write it, between Q/DQ nodes, with integers in and out."""
    random, helper, array = np.random.default_rng(0), onnx.helper, onnx.numpy_helper.from_array
    weights, kind = random.standard_normal((8, 3, 3, 3)).astype(np.float32), onnx.TensorProto.FLOAT
    nodes = [helper.make_node("Conv", ["image", "w"], ["out"], pads=[1, 1, 1, 1], strides=[2, 2])]
    values = {"w": weights}
    if quantised:
        kind = onnx.TensorProto.INT8
        values = {"w": (weights * 30).clip(-127, 127).astype(np.int8), "s": np.float32(0.05), "z": np.int8(0)}
        nodes = [
            helper.make_node("DequantizeLinear", ["image", "s", "z"], ["image_f"]),
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["w_f"]),
            helper.make_node("Conv", ["image_f", "w_f"], ["out_f"], pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("QuantizeLinear", ["out_f", "s", "z"], ["out"]),
        ]
    shapes = {"image": [1, 3, 16, 16], "out": [1, 8, 8, 8]}
    edges = [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "net", edges[:1], edges[1:], [array(np.asarray(v), k) for k, v in values.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("quantised", "text"),
    [(False, "is fit for the Edge TPU"), (True, r"(?s)is not fit for the Edge TPU.*DEQUANTIZE computes in float32")],
)
def test_a_model_is_quantised_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantised: bool, text: str
) -> None:
    """A float model is quantised on its samples; in one that came with Q/DQ nodes the converter leaves floats."""
    for name in ("onnx2tf", "litert"):
        try:
            find(name)
        except ToolchainMissing as error:
            pytest.skip(f"{error.failed}; {error.fix}")
    dtype = "int8" if quantised else "float32"
    spec = GraphSpec(
        "net", (TensorSpec("image", dtype, (1, 3, 16, 16)),), (TensorSpec("out", dtype, (1, 8, 8, 8)),), {}
    )
    path = _conv(tmp_path / "net.onnx", quantised=quantised)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(NotAvailable, match=text):
        LiteRtCompiler().compile(CompileJob(path, spec, "edgetpu", "edgetpu", "int8", out))
