"""Movidius Myriad X: blobs are made where the toolchain is installed; without a stick the session meets a fake."""

from __future__ import annotations

import importlib
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.targets.rewriting import model_of, normal, one

from avsdk import host
from avsdk.engines import openvino_myriad
from avsdk.engines.openvino_myriad import MyriadSession
from avsdk.errors import BundleRefused, NotAvailable, UsageError
from avsdk.myriad_stick import LoadedBlob, blob_fault
from avsdk.session import Artifact
from avsdk.spec import AxisRange, GraphSpec, TensorSpec
from avsdk_targets import system_libraries
from avsdk_targets.compiler import Compiled, CompileJob
from avsdk_targets.compilers.openvino_myriad import LACKING, MyriadCompiler
from avsdk_targets.doctor import diagnose
from avsdk_targets.myriad_blob import _meaning, _typed, checked_blob, cmx_count, shave_count, stream_count
from avsdk_targets.rewrite import SPELT_OUT
from avsdk_targets.rewrites.functions import has_body
from avsdk_targets.system_libraries import debian_package, require_libraries

NO_STICK = "Can not create infer request: there is no available devices with platform 2480"


def blob(size: int = 640, number: int = 9709, major: int = 6) -> bytes:
    """The head of a blob as the compiler of 2021.4.2 writes it, and zeros."""
    return (b"\x7felf" + bytes(48) + struct.pack("<III", number, size, major)).ljust(size, b"\0")


# -- the compiler, where its toolchain is ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _toolchain() -> None:
    verdict = MyriadCompiler().check("myriad-x", "myriad-x", "fp16")
    if not verdict.ok:
        pytest.skip(f"cannot compile: {verdict.reason} ({verdict.fix})")


def compiled(model: onnx.ModelProto, graph: GraphSpec, out: Path, **options: Any) -> Compiled:
    out.mkdir(exist_ok=True)
    onnx.save(model, out / "model.onnx")
    sizes = graph.default_sizes() if graph.axes else None
    job = CompileJob(out / "model.onnx", graph, "myriad-x", "myriad-x", "fp16", out, sizes=sizes, options=options)
    return MyriadCompiler().compile(job)


def graph_of(shape: tuple[int | str, ...], output: tuple[int | str, ...], kind: str = "float32") -> GraphSpec:
    axes = {axis: AxisRange(1, 64, 1, 8) for axis in shape if isinstance(axis, str)}
    return GraphSpec("g", (TensorSpec("x", kind, shape),), (TensorSpec("y0", "float32", output),), axes)


@pytest.mark.usefixtures("_toolchain")
def test_a_model_of_a_new_opset_with_dynamic_axes_becomes_a_blob(tmp_path: Path) -> None:
    """Convolution, HardSwish, LayerNormalization, GELU and GRU at opset 20; the height is fixed on the way.

    One model, since each compile waits 5 s for a stick.
    """
    generator = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("HardSwish", ["c"], ["h"]),
        helper.make_node("LayerNormalization", ["h", "s", "b"], ["l"], axis=-1),
        helper.make_node("Gelu", ["l"], ["e"]),
        helper.make_node("Reshape", ["e", "steps"], ["r"]),
        helper.make_node("GRU", ["r", "gw", "gr"], ["y0"], hidden_size=5, linear_before_reset=1),
    ]
    held = {
        "w": normal(generator, 4, 3, 3, 3), "s": np.ones(8, np.float32), "b": np.zeros(8, np.float32),
        "steps": np.array([4, 1, -1]), "gw": normal(generator, 1, 15, 64), "gr": normal(generator, 1, 15, 5),
    }  # fmt: skip
    model = model_of(nodes, {"x": [1, 3, "height", 8]}, ["y0"], held)
    done = compiled(model, graph_of((1, 3, "height", 8), (4, 1, 1, 5)), tmp_path, shaves=4, input="fp32")
    content = (tmp_path / "g.blob").read_bytes()
    assert blob_fault(content[:64], len(content)) == ""
    options = done.artifact.options
    assert done.artifact.files == ("g.blob",)
    assert done.artifact.shapes == {"height": 8}
    assert (options["shaves"], options["cmx_slices"], options["size"]) == (4, 4, len(content))
    assert options["requires"] == {"engine": "openvino", "exact": "2021.4.2"}
    assert {"opset 20 -> 13", "GRU spelt out (1)"} <= set(options["rewritten"])
    assert options["inputs"] == {"x": {"name": "x", "precision": "FP32"}}
    assert done.built_with["openvino"] == "2021.4.2"


@pytest.mark.usefixtures("_toolchain")
def test_what_the_plugin_does_not_compile_is_typed(tmp_path: Path) -> None:
    held: dict[str, np.ndarray] = {
        "s": np.array(0.1, np.float32),
        "z": np.array(0, np.int8),
        "w": normal(np.random.default_rng(0), 4, 3, 3, 3),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Conv", ["d", "w"], ["y0"]),
    ]
    model = model_of(nodes, {"x": [1, 3, 8, 8]}, ["y0"], held, opset=13, ir=7)
    with pytest.raises(NotAvailable, match=r"quantised \(int8\), and Myriad X computes in fp16") as caught:
        compiled(model, graph_of((1, 3, 8, 8), (1, 4, 6, 6)), tmp_path)
    assert caught.value.fix == "export the fp32 model"
    assert not list(tmp_path.glob("*.blob"))


@pytest.mark.usefixtures("_toolchain")
def test_doctor_says_build_only_without_a_stick() -> None:
    if MyriadSession.availability("myriad-x").ok:
        pytest.skip("a stick is plugged in")
    found = diagnose("movidius")[0]
    assert (found.engine, found.can_compile, found.can_run, found.verified) == (
        "openvino_myriad",
        True,
        False,
        "build-only",
    )
    assert "03e7:2485" in found.reason


# -- the compiler's own logic ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["0", "17", "-1", "4.5", "many", ""])
@pytest.mark.parametrize("name", ["shaves", "cmx_slices"])
def test_counts_beyond_the_chip_are_refused_before_anything_is_built(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"openvino_myriad.{name} is '{value}'") as caught:
        compiled(one("Relu", {"x": [2]}, "x"), graph_of((2,), (2,)), tmp_path, **{name: value})
    assert "1 to 16" in caught.value.expected


def test_on_chip_memory_follows_the_vector_processors() -> None:
    assert (shave_count({}), cmx_count({})) == (6, 6)
    assert (shave_count({"shaves": "16"}), cmx_count({"shaves": "16"})) == (16, 16)
    assert cmx_count({"shaves": 16, "cmx_slices": 8}) == 8


@pytest.mark.parametrize("value", ["0", "4", "many", "\N{SUPERSCRIPT TWO}"])
def test_a_number_of_streams_that_the_plugin_does_not_take_is_wrong_usage(value: str, tmp_path: Path) -> None:
    assert stream_count({"streams": 3}) == 3
    with pytest.raises(UsageError, match=f"openvino_myriad.streams is '{value}'") as caught:
        compiled(one("Relu", {"x": [2]}, "x"), graph_of((2,), (2,)), tmp_path, streams=value)
    assert caught.value.expected == "1 to 3 networks at a time"


def test_other_devices_and_precisions_are_refused() -> None:
    compiler = MyriadCompiler()
    assert compiler.refusal("myriad-x", "myriad-x", "fp16") == ""
    assert "compiles for myriad-x, not cpu" in compiler.refusal("cpu", "host", "fp16")
    assert "fp16, not int8" in compiler.refusal("myriad-x", "myriad-x", "int8")


def test_everything_that_is_lacking_can_be_spelt_out() -> None:
    assert {op for op in LACKING if op not in SPELT_OUT and not has_body(op, 26)} == set()


class FakeNetwork:
    """What the build uses of a network that was read: its inputs and outputs, and OpenVINO's names of tensors."""

    def __init__(self) -> None:
        self.input_info = {name: SimpleNamespace(precision="FP32") for name in ("picture", "codes", "bytes")}
        self.outputs = {"node.0": SimpleNamespace(precision="FP32"), "node.1": SimpleNamespace(precision="I64")}

    def get_ov_name_for_tensor(self, name: str) -> str:
        return {"heights": "node.0", "places": "node.1"}[name]


@pytest.mark.parametrize(("asked", "sent"), [("fp16", "FP16"), ("fp32", "FP32"), ("u8", "U8")])
def test_the_borders_of_the_blob_have_the_types_asked_for(asked: str, sent: str) -> None:
    dtypes = {"picture": "float32", "codes": "int64", "bytes": "uint8"}
    outputs = {"heights": "float32", "places": "int64"}
    graph = {
        "inputs": [{"name": name, "dtype": dtype} for name, dtype in dtypes.items()],
        "outputs": [{"name": name, "dtype": dtype} for name, dtype in outputs.items()],
    }
    network = FakeNetwork()
    found = _typed(network, {"graph": graph}, {"input": asked})
    assert {name: item.precision for name, item in network.input_info.items()} == {
        "picture": sent, "codes": "I32", "bytes": "U8",
    }  # fmt: skip
    assert found[1] == {
        "heights": {"name": "node.0", "precision": "FP16"},
        "places": {"name": "node.1", "precision": "I32"},
    }
    with pytest.raises(UsageError, match="openvino_myriad.input is 'fp8'"):
        _typed(network, {"graph": graph}, {"input": "fp8"})


@pytest.mark.parametrize(
    ("text", "meaning", "fix"),
    [
        ('[ GENERAL_ERROR ] unsupported layer type "FakeQuantize"', "quantised (int8)", "export the fp32 model"),
        ('unsupported layer type "GRUSequence"', "no operation GRUSequence", "avsdk check MODEL --target myriad-x"),
        ("nGraph does not support the following ONNX operations: GridSample", "cannot read GridSample", "avsdk check"),
        ("Dynamic dimension cannot be resolved in v0::Parameter", "a size is not fixed", "--axis"),
        ("AssertionFailed: !expired()", "one of its own checks (!expired())", "avsdk check"),
        ("number of biases must equal to number of output channels", "no Conv3D", "avsdk check"),
        ("Can not init Myriad device: NC_ERROR", "asked for a stick", "platform=VPU_MYRIAD_2480"),
        ("[ NOT_FOUND ] VPU_NUMBER_OF_CMX_SLICES key is not supported for VPU", "VPU_NUMBER_OF_CMX_SLICES", "leave"),
        ("Cannot load library '/x/libmyriadPlugin.so': libusb-1.0.so.0: cannot open shared object file",
         "the system library libusb-1.0.so.0 is missing", "apt-get install libusb-1.0-0"),
        ('Unsupported value "foo" for key VPU_MYRIAD_PLATFORM', "the value 'foo' of VPU_MYRIAD_PLATFORM", "leave"),
        ("Unknown model format! Cannot find reader", "cannot read the file", "opset 13"),
        ("first line\nsomething new\n", "something new", "avsdk check"),
        ("/home" + "/build/model.cpp:12 odd data", "odd data", "avsdk check"),
        ("", "it gave no reason", "avsdk check"),
    ],
)  # fmt: skip
def test_the_texts_of_the_release_are_understood(text: str, meaning: str, fix: str) -> None:
    found = _meaning(text)
    assert meaning in found[0]
    assert fix in found[1]


@pytest.mark.parametrize(
    ("cached", "text"),
    [
        (b"", "it begins with b''"),
        (b"no line here", "it begins with b'no line here'"),
        (b"<compiled_blob/>\n", "not with b'\\x7felf'"),
        (b"<other/>\n" + blob(), "it begins with b'<other/>"),
        (b"<compiled_blob/>\n" + blob()[:-1], "it has 639 bytes and says that it has 640"),
        (b"<compiled_blob/>\n" + blob(number=1), "it is of the format 1, version 6"),
        (b"<compiled_blob/>\n" + blob(major=7), "version 7, not 9709, version 6"),
    ],
)
def test_a_cache_file_that_is_no_blob_is_refused(cached: bytes, text: str) -> None:
    with pytest.raises(NotAvailable) as caught:
        checked_blob(cached)
    assert text in caught.value.failed


def test_the_blob_stands_behind_the_line_of_xml() -> None:
    line = b'<?xml version="1.0"?><compiled_blob ie_version="2021.4.2-3976" file_info="1"/>\n'
    assert checked_blob(line + blob()) == blob()


# -- libraries of the system -------------------------------------------------------------------------------------------


def test_a_missing_library_is_named_with_its_package() -> None:
    require_libraries(["libc.so.6"], needed_by="the toolchain 'tiny'")
    with pytest.raises(NotAvailable, match="needs the system library libnowhere-2.so.7: cannot open") as caught:
        require_libraries(["libc.so.6", "libnowhere-2.so.7"], needed_by="the toolchain 'tiny'")
    assert caught.value.fix == "apt-get install libnowhere-2-7"


def test_the_compiler_is_not_ready_without_its_library(_toolchain: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_libraries, "_why_not_loaded", lambda library: f"no {library}")
    verdict = MyriadCompiler().check("myriad-x", "myriad-x", "fp16")
    assert not verdict.ok
    assert "libusb-1.0.so.0" in verdict.reason
    assert verdict.fix == "apt-get install libusb-1.0-0"


@pytest.mark.parametrize(
    ("library", "package"),
    [("libusb-1.0.so.0", "libusb-1.0-0"), ("libGL.so.1", "libgl1"), ("libgomp.so.1", "libgomp1"), ("odd", "odd")],
)
def test_a_library_names_its_package(library: str, package: str) -> None:
    assert debian_package(library) == package


# -- the session -------------------------------------------------------------------------------------------------------


class FakeCore:
    """What the session uses of ``openvino.inference_engine.IECore`` 2021.4.2; every call is recorded."""

    calls: list[tuple[Any, ...]] = []
    refuses = ""

    def import_network(self, model_file: str, device_name: str) -> FakeCore:
        FakeCore.calls.append(("import_network", Path(model_file).name, device_name))
        if FakeCore.refuses:
            raise RuntimeError(FakeCore.refuses)
        return self

    def infer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        FakeCore.calls.append(("infer", {name: array.dtype.name for name, array in inputs.items()}))
        return {"y.0": inputs["x"].astype(np.float16) * np.float16(2)}

    def get_metric(self, device: str, name: str) -> list[str]:
        FakeCore.calls.append(("get_metric", device, name))
        return ["FP16"]


@pytest.fixture
def _fake_release(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    package, module = ModuleType("openvino"), ModuleType("openvino.inference_engine")
    module.IECore = FakeCore  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "openvino", package)
    monkeypatch.setitem(sys.modules, "openvino.inference_engine", module)
    monkeypatch.setattr(FakeCore, "calls", [])
    monkeypatch.setattr(FakeCore, "refuses", "")
    yield


class DirectWorker:
    """The worker's verbs in this process, so that the fake is met."""

    def __init__(self, name: str, python: object, *, timeout_s: float) -> None:
        assert python == ("python3.9",)
        self.closed = 0

    def open(self, factory: str, **arguments: Any) -> None:
        module, _, name = factory.partition(":")
        self._object = getattr(importlib.import_module(module), name)(**arguments)

    def ask(self, method: str, **arguments: Any) -> Any:
        return getattr(self._object, method)(**arguments)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    (tmp_path / "g.blob").write_bytes(blob())
    options = {
        "inputs": {"x": {"name": "x", "precision": "FP16"}},
        "outputs": {"y0": {"name": "y.0", "precision": "FP16"}},
        "size": 640,
        "requires": {"engine": "openvino", "exact": "2021.4.2"},
    }
    return Artifact("g", "openvino_myriad", "myriad-x", "fp16", ("g.blob",), options=options)


@pytest.fixture
def _with_stick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stick, and the release in some Python."""
    found = host.probe()
    seen = type(found)(**{**vars(found), "accelerators": ("movidius: Myriad X",)})
    monkeypatch.setattr(host, "probe", lambda: seen)
    monkeypatch.setattr(openvino_myriad, "_python", lambda: ("python3.9",))
    monkeypatch.setattr(openvino_myriad, "Worker", DirectWorker)


def opened(artifact: Artifact, root: Path) -> MyriadSession:
    session = MyriadSession.open(root, artifact, graph_of((2,), (2,)), 1)
    assert isinstance(session, MyriadSession)
    return session


@pytest.mark.usefixtures("_with_stick", "_fake_release")
def test_the_session_imports_the_blob_sends_halves_and_returns_the_graphs_types(
    artifact: Artifact, tmp_path: Path
) -> None:
    with opened(artifact, tmp_path) as session:
        found = session.run({"x": np.array([1.5, -2], np.float32)})
        assert found["y0"].dtype == np.float32
        np.testing.assert_array_equal(found["y0"], [3, -4])
        assert session.effective_precision == "fp16"
    session.close()
    assert FakeCore.calls == [
        ("import_network", "g.blob", "MYRIAD"),
        ("infer", {"x": "float16"}),
        ("get_metric", "MYRIAD", "OPTIMIZATION_CAPABILITIES"),
    ]


@pytest.mark.parametrize(
    ("text", "failed", "fix"),
    [
        (NO_STICK, "cannot reach the stick", "udev"),
        ("Can not init Myriad device: NC_ERROR", "cannot reach the stick", "udev"),
        (
            "Cannot load library 'p': libusb-1.0.so.0: cannot open",
            "cannot load its plugin",
            "apt-get install libusb-1.0-0",
        ),
        ("Check 'version' failed\nthe blob is of version 5", "the blob is of version 5", "export the bundle again"),
        ("", "no reason given", "export the bundle again"),
    ],
)
@pytest.mark.usefixtures("_with_stick", "_fake_release")
def test_what_the_plugin_says_on_loading_is_typed(
    text: str, failed: str, fix: str, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeCore, "refuses", text or " ")
    with pytest.raises(NotAvailable) as caught:
        opened(artifact, tmp_path)
    assert failed in caught.value.failed
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (blob()[:-8], "it has 632 bytes and says that it has 640"),
        (blob(700), "it has 700 bytes and the manifest says 640"),
        (b"\x7fELF" + bytes(700), "not with"),
        (b"", "it begins with b''"),
    ],
)
@pytest.mark.usefixtures("_with_stick", "_fake_release")
def test_a_damaged_blob_never_reaches_the_plugin(content: bytes, text: str, artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "g.blob").write_bytes(content)
    with pytest.raises(BundleRefused) as caught:
        opened(artifact, tmp_path)
    assert text in caught.value.failed
    assert FakeCore.calls == []


@pytest.mark.parametrize(
    "options",
    [
        {"inputs": ["x"]},
        {"inputs": {"x": {"name": "x"}}},
        {"outputs": {"y0": {"name": "y.0", "precision": "F64"}}},
        {"outputs": {"y0": "y.0"}},
        {"size": "640"},
    ],
)
@pytest.mark.usefixtures("_with_stick", "_fake_release")
def test_a_manifest_that_says_nonsense_of_its_blob_is_refused(
    options: dict[str, Any], artifact: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(BundleRefused, match="options."):
        opened(replace(artifact, options={**artifact.options, **options}), tmp_path)
    assert FakeCore.calls == []


@pytest.mark.usefixtures("_fake_release")
def test_numbers_that_bytes_cannot_hold_are_refused_and_others_are_sent_whole() -> None:
    loaded = LoadedBlob("g.blob", {"x": {"name": "x", "precision": "U8"}}, {"y": {"name": "y.0", "precision": "FP16"}})
    np.testing.assert_array_equal(loaded.run({"x": np.array([0, 255], np.float32)})["y"], [0, 510])
    assert ("infer", {"x": "uint8"}) in FakeCore.calls
    for bad in ([0.5], [-1], [256], [np.nan]):
        with pytest.raises(UsageError, match="whole numbers from 0 to 255"):
            loaded.run({"x": np.array(bad, np.float32)})
    loaded.close()


def test_without_a_stick_the_absence_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    found = host.probe()
    monkeypatch.setattr(host, "probe", lambda: type(found)(**{**vars(found), "accelerators": ()}))
    state = MyriadSession.availability("myriad-x")
    assert not state.ok
    assert "03e7:2485" in state.reason
    assert "plug" in state.fix


@pytest.mark.usefixtures("_with_stick")
def test_with_a_stick_the_release_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MyriadSession.availability("myriad-x").ok
    monkeypatch.setattr(openvino_myriad, "_python", tuple)
    state = MyriadSession.availability("myriad-x")
    assert (state.ok, state.fix) == (False, "avsdk toolchain install myriad")
    assert "2021.4.2" in state.reason


def test_a_newer_openvino_in_this_python_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_myriad, "installed_python", lambda name: ("p39",) if name == "myriad" else ())
    monkeypatch.setattr(metadata, "version", lambda name: "2026.4.1")
    assert openvino_myriad._python() == ("p39",)
    assert MyriadSession.release("openvino") == "2021.4.2"
    monkeypatch.setattr(metadata, "version", lambda name: "2021.4.2")
    assert openvino_myriad._python() == (sys.executable,)
