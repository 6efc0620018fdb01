"""LiteRT: a program becomes a .tflite file in its toolchain, and never runs at a size it was not built for."""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

from avsdk.engines.litert import LiteRtSession
from avsdk.errors import (
    BundleRefused,
    NotAvailable,
    ParityFailed,
    SilentFallback,
    SizeNotBuilt,
    ToolchainCrashed,
    ToolchainMissing,
    UsageError,
)
from avsdk.session import Artifact
from avsdk.spec import AxisRange, GraphSpec, TensorSpec
from avsdk_targets import litert_graph
from avsdk_targets.compiler import Compiled, CompileJob
from avsdk_targets.compilers.litert import LiteRtCompiler
from avsdk_targets.toolchain import PackageNeed

_SHAPE = ("batch", 3, "height", "width")
_SPEC = GraphSpec(
    "transform",
    (TensorSpec("image", "float32", _SHAPE),),
    (TensorSpec("styled", "float32", _SHAPE),),
    {"batch": AxisRange(1, 8, 1, 1), "height": AxisRange(16, 512, 4, 64), "width": AxisRange(16, 512, 4, 64)},
)
_SIZES = {"batch": 1, "height": 48, "width": 64}


class StyleLike(nn.Module):
    """The operations of the style network, small."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(1)
        self.down = nn.Conv2d(3, 16, 3, stride=2)
        self.norm = nn.InstanceNorm2d(16, affine=True)
        self.up = nn.Conv2d(16, 3, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = functional.relu(self.norm(self.down(self.pad(image))))
        result: torch.Tensor = self.up(self.pad(functional.interpolate(hidden, scale_factor=2.0, mode="nearest")))
        return result


def die(request: dict[str, Any]) -> dict[str, Any]:
    """A converter that reads a null pointer."""
    sys.stderr.write(f"lowering {request['graph']['name']}\n")
    sys.stderr.flush()
    ctypes.string_at(0)
    return {}


class DyingCompiler(LiteRtCompiler):
    package = PackageNeed("numpy", "numpy", "1.0")
    toolchain = None

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return die


def _save_program(module: nn.Module, sample: torch.Tensor, dynamic: Any, path: Path) -> Path:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module.eval(), (sample,), dynamic_shapes=dynamic), path)
    return path


@pytest.fixture(scope="module")
def network() -> StyleLike:
    torch.manual_seed(0)
    return StyleLike().eval()


@pytest.fixture(scope="module")
def program(network: StyleLike, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One program with dynamic batch, height and width, as the exporter makes it."""
    axis = torch.export.Dim
    quarters = {2: 4 * axis("rows", min=4, max=128), 3: 4 * axis("columns", min=4, max=128)}
    dynamic = {"image": {0: axis("batch", min=1, max=8), **quarters}}
    path = tmp_path_factory.mktemp("program") / "transform.pt2"
    return _save_program(network, torch.rand(2, 3, 40, 48), dynamic, path)


def _onnx(out: Path) -> Path:
    """An ONNX file, which every job carries, though this compiler starts from the program."""
    node = onnx.helper.make_node("Identity", ["image"], ["styled"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, _SHAPE) for name in ("image", "styled")]
    graph = onnx.helper.make_graph([node], "transform", values[:1], values[1:])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), out / "x.onnx"
    )
    return out / "x.onnx"


def _compile(program: Path | None, out: Path, precision: str = "fp32", **changes: Any) -> Compiled:
    compiler = LiteRtCompiler()
    verdict = compiler.check("cpu", "host", precision)
    if not verdict.ok:
        pytest.skip(f"{verdict.reason}; {verdict.fix}")
    out.mkdir(parents=True, exist_ok=True)
    values = {"graph": _SPEC, "sizes": _SIZES, **changes}
    return compiler.compile(
        CompileJob(_onnx(out), device="cpu", arch="host", precision=precision, out=out, program=program, **values)
    )


@pytest.fixture(scope="module")
def built(program: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Compiled]]:
    root = tmp_path_factory.mktemp("built")
    return {name: (root / name, _compile(program, root / name, name)) for name in ("fp32", "fp16w")}


def _snr_db(reference: np.ndarray, found: np.ndarray) -> float:
    return 10 * float(np.log10(np.sum(reference**2) / np.sum((reference - found) ** 2)))


# -- the build ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "least_db", "shown"), [("fp32", 80, "fp32"), ("fp16w", 45, "fp32 (fp16 weights)")]
)
def test_a_program_is_built_runs_and_says_what_executed(
    built: dict[str, tuple[Path, Compiled]], network: StyleLike, precision: str, least_db: float, shown: str
) -> None:
    root, compiled = built[precision]
    quantiser = {"ai-edge-quantizer"} if precision == "fp16w" else set()
    assert {"litert-torch", "torch", "ai-edge-litert", *quantiser} <= set(compiled.built_with)
    assert compiled.artifact.shapes == _SIZES
    image = np.random.default_rng(1).uniform(0, 255, (1, 3, 48, 64)).astype(np.float32)
    with torch.no_grad():
        reference = network(torch.from_numpy(image)).numpy()
    with LiteRtSession.open(root, compiled.artifact, _SPEC, 2) as session:
        assert _snr_db(reference, session.run({"image": image})["styled"]) > least_db
        execution = session.execution()
    assert execution.effective_precision == shown
    assert execution.precision_shares == {"fp32": 1.0}
    assert execution.placement == {"cpu": 1.0}


def test_half_weights_make_a_smaller_file(built: dict[str, tuple[Path, Compiled]]) -> None:
    sizes = {name: (root / item.artifact.files[0]).stat().st_size for name, (root, item) in built.items()}
    assert sizes["fp16w"] < sizes["fp32"]


def test_another_size_is_refused_before_the_runtime_sees_it(
    built: dict[str, tuple[Path, Compiled]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, compiled = built["fp32"]
    with LiteRtSession.open(root, compiled.artifact, _SPEC, 1) as session:
        monkeypatch.setattr(session, "_run", lambda feeds: pytest.fail("the runtime was reached"))
        with pytest.raises(SizeNotBuilt, match=r"height=64,width=64") as caught:
            session.run({"image": np.zeros((1, 3, 64, 64), np.float32)})
    assert "--axis height=64,width=64" in caught.value.fix
    assert caught.value.exit_code == 2


def test_a_file_of_other_sizes_than_the_manifest_says_is_refused(built: dict[str, tuple[Path, Compiled]]) -> None:
    root, compiled = built["fp32"]
    item = compiled.artifact
    lying = Artifact("transform", "litert", "cpu", "fp32", item.files, {**_SIZES, "height": 64}, item.options)
    with pytest.raises(BundleRefused, match=r"as float32 \[1, 3, 48, 64\]"):
        LiteRtSession.open(root, lying, _SPEC, 1)
    nameless = Artifact("transform", "litert", "cpu", "fp32", item.files, item.shapes, {"inputs": {"image": "other"}})
    with pytest.raises(BundleRefused, match="has no tensor for 'image'"):
        LiteRtSession.open(root, nameless, _SPEC, 1)


def test_asked_for_bf16_and_executed_fp32_is_a_silent_fallback(built: dict[str, tuple[Path, Compiled]]) -> None:
    root, compiled = built["fp32"]
    item = compiled.artifact
    claimed = Artifact("transform", "litert", "cpu", "bf16", item.files, item.shapes, item.options)
    with LiteRtSession.open(root, claimed, _SPEC, 1) as session, pytest.raises(SilentFallback, match="executed fp32"):
        session.execution()


def test_a_damaged_file_is_exit_3(tmp_path: Path) -> None:
    (tmp_path / "x.tflite").write_bytes(b"not a model" * 100)
    with pytest.raises(NotAvailable, match="LiteRT cannot load x.tflite") as caught:
        LiteRtSession.open(tmp_path, Artifact("transform", "litert", "cpu", "fp32", ("x.tflite",), _SIZES), _SPEC, 1)
    assert caught.value.exit_code == 3


# -- what needs no toolchain -------------------------------------------------------------------------------------------


def test_a_bare_onnx_is_exit_3_and_names_the_toolchain_that_would_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path))
    job = CompileJob(_onnx(tmp_path), _SPEC, "cpu", "host", "fp32", tmp_path, sizes=_SIZES)
    with pytest.raises(ToolchainMissing, match="'onnx2tf' is not installed") as caught:
        LiteRtCompiler().compile(job)
    assert caught.value.fix == "avsdk toolchain install onnx2tf"
    assert caught.value.exit_code == 3


def test_a_converter_that_dies_by_a_signal_is_a_typed_error_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path))
    job = CompileJob(_onnx(tmp_path), _SPEC, "cpu", "host", "fp32", tmp_path, program=tmp_path / "x.pt2", sizes=_SIZES)
    with pytest.raises(ToolchainCrashed, match=r"(?s)compile-litert: .*died by SIGSEGV.*lowering transform") as caught:
        DyingCompiler().compile(job)
    assert "avsdk toolchain install onnx2tf" in caught.value.fix
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("setting", "text"), [({"weight_cache": "maybe"}, "weight_cache is 'maybe'"), ({"edgetpu_partial": "1"}, "is '1'")]
)
def test_a_setting_with_a_wrong_value_is_exit_2(tmp_path: Path, setting: dict[str, str], text: str) -> None:
    job = CompileJob(tmp_path / "x.onnx", _SPEC, "cpu", "host", "fp32", tmp_path, sizes=_SIZES, options=setting)
    with pytest.raises(UsageError, match=text):
        LiteRtCompiler().compile(job)


@pytest.mark.parametrize(
    ("device", "arch", "precision", "text"),
    [
        ("gpu", "sm75", "fp32", "it compiles for processors"),
        ("cpu", "host", "bf16", "litert builds fp32, fp16w"),
        ("cpu", "host", "fp32", ""),
        ("cpu", "cortex-a76", "fp16w", ""),
        ("cpu", "host", "int8", ""),
        ("edgetpu", "edgetpu", "int8", ""),
        ("edgetpu", "edgetpu", "fp32", "the Edge TPU computes in int8"),
    ],
)
def test_what_it_compiles_for(device: str, arch: str, precision: str, text: str) -> None:
    reason = LiteRtCompiler().refusal(device, arch, precision)
    assert reason.startswith(text)
    assert bool(reason) is bool(text)


def test_an_absent_toolchain_is_a_no_with_the_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path))
    verdict = LiteRtCompiler().check("cpu", "host", "fp32")
    assert (verdict.ok, verdict.fix) == (False, "avsdk toolchain install litert")


def test_a_golden_sample_of_the_right_size_is_used_else_noise(tmp_path: Path) -> None:
    graph = {"inputs": [{"name": "image", "dtype": "float32", "shape": list(_SHAPE)}]}
    golden = tmp_path / "golden.npz"
    fitting = np.full((1, 3, 48, 64), 7, np.float32)
    np.savez(golden, **{"in.0.image": np.zeros((1, 3, 8, 8), np.float32), "in.1.image": fitting})
    assert litert_graph.sample_feeds(graph, _SIZES, str(golden))["image"][0, 0, 0, 0] == 7
    assert litert_graph.sample_feeds(graph, {**_SIZES, "height": 16}, str(golden))["image"].shape == (1, 3, 16, 64)


def test_a_converted_file_is_matched_by_number_and_count() -> None:
    details = [{"name": f"serving_default_args_{number}:0"} for number in (10, 2, 1)]
    matched = litert_graph.matched(details, [{"name": name} for name in "abc"], by_name=False)
    assert [matched[name]["name"] for name in "abc"] == [f"serving_default_args_{n}:0" for n in (1, 2, 10)]
    with pytest.raises(ParityFailed, match="has 3 tensors"):
        litert_graph.matched(details, [{"name": "a"}], by_name=False)
