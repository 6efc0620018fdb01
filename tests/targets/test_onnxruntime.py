"""ONNX Runtime's compiler: what ships is the model itself unless it was rewritten, and int8 is the model's own."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.targets.nvidia_models import MODELS, model_of, named_model, spec_of

from avsdk.engines.onnxruntime import OnnxRuntimeSession
from avsdk.errors import NotAvailable, SilentFallback, UsageError
from avsdk.schema import encode
from avsdk_targets import toolchain
from avsdk_targets.build import Exporter, ExportOptions
from avsdk_targets.compiler import CompileJob
from avsdk_targets.compilers.onnxruntime import OnnxRuntimeCompiler, build
from avsdk_targets.target import resolve


def request(tmp_path: Path, model: onnx.ModelProto, **changes: Any) -> dict[str, Any]:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    onnx.save(model, tmp_path / "net.onnx")
    return {"onnx": str(tmp_path / "net.onnx"), "graph": encode(spec_of(model)), "arch": "host", "device": "cpu",
            "precision": "fp32", "sizes": None, "options": {}, "out": str(out), "rewritten": [], **changes}  # fmt: skip


def test_the_bundles_own_model_is_the_artifact(tmp_path: Path) -> None:
    answer = build(request(tmp_path, named_model("conv")))
    assert (answer["files"], answer["options"]) == ([], {})
    assert answer["built_with"] == {"onnxruntime": metadata.version("onnxruntime")}


def test_a_rewritten_model_ships_beside_the_one_it_came_from(tmp_path: Path) -> None:
    answer = build(request(tmp_path, named_model("conv"), rewritten=["opset 6 -> 7"]))
    assert answer["files"] == ["net.onnx"]
    assert (tmp_path / "out" / "net.onnx").read_bytes() == (tmp_path / "net.onnx").read_bytes()


def test_a_rewritten_model_brings_its_weights(tmp_path: Path) -> None:
    job = request(tmp_path, named_model("conv"), rewritten=["opset 6 -> 7"])
    onnx.save(named_model("conv"), job["onnx"], save_as_external_data=True, location="w.bin", size_threshold=0)
    assert build(job)["files"] == ["net.onnx", "w.bin"]
    onnx.checker.check_model(str(tmp_path / "out" / "net.onnx"))


def test_fp16_is_cast_and_ships_as_cast(tmp_path: Path) -> None:
    answer = build(request(tmp_path, named_model("attention"), device="cuda", precision="fp16"))
    assert answer["files"] == ["net.onnx"]
    weights = onnx.load(tmp_path / "out" / "net.onnx").graph.initializer
    assert {item.data_type for item in weights if item.data_type != TensorProto.INT64} == {TensorProto.FLOAT16}
    assert "precision_shares" not in answer["options"], "CUDA's profile shows the types that ran"


def test_a_provider_that_hides_its_nodes_gets_the_models_types(tmp_path: Path) -> None:
    answer = build(request(tmp_path, named_model("attention"), device="nv_tensorrt_rtx", precision="fp16"))
    assert answer["options"]["precision_shares"]["fp16"] > 0.95


@pytest.mark.parametrize(
    ("name", "precision", "text", "fix"),
    [
        ("conv", "int8", "carries no quantisation", "--calibration DIR"),
        ("quantised_conv", "fp16", "is quantised", "--precision int8"),
    ],
)
def test_quantisation_that_does_not_fit_is_refused(
    name: str, precision: str, text: str, fix: str, tmp_path: Path
) -> None:
    with pytest.raises(NotAvailable, match=text) as caught:
        build(request(tmp_path, named_model(name), device="cuda", precision=precision))
    assert caught.value.fix.startswith(fix)


def test_leave_to_fall_back_is_asked_for_explicitly_and_said(tmp_path: Path) -> None:
    compiler = OnnxRuntimeCompiler()
    answer = build(request(tmp_path, named_model("conv"), device="cuda", options={"fallback": "allow"}))
    assert answer["options"] == {"session": {"fallback": "allow"}}
    assert "run on the CPU, as asked" in compiler.notices({"fallback": "allow"})[0]
    assert compiler.notices({}) == compiler.notices({"fallback": "deny"}) == ()
    with pytest.raises(UsageError, match="onnxruntime.fallback is 'maybe'"):
        build(request(tmp_path, named_model("conv"), options={"fallback": "maybe"}))


@pytest.mark.parametrize(
    ("device", "precision", "text"),
    [
        ("npu", "fp32", "no device 'npu'"),
        ("cpu", "fp16", "casts fp16 to fp32"),
        ("cuda", "bf16", "builds fp32, fp16, int8"),
    ],
)
def test_what_it_does_not_build_is_refused(device: str, precision: str, text: str) -> None:
    assert text in OnnxRuntimeCompiler().refusal(device, "host", precision)


def test_the_gpu_distribution_of_the_same_module_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"onnxruntime-gpu": "1.31.1"}
    monkeypatch.setattr(toolchain, "_version_here", lambda need: versions.get(need.distribution, ""))
    assert OnnxRuntimeCompiler().identity() == versions
    versions.clear()
    with pytest.raises(NotAvailable, match="the package onnxruntime is not installed"):
        OnnxRuntimeCompiler().environment()


def compiled(tmp_path: Path, model: onnx.ModelProto, precision: str) -> OnnxRuntimeSession:
    (tmp_path / "model").mkdir()
    (tmp_path / "out").mkdir()
    onnx.save(model, tmp_path / "model" / "net.onnx")
    job = CompileJob(tmp_path / "model" / "net.onnx", spec_of(model), "cpu", "host", precision, tmp_path / "out")
    artifact = OnnxRuntimeCompiler().compile(job).artifact
    files = tuple(f"out/{name}" for name in artifact.files) or ("model/net.onnx",)
    session = OnnxRuntimeSession.open(tmp_path, type(artifact)(**{**vars(artifact), "files": files}), spec_of(model), 1)
    assert isinstance(session, OnnxRuntimeSession)
    return session


def quantised_throughout() -> onnx.ModelProto:
    """The answer quantised as well, as ONNX Runtime wants it for its int8 kernels."""
    nodes, weights = MODELS["quantised_conv"][0]()
    nodes[-1].output[0] = "made"
    nodes.append(helper.make_node("QuantizeLinear", ["made", "s", "z"], ["yq"]))
    nodes.append(helper.make_node("DequantizeLinear", ["yq", "s", "z"], ["y"]))
    return model_of(nodes, weights, (1, 4, 8, 8))


def test_a_quantised_model_computes_in_int8_as_it_says(tmp_path: Path) -> None:
    with compiled(tmp_path, quantised_throughout(), "int8") as session:
        assert session.effective_precision.startswith("int8")
        assert session.execution().placement == {"cpu": 1.0}


def test_a_quantised_model_asked_for_in_fp32_is_found_out(tmp_path: Path) -> None:
    with compiled(tmp_path, quantised_throughout(), "fp32") as session, pytest.raises(SilentFallback) as caught:
        session.execution()
    assert "was asked for fp32 and executed int8" in caught.value.failed


def test_quantisation_that_the_runtime_does_not_use_is_found_out(tmp_path: Path) -> None:
    """The answer is not quantised, so the convolution runs in fp32 between the conversions."""
    with compiled(tmp_path, named_model("quantised_conv"), "int8") as session, pytest.raises(SilentFallback) as caught:
        session.execution()
    assert "was asked for int8 and executed fp32" in caught.value.failed


def test_a_model_of_an_old_opset_is_converted_and_what_runs_is_what_ships(tmp_path: Path) -> None:
    nodes, weights = MODELS["conv"][0]()
    with compiled(tmp_path, model_of(nodes, weights, (1, 4, 8, 8), opset=6), "fp32") as session:
        assert session.file() == tmp_path / "out" / "net.onnx"
        assert onnx.load(session.file()).opset_import[0].version >= 7
        assert session.artifact.options["rewritten"]
        assert np.isfinite(session.run(session.example_feeds())["y"]).all()


def test_an_export_says_that_it_may_fall_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path / "home"))
    onnx.save(named_model("conv"), tmp_path / "net.onnx")
    for settings, said in (({"onnxruntime.fallback": "allow"}, 1), ({}, 0)):
        options = ExportOptions(tmp_path / "out", "fp16", settings=settings)
        with Exporter(str(tmp_path / "net.onnx"), options, lambda text: None) as exporter:
            exported = exporter.export(resolve("onnxruntime:nv_tensorrt_rtx"))
        assert len([text for text in exported.notices if "run on the CPU, as asked" in text]) == said
        artifact = exported.bundle.manifest.artifacts[0]
        assert (artifact.options.get("session") == {"fallback": "allow"}) == bool(said)
        assert artifact.files == ("artifacts/model/0/model.onnx",), "the cast model runs, and is hashed with the rest"
        assert artifact.files[0] in exported.bundle.manifest.files
