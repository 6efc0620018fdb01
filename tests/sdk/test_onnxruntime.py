"""ONNX Runtime's session: its providers over a stand-in for the package, its refusals and its read-back for real."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avsdk import onnxruntime_providers as providers
from avsdk.engines.onnxruntime import OnnxRuntimeSession
from avsdk.errors import BundleRefused, NotAvailable
from avsdk.onnxruntime_profile import kernels_of, placement_of, precision_shares_of
from avsdk.onnxruntime_providers import PROVIDERS, add_provider, provider_options, provider_state
from avsdk.session import Artifact
from avsdk.spec import GraphSpec, TensorSpec

SPEC = GraphSpec("net", (TensorSpec("x", "float32", (1, 8)),), (TensorSpec("y", "float32", (1, 4)),), {})
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"


def product(path: Path, *, beside: bool = False) -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    tensors = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8)),
               helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4))]  # fmt: skip
    weight = numpy_helper.from_array(np.ones((8, 4), np.float32), "w")
    graph = helper.make_graph(nodes, "net", tensors[:1], tensors[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path, save_as_external_data=beside, location="w.bin" if beside else None, size_threshold=0)
    return path


class Options:
    """Session options that remember."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.added: list[tuple[list[Any], dict[str, str]]] = []

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value

    def add_provider_for_devices(self, devices: list[Any], given: dict[str, str]) -> None:
        self.added.append((devices, given))


class Runtime:
    """The package, with the providers given; its library for the plug-in serves ``gpus``."""

    def __init__(self, *names: str, gpus: int = 1, broken: str = "") -> None:
        self.names, self.gpus, self.broken = names, gpus, broken
        self.registered: list[str] = []

    def get_available_providers(self) -> list[str]:
        return [*self.names, "CPUExecutionProvider"]

    def register_execution_provider_library(self, name: str, path: str) -> None:
        if self.broken:
            raise RuntimeError(self.broken)
        self.registered.append(path)

    def get_ep_devices(self) -> list[Any]:
        others = [SimpleNamespace(ep_name="CPUExecutionProvider", number=-1)]
        mine = [SimpleNamespace(ep_name="RTX", number=number) for number in range(self.gpus)]
        return [*others, *(mine if self.registered else [])]


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(get_ep_name=lambda: "RTX", get_library_path=lambda: "lib.so", __spec__=object())
    monkeypatch.setitem(sys.modules, PLUGIN, module)


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "as it was")
    monkeypatch.setattr(providers, "why_no_gpu", lambda: "")


# -- which provider can be used ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "nv_tensorrt_rtx"])
def test_a_provider_that_is_absent_is_named_with_the_line_that_brings_it(device: str) -> None:
    state = provider_state(device, Runtime())
    assert not state.ok
    assert f"this ONNX Runtime has no {PROVIDERS[device].name}" in state.reason
    assert state.fix == PROVIDERS[device].install
    assert provider_state(device, Runtime(PROVIDERS[device].name)).ok


def test_without_a_gpu_a_provider_alone_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "why_no_gpu", lambda: "no driver")
    state = provider_state("cuda", Runtime("CUDAExecutionProvider"))
    assert (state.ok, state.reason) == (False, "no driver")
    assert "driver" in state.fix
    assert provider_state("cuda", None).reason == "no driver; the package onnxruntime is not installed"
    assert provider_state("cpu", Runtime()).ok


def test_the_plugin_counts_as_the_provider(plugin: None) -> None:
    assert provider_state("nv_tensorrt_rtx", Runtime()).ok


def test_an_unknown_device_gets_the_list() -> None:
    state = OnnxRuntimeSession.availability("toaster")
    assert (state.ok, state.reason) == (False, "ONNX Runtime has no device 'toaster'")
    assert state.fix == "one of: cpu, cuda, tensorrt, nv_tensorrt_rtx"


# -- how it is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "nv_tensorrt_rtx"])
@pytest.mark.parametrize("fallback", [False, True])
def test_the_cpu_stands_in_only_where_that_was_asked_for(device: str, fallback: bool) -> None:
    options, name = Options(), PROVIDERS[device].name
    given = add_provider(Runtime(name), options, device, "fp32", fallback=fallback)
    assert given is not None
    assert given[0] == (name, provider_options(device, "fp32"))
    assert given[1:] == (["CPUExecutionProvider"] if fallback else [])
    assert options.entries == ({} if fallback else {"session.disable_cpu_ep_fallback": "1"})


def test_fp32_is_not_computed_in_tf32() -> None:
    assert provider_options("cuda", "fp32")["use_tf32"] == "0"
    add_provider(Runtime("CUDAExecutionProvider"), Options(), "cuda", "fp32", fallback=False)
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "as it was", "the provider has an option of its own"
    add_provider(Runtime("TensorrtExecutionProvider"), Options(), "tensorrt", "fp32", fallback=False)
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"


def test_what_is_built_is_kept_in_our_own_folder(tmp_path: Path) -> None:
    options = provider_options("tensorrt", "fp32")
    assert options["trt_engine_cache_path"] == str(tmp_path / "home" / "providers" / "tensorrt")
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert str(tmp_path) in provider_options("nv_tensorrt_rtx", "fp32")["nv_runtime_cache_path"]
    assert provider_options("cpu", "fp32") == {}


@pytest.mark.parametrize(
    ("precision", "kernels"), [("fp32", []), ("fp16", ["trt_fp16_enable"]), ("int8", ["trt_int8_enable"])]
)
def test_a_weakly_typed_provider_is_told_the_precision(precision: str, kernels: list[str]) -> None:
    options = provider_options("tensorrt", precision)
    assert [name for name in options if name in {"trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable"}] == kernels


def test_the_plugins_library_is_registered_once_and_its_first_gpu_taken(plugin: None) -> None:
    runtime, options = Runtime(gpus=2), Options()
    for _ in range(2):
        assert add_provider(runtime, options, "nv_tensorrt_rtx", "fp32", fallback=False) is None
    assert runtime.registered == ["lib.so"]
    assert [[item.number for item in devices] for devices, _ in options.added] == [[0], [0]]
    assert options.entries == {"session.disable_cpu_ep_fallback": "1"}


@pytest.mark.parametrize(
    ("runtime", "text"),
    [
        (Runtime(broken="libcudart.so.12: cannot open it\nmore"), "cannot be loaded: libcudart.so.12: cannot open it"),
        (Runtime(gpus=0), "serves no GPU here"),
    ],
)
def test_a_plugin_that_cannot_serve_is_typed(plugin: None, runtime: Runtime, text: str) -> None:
    with pytest.raises(NotAvailable) as caught:
        add_provider(runtime, Options(), "nv_tensorrt_rtx", "fp32", fallback=False)
    assert caught.value.failed.endswith(text)
    assert caught.value.fix


def test_the_real_packages_error_for_a_library_that_cannot_be_loaded_is_typed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = SimpleNamespace(get_ep_name=lambda: "RTX", get_library_path=lambda: "/nowhere/lib.so", __spec__=object())
    monkeypatch.setitem(sys.modules, PLUGIN, module)
    artifact = Artifact("net", "onnxruntime", "nv_tensorrt_rtx", "fp32", ("model/net.onnx",))
    with pytest.raises(NotAvailable, match="the library of NvTensorRTRTXExecutionProvider cannot be loaded") as caught:
        OnnxRuntimeSession.open(product(tmp_path / "model" / "net.onnx").parent.parent, artifact, SPEC, 1)
    assert caught.value.fix == PROVIDERS["nv_tensorrt_rtx"].install


def test_the_cuda_libraries_that_pip_installed_are_loaded_without_a_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("libcudart.so.12", "libother.so.1"):
        (tmp_path / "nvidia" / "cuda_runtime" / "lib").mkdir(parents=True, exist_ok=True)
        (tmp_path / "nvidia" / "cuda_runtime" / "lib" / name).touch()
    monkeypatch.setattr(
        providers.util, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path / name)])
    )
    loaded: list[str] = []
    monkeypatch.setattr(providers.ctypes, "CDLL", lambda path, mode: loaded.append(Path(path).name))
    runtime = Runtime("CUDAExecutionProvider")
    runtime.preload_dlls = lambda: sys.stdout.write("Failed to load libcublas.so.12")  # type: ignore[attr-defined]
    add_provider(runtime, Options(), "cuda", "fp32", fallback=False)
    assert loaded == ["libcudart.so.12"]
    assert capsys.readouterr().out == "", "standard output may be a JSON document"


# -- what executed -----------------------------------------------------------------------------------------------------


def event(provider: str, operator: str, kind: str, inputs: list[list[int]], output: list[int]) -> dict[str, Any]:
    return {
        "cat": "Node",
        "args": {
            "provider": provider, "op_name": operator, "input_type_shape": [{kind: shape} for shape in inputs],
            "output_type_shape": [{"float": output}],
        },
    }  # fmt: skip


def test_placement_counts_nodes_and_precision_counts_work() -> None:
    events = [
        {"cat": "Session", "name": "model_run"},
        {"cat": "Node", "args": {"op_name": "Conv"}},
        event("CUDAExecutionProvider", "Conv", "float16", [[1, 4, 8, 8], [8, 4, 3, 3]], [1, 8, 8, 8]),
        event("CUDAExecutionProvider", "Relu", "float", [[1, 8, 8, 8]], [1, 8, 8, 8]),
        event("CPUExecutionProvider", "Shape", "float", [[4]], [4]),
        event("CUDAExecutionProvider", "MatMul", "float16", [[8, 8], [8, 8]], [8, 8]),
    ]
    kernels = kernels_of(events)
    names = {provider.name: device for device, provider in PROVIDERS.items()}
    assert placement_of(kernels, names) == {"cuda": 0.75, "cpu": 0.25}
    shares = precision_shares_of(kernels)
    half, full = 2 * 512 * 36 + 2 * 64 * 8, 512 + 4
    assert shares == pytest.approx({"fp16": half / (half + full), "fp32": full / (half + full)})


def opened(root: Path, *files: str, precision: str = "fp32", **options: Any) -> OnnxRuntimeSession:
    artifact = Artifact("net", "onnxruntime", "cpu", precision, files, options=options)
    session = OnnxRuntimeSession.open(root, artifact, SPEC, 1)
    assert isinstance(session, OnnxRuntimeSession)
    return session


def test_on_the_cpu_everything_ran_there_in_fp32(tmp_path: Path) -> None:
    product(tmp_path / "model" / "net.onnx")
    with opened(tmp_path, "model/net.onnx") as session:
        assert session.run({"x": np.ones((1, 8), np.float32)})["y"].tolist() == [[8.0] * 4]
        found = session.execution()
    assert (found.placement, found.precision_shares) == ({"cpu": 1.0}, {"fp32": 1.0})


def test_a_provider_that_hides_its_nodes_gives_the_models_own_types(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    product(tmp_path / "model" / "net.onnx")
    hidden = providers.Provider("CPUExecutionProvider", "", gpu=False, fused=True)
    monkeypatch.setitem(providers.PROVIDERS, "cpu", hidden)  # type: ignore[index]
    with opened(tmp_path, "model/net.onnx", precision="fp16", precision_shares={"fp16": 0.9, "fp32": 0.1}) as session:
        assert session.effective_precision == "fp16 (90 %) + fp32"


def test_weights_beside_the_model_must_be_files_of_the_artifact(tmp_path: Path) -> None:
    product(tmp_path / "artifacts" / "net.onnx", beside=True)
    with opened(tmp_path, "artifacts/net.onnx", "artifacts/w.bin") as session:
        assert session.run({"x": np.ones((1, 8), np.float32)})["y"][0, 0] == 8.0
    with pytest.raises(BundleRefused, match="keeps weights in 'w.bin'"):
        opened(tmp_path, "artifacts/net.onnx")


@pytest.mark.parametrize(
    ("options", "allowed"), [({}, False), ({"session": {"fallback": "allow"}}, True), ({"session": []}, False)]
)
def test_leave_to_fall_back_comes_from_the_manifest_alone(
    options: dict[str, Any], allowed: bool, tmp_path: Path
) -> None:
    artifact = Artifact("net", "onnxruntime", "cuda", "fp32", ("model/net.onnx",), options=options)
    assert OnnxRuntimeSession(tmp_path, artifact, SPEC, 1)._fallback() == allowed
