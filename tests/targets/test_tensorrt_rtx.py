"""TensorRT for RTX, the real one where its toolchain is: builds for every GPU generation, and what is refused."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import onnx
import pytest
from tests.targets.nvidia_models import MODELS, STYLE_SPEC, build_each, model_of, spec_of, style_like

from avsdk.errors import NotAvailable, UsageError
from avsdk.worker import call_in_child
from avsdk_targets.compiler import CompileJob
from avsdk_targets.compilers.tensorrt_rtx import TensorRtRtxCompiler

FLOATS = [name for name in MODELS if name not in {"quantised_conv", "quantised_product", "skewed_conv"}]
NORMS = {"instance_norm", "layer_norm", "grid_sample"}
"""Nothing but what is kept in fp32, so there is no half-precision build of them."""
NOT_ON_TURING = {"conv3d", "gemm", "einsum", "gru", "lstm", "attention"}
"""What Turing has no fp32 kernels for, by the vendor's own builder; our rule must say so first, and of no other."""


def real_compiler() -> TensorRtRtxCompiler:
    compiler = TensorRtRtxCompiler()
    verdict = compiler.check("some-gpu", "sm86", "fp16")
    if not verdict.ok:
        pytest.skip(f"{verdict.reason}; {verdict.fix}")
    return compiler


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every case of this file's matrix, built by the real toolchain in one child."""
    compiler = real_compiler()
    cases = [(name, arch, precision) for name in FLOATS for arch in ("sm75", "sm89") for precision in ("fp16", "fp32")]
    cases += [(name, "sm89", "bf16") for name in FLOATS]
    cases += [(name, arch, "int8") for name in set(MODELS) - set(FLOATS) for arch in ("sm75", "sm89")]
    cases += [("quantised_conv", "sm89", "fp32"), ("quantised_conv", "sm89", "fp16"), ("conv", "sm89", "int8")]
    answer: dict[str, dict[str, Any]] = call_in_child(
        build_each,
        name="tensorrt-rtx-matrix",
        python=compiler.environment().python,
        timeout_s=250,
        request={"cases": cases, "folder": str(tmp_path_factory.mktemp("matrix"))},
    )
    return answer


@pytest.mark.parametrize("arch", ["sm75", "sm89"])
@pytest.mark.parametrize("name", FLOATS)
def test_fp16_is_built_for_every_kind_of_layer(built: dict[str, dict[str, Any]], name: str, arch: str) -> None:
    answer = built[f"{name} {arch} fp16"]
    if name in NORMS:
        assert "asked for fp16 and executed fp32" in answer["refused"]
    else:
        assert answer["precision_shares"]["fp16"] > 0.95
        assert answer["requires"]["arch"] == arch


@pytest.mark.parametrize("arch", ["sm75", "sm89"])
@pytest.mark.parametrize("name", FLOATS)
def test_fp32_is_built_or_refused_by_our_own_rule(built: dict[str, dict[str, Any]], name: str, arch: str) -> None:
    answer = built[f"{name} {arch} fp32"]
    if arch == "sm75" and name in NOT_ON_TURING:
        assert "has no fp32 kernels on Turing (sm75)" in answer["refused"]
        assert answer["fix"] == "--precision fp16"
    else:
        assert answer["precision_shares"] == {"fp32": 1.0}


@pytest.mark.parametrize("name", sorted(set(FLOATS) - NORMS - {"deconv", "gru"}))
def test_bf16_is_built(built: dict[str, dict[str, Any]], name: str) -> None:
    assert built[f"{name} sm89 bf16"]["precision_shares"]["bf16"] > 0.95


@pytest.mark.parametrize("name", ["deconv", "gru"])
def test_what_bf16_lacks_is_said_and_not_built_in_fp32(built: dict[str, dict[str, Any]], name: str) -> None:
    assert "asked for bf16 and executed fp32" in built[f"{name} sm89 bf16"]["refused"]


def test_symmetric_quantisation_is_built(built: dict[str, dict[str, Any]]) -> None:
    assert built["quantised_conv sm75 int8"]["precision_shares"] == {"int8": 1.0}
    assert built["quantised_conv sm89 int8"]["precision_shares"] == {"int8": 1.0}
    assert built["quantised_product sm89 int8"]["precision_shares"] == {"int8": 1.0}


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("skewed_conv sm89 int8", "takes symmetric quantisation only"),
        ("quantised_product sm75 int8", "and these stay in fp32: MatMul"),
        ("conv sm89 int8", "carries no quantisation"),
        ("quantised_conv sm89 fp32", "is quantised .QuantizeLinear., so it does not compute in fp32"),
        ("quantised_conv sm89 fp16", "is quantised .QuantizeLinear., so it does not compute in fp16"),
    ],
)
def test_quantisation_that_does_not_fit_is_refused_in_our_words(
    built: dict[str, dict[str, Any]], case: str, reason: str
) -> None:
    assert re.search(reason, built[case]["refused"])
    assert built[case]["fix"]


# -- the whole compiler ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["sm70", "sm87", "sm90", "", "host"])
def test_gpus_that_it_does_not_build_for_get_a_no_with_the_reason(arch: str) -> None:
    verdict = TensorRtRtxCompiler().check("some-gpu", arch, "fp16")
    assert not verdict.ok
    assert "does not build for some-gpu" in verdict.reason
    assert "sm120" in verdict.reason


def test_turing_has_no_bf16() -> None:
    assert "has no bf16" in TensorRtRtxCompiler().refusal("quadro-rtx-6000", "sm75", "bf16")
    assert TensorRtRtxCompiler().refusal("quadro-rtx-6000", "sm75", "fp32") == "", "that depends on the graph"
    assert TensorRtRtxCompiler().refusal("rtx-3090", "sm86", "bf16") == ""


def job(tmp_path: Path, model: onnx.ModelProto, arch: str, precision: str, **options: str) -> CompileJob:
    onnx.save(model, tmp_path / "transform.onnx")
    (tmp_path / "out").mkdir(exist_ok=True)
    return CompileJob(
        tmp_path / "transform.onnx", STYLE_SPEC, "some-gpu", arch, precision, tmp_path / "out", options=options
    )


@pytest.mark.parametrize("arch", ["sm75", "sm80", "sm86", "sm120", "sm121"])
def test_an_engine_is_built_without_a_gpu_and_says_what_it_needs(arch: str, tmp_path: Path) -> None:
    compiled = real_compiler().compile(job(tmp_path, style_like(), arch, "fp16", cuda_graph="off"))
    plan = (tmp_path / "out" / compiled.artifact.files[0]).read_bytes()
    options = compiled.artifact.options
    assert options["sha256"] == hashlib.sha256(plan).hexdigest()
    assert options["requires"] == {
        "engine": "tensorrt_rtx", "arch": arch, "exact": compiled.built_with["tensorrt-rtx"]
    }  # fmt: skip
    assert options["session"] == {"cuda_graph": "off"}
    assert options["profile"]["image"]["max"] == [64, 3, 1024, 1024]
    assert options["precision_shares"]["fp16"] > 0.9
    assert compiled.artifact.shapes is None


@pytest.mark.parametrize(("opset", "ir"), [(7, 8), (24, 13), (26, 13)])
def test_models_of_every_age_are_built(opset: int, ir: int, tmp_path: Path) -> None:
    nodes, weights = MODELS["attention"][0]()
    model = model_of(nodes, weights, (1, 6, 16), opset)
    model.ir_version = ir
    onnx.save(model, tmp_path / "net.onnx")
    given = CompileJob(tmp_path / "net.onnx", spec_of(model), "some-gpu", "sm86", "fp16", tmp_path)
    options = real_compiler().compile(given).artifact.options
    assert options["precision_shares"]["fp16"] > 0.9
    assert bool(options.get("rewritten")) == (opset == 26), "newer than its parser knows: converted"


@pytest.mark.parametrize("arch", ["sm75", "sm86"])
def test_attention_is_spelt_out_where_its_parser_would_die(arch: str, tmp_path: Path) -> None:
    node = onnx.helper.make_node("Attention", ["x", "x", "x"], ["y"], q_num_heads=2, kv_num_heads=2)
    model = model_of([node], {}, (1, 6, 16), opset=23)
    onnx.save(model, tmp_path / "net.onnx")
    given = CompileJob(tmp_path / "net.onnx", spec_of(model), "some-gpu", arch, "fp16", tmp_path)
    options = real_compiler().compile(given).artifact.options
    assert options["rewritten"] == ["Attention spelt out (1)"]
    assert options["precision_shares"]["fp16"] > 0.9


def test_weights_in_a_file_of_their_own_are_found(tmp_path: Path) -> None:
    compiler = real_compiler()
    given = job(tmp_path, style_like(), "sm86", "fp32")
    onnx.save(
        style_like(), given.onnx, save_as_external_data=True, location="weights.bin", size_threshold=0,
        convert_attribute=False,
    )  # fmt: skip
    assert (tmp_path / "weights.bin").stat().st_size > 1000
    assert compiler.compile(given).artifact.options["precision_shares"] == {"fp32": 1.0}


def test_a_graph_that_cannot_be_read_is_exit_3_with_the_parsers_reason(tmp_path: Path) -> None:
    model = style_like()
    model.graph.node[3].op_type = "NoSuchOperation"
    with pytest.raises(NotAvailable, match="NoSuchOperation"):
        real_compiler().compile(job(tmp_path, model, "sm86", "fp32"))


def test_a_setting_with_another_value_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the setting cuda_graph is 'perhaps'"):
        real_compiler().compile(job(tmp_path, style_like(), "sm86", "fp32", cuda_graph="perhaps"))
