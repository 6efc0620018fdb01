"""TensorRT 10 and 11: our own half of a build, over a stand-in for the vendor's module; its builder needs a GPU.

What the parser and the builder do with a graph is tested through TensorRT for RTX, which has the same code and builds
without a GPU: test_tensorrt_rtx.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from tests.targets.nvidia_models import STYLE_SPEC, named_model, spec_of, style_like

from avsdk.errors import NotAvailable, UsageError
from avsdk.nvidia import Gpu
from avsdk.requirements import Requirements
from avsdk.schema import encode
from avsdk_targets.compilers import tensorrt as compiler_module
from avsdk_targets.compilers.tensorrt import TensorRtCompiler, build
from avsdk_targets.proof import proof_for
from avsdk_targets.target import resolve
from avsdk_targets.tensorrt_network import profile_of
from avsdk_targets.toolchain import Environment

RTX = Gpu(0, "NVIDIA GeForce RTX 3090", "sm86", 24_576, "570.86.10")
T4 = Gpu(0, "Tesla T4", "sm75", 15_360, "550.54.15")
V100 = Gpu(0, "Tesla V100", "sm70", 16_384, "550.54.15")


class Flags:
    """An enumeration of the vendor's, with the members given."""

    def __init__(self, *names: str) -> None:
        for number, name in enumerate(names):
            setattr(self, name, number)


class FakeTensorRt:
    """The calls of a build, recorded. Version 11 has no weak typing, so no flag to turn it off."""

    def __init__(self, version: str, *, accepts: bool = True, builds: bool = True, shape_input: bool = False) -> None:
        self.__version__ = version
        self.accepts, self.builds, self.shape_input = accepts, builds, shape_input
        eleven = version.startswith("11")
        self.NetworkDefinitionCreationFlag = Flags() if eleven else Flags("EXPLICIT_BATCH", "STRONGLY_TYPED")
        self.BuilderFlag = (
            Flags("TF32", "VERSION_COMPATIBLE") if eleven else Flags("FP16", "TF32", "VERSION_COMPATIBLE")
        )
        self.HardwareCompatibilityLevel = Flags("NONE", "AMPERE_PLUS", *(["SAME_COMPUTE_CAPABILITY"] if eleven else []))
        self.MemoryPoolType = Flags("WORKSPACE")
        self.ILogger = type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0, "WARNING": 2})
        self.calls: list[tuple[Any, ...]] = []
        self.config = SimpleNamespace(
            clear_flag=lambda flag: self.calls.append(("clear", flag)),
            set_flag=lambda flag: self.calls.append(("set", flag)),
            set_memory_pool_limit=lambda pool, size: self.calls.append(("pool", pool, size)),
            add_optimization_profile=lambda profile: self.calls.append(("profile", profile.shapes)),
            create_timing_cache=self._cache,
            set_timing_cache=lambda cache, ignore_mismatch: self.calls.append(("cache", ignore_mismatch)),
        )

    def _cache(self, content: bytes) -> Any:
        self.calls.append(("timing", content))
        return None if content == b"damaged" else SimpleNamespace(serialize=lambda: content + b"+")

    def Builder(self, logger: Any) -> Any:
        self.logger = logger
        profile = SimpleNamespace(shapes={})
        profile.set_shape = lambda name, *shapes: profile.shapes.update({name: shapes})
        return SimpleNamespace(
            create_network=self._network,
            create_builder_config=lambda: self.config,
            create_optimization_profile=lambda: profile,
            build_serialized_network=self._plan,
        )

    def _network(self, flags: int) -> Any:
        self.calls.append(("network", flags))
        given = SimpleNamespace(name="image", is_shape_tensor=self.shape_input)
        return SimpleNamespace(num_inputs=1, get_input=lambda index: given)

    def _plan(self, network: Any, config: Any) -> bytes | None:
        if not self.builds:
            self.logger.log(self.ILogger.ERROR, "no tactic for node 7")
            self.logger.log(self.ILogger.WARNING, "a warning")
            return None
        return b"plan"

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        said = SimpleNamespace(node_operator=lambda: "Einsum", node_name=lambda: "n1", desc=lambda: "too many inputs")
        return SimpleNamespace(
            parse_from_file=lambda path: self.calls.append(("parse", onnx.load(path))) or self.accepts,
            num_errors=1,
            get_error=lambda index: said,
        )

    def called(self, name: str) -> list[Any]:
        return [call[1] if len(call) == 2 else call[1:] for call in self.calls if call[0] == name]


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path / "home"))


def built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trt: FakeTensorRt, *,
    gpu: Gpu = RTX, precision: str = "fp16", model: onnx.ModelProto | None = None, **options: str,
) -> dict[str, Any]:  # fmt: skip
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(compiler_module, "local_gpus", lambda: (gpu,))
    spec = STYLE_SPEC if model is None else spec_of(model)
    onnx.save(model or style_like(), tmp_path / "net.onnx")
    request = {"onnx": str(tmp_path / "net.onnx"), "graph": encode(spec), "arch": gpu.arch, "device": "gpu",
               "precision": precision, "sizes": None, "options": options, "out": str(tmp_path)}  # fmt: skip
    return build(request)


@pytest.mark.parametrize(("version", "flags"), [("10.13.0", 1 << 1), ("11.4.0", 0)])
def test_the_network_is_strongly_typed_in_both_versions(
    version: str, flags: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trt = FakeTensorRt(version)
    answer = built(monkeypatch, tmp_path, trt)
    assert trt.called("network") == [flags]
    assert trt.called("clear") == [trt.BuilderFlag.TF32]
    assert trt.called("set") == [], "no precision is asked for by a flag"
    parsed = trt.called("parse")[0]
    assert {node.op_type for node in parsed.graph.node} >= {"Cast", "Conv"}
    assert answer["files"] == ["transform.sm86.engine"]
    assert (tmp_path / "transform.sm86.engine").read_bytes() == b"plan"
    assert answer["options"]["precision_shares"]["fp16"] > 0.9
    assert answer["options"]["gpu"] == RTX.name
    assert answer["built_with"]["tensorrt"] == version


def test_the_file_asks_for_gpu_version_and_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = built(monkeypatch, tmp_path, FakeTensorRt("10.13.0"))
    assert Requirements.of(answer["options"]) == Requirements(
        arch="sm86", engine="tensorrt", exact="10.13.0", driver="570.86.10"
    )
    assert answer["options"]["session"] == {"cuda_graph": "on", "version_compatible": "off"}


def test_settings_widen_what_may_load_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trt = FakeTensorRt("10.13.0")
    options = {"version_compatible": "on", "hardware_compatibility": "ampere_plus", "optimization_level": "5"}
    answer = built(monkeypatch, tmp_path, trt, workspace_mb="512", **options)["options"]
    needed = Requirements.of(answer)
    assert (needed.arch, needed.minimum, needed.exact) == ("sm80+", "10.13.0", "")
    assert answer["session"]["version_compatible"] == "on"
    assert trt.called("set") == [trt.BuilderFlag.VERSION_COMPATIBLE]
    assert trt.config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert trt.config.builder_optimization_level == 5
    assert trt.called("pool") == [(trt.MemoryPoolType.WORKSPACE, 512 << 20)]


@pytest.mark.parametrize(
    ("gpu", "level", "text"),
    [
        (T4, "ampere_plus", "is built on Ampere or newer"),
        (RTX, "same_compute_capability", "TensorRT 10.0.1 has no same_"),
    ],
)
def test_compatibility_that_cannot_be_had_is_refused(
    gpu: Gpu, level: str, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(NotAvailable, match=text) as caught:
        built(monkeypatch, tmp_path, FakeTensorRt("10.0.1"), gpu=gpu, hardware_compatibility=level)
    assert caught.value.fix


@pytest.mark.parametrize(
    "setting",
    [
        ("optimization_level", "6"),
        ("workspace_mb", "0"),
        ("version_compatible", "yes"),
        ("hardware_compatibility", "all"),
    ],
)
def test_a_setting_with_another_value_is_wrong_usage(
    setting: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"the setting {setting[0]} is '{setting[1]}'"):
        built(monkeypatch, tmp_path, FakeTensorRt("10.13.0"), **dict([setting]))


def test_what_was_timed_is_kept_per_gpu_driver_and_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, again, newer = FakeTensorRt("10.13.0"), FakeTensorRt("10.13.0"), FakeTensorRt("10.14.0")
    built(monkeypatch, tmp_path, first)
    built(monkeypatch, tmp_path, again)
    built(monkeypatch, tmp_path, newer)
    assert [item.called("timing")[0] for item in (first, again, newer)] == [b"", b"+", b""]
    assert first.called("cache") == [False], "a cache of another GPU is not taken"
    kept = tmp_path / "home" / "timing" / "NVIDIA-GeForce-RTX-3090-sm86-570.86.10-10.13.0.timing"
    assert kept.read_bytes()[32:] == b"++"
    kept.write_bytes(kept.read_bytes()[:-1] + b"-")
    damaged = FakeTensorRt("10.13.0")
    built(monkeypatch, tmp_path, damaged)
    assert damaged.called("timing") == [b""], "what is not as it was written never reaches the builder"


def test_the_profile_reaches_the_builder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trt = FakeTensorRt("11.4.0")
    built(monkeypatch, tmp_path, trt)
    assert trt.called("profile") == [{"image": ([1, 3, 16, 16], [1, 3, 64, 64], [64, 3, 1024, 1024])}]


def test_a_graph_that_cannot_be_read_or_built_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match=r"cannot read the graph: Einsum \(n1\): too many inputs"):
        built(monkeypatch, tmp_path, FakeTensorRt("11.4.0", accepts=False))
    with pytest.raises(NotAvailable) as caught:
        built(monkeypatch, tmp_path, FakeTensorRt("11.4.0", builds=False))
    assert caught.value.failed == "TensorRT refused to build the graph for sm86: no tactic for node 7"


def test_an_input_whose_values_decide_a_shape_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="'image' decides a shape by its values"):
        built(monkeypatch, tmp_path, FakeTensorRt("11.4.0", shape_input=True))


@pytest.mark.parametrize(("precision", "refused"), [("fp32", True), ("fp16", False)])
def test_turings_rule_is_this_engines_too(
    precision: str, refused: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = named_model("gemm")
    if refused:
        with pytest.raises(NotAvailable, match="TensorRT has no fp32 kernels on Turing"):
            built(monkeypatch, tmp_path, FakeTensorRt("10.13.0"), gpu=T4, precision=precision, model=model)
    else:
        built(monkeypatch, tmp_path, FakeTensorRt("10.13.0"), gpu=T4, precision=precision, model=model)
    built(monkeypatch, tmp_path, FakeTensorRt("10.13.0"), gpu=RTX, precision=precision, model=model)


def test_the_profile_spans_the_ranges_of_the_axes() -> None:
    shape = ["batch", 3, "height", "width"]
    graph = {
        "inputs": [{"name": "image", "shape": shape}, {"name": "style", "shape": [4]}],
        "axes": {
            name: {"min": axis.min, "max": axis.max, "default": axis.default} for name, axis in STYLE_SPEC.axes.items()
        },
    }
    assert profile_of(graph, None, {}) == {
        "image": {"min": [1, 3, 16, 16], "opt": [1, 3, 64, 64], "max": [64, 3, 1024, 1024]}
    }
    fixed = {"batch": 1, "height": 40, "width": 60}
    assert profile_of(graph, fixed, {})["image"] == dict.fromkeys(("min", "opt", "max"), [1, 3, 40, 60])
    assert profile_of(graph, None, {"max_sizes": {"batch": 2}})["image"]["max"] == [2, 3, 1024, 1024]


# -- whether it can be tried -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "precision", "text"),
    [
        ("sm53", "fp16", "does not serve"),
        ("host", "fp16", "builds for NVIDIA GPUs"),
        ("sm75", "bf16", "has no bf16"),
        ("sm86", "fp1", "builds fp16, fp32, bf16, int8"),
    ],
)
def test_what_it_cannot_build_is_refused_before_any_gpu_is_sought(arch: str, precision: str, text: str) -> None:
    assert text in TensorRtCompiler().check("some-gpu", arch, precision).reason


@pytest.mark.parametrize("arch", ["sm86", ""])
def test_without_a_gpu_of_the_class_it_says_that_kernels_are_timed(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler_module, "local_gpus", lambda: ())
    monkeypatch.setattr(compiler_module, "why_no_gpu", lambda: "no driver")
    verdict = TensorRtCompiler().check("rtx-3090", arch, "fp16")
    assert not verdict.ok
    assert "times kernels on a GPU of the target class; there is none here: no driver" in verdict.reason
    assert "pip install 'avsdk[tensorrt]' on a machine with " in verdict.fix
    monkeypatch.setattr(compiler_module, "local_gpus", lambda: (T4,))
    assert "none here: Tesla T4 (sm75)" in TensorRtCompiler().check("rtx-3090", arch, "fp16").reason


@pytest.mark.parametrize(("version", "ok"), [("10.4.0", True), ("10.5.0", False), ("11.0.0", False)])
def test_volta_is_served_up_to_10_4(version: str, ok: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler_module, "local_gpus", lambda: (V100,))
    here = Environment(Path(sys.executable), {"tensorrt": version})
    monkeypatch.setattr(TensorRtCompiler, "environment", lambda self, job=None: here)
    verdict = TensorRtCompiler().check("tesla-v100", "sm70", "fp16")
    assert verdict.ok == ok
    assert ok or (f"TensorRT {version} no longer serves Volta" in verdict.reason and "10.5" in verdict.fix)


def test_a_build_in_the_child_takes_only_the_gpu_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler_module, "local_gpus", lambda: (T4,))
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRt("10.13.0"))
    with pytest.raises(NotAvailable, match="no GPU of sm86 is here"):
        build({"arch": "sm86", "options": {}})


@pytest.mark.parametrize("name", ["tensorrt_rtx:rtx-3090", "tensorrt:t4", "onnxruntime:nv_tensorrt_rtx"])
def test_what_is_built_for_a_gpu_is_proven_on_one_or_not_at_all(name: str) -> None:
    assert proof_for(resolve(name).candidates[0]).executed_on == "device"
