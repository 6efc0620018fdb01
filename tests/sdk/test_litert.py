"""The LiteRT session: which of its two runtimes, int8 files, the weight cache, the Edge TPU, and what executed."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from avsdk.engines import litert as engine
from avsdk.engines.litert import LiteRtSession
from avsdk.errors import BundleRefused, NotAvailable, SilentFallback
from avsdk.session import Artifact
from avsdk.spec import GraphSpec, TensorSpec

_SPEC = GraphSpec("net", (TensorSpec("x", "float32", (1, 4)),), (TensorSpec("y", "float32", (1, 4)),), {})
_NAMES = {"inputs": {"x": "serving_x"}, "outputs": {"y": "serving_y"}}


@pytest.mark.parametrize(
    ("present", "numpy_version", "ok", "text", "fix"),
    [
        ({"ai_edge_litert"}, "2.4.0", True, "", ""),
        ({"ai_edge_litert", "tflite_runtime"}, "2.4.0", True, "", ""),
        ({"tflite_runtime"}, "1.26.4", True, "", ""),
        ({"tflite_runtime"}, "2.4.0", False, "built for numpy 1, and numpy 2.4.0 is here", "avsdk[tflite-runtime]"),
        (set(), "2.4.0", False, "ai-edge-litert is not installed", "avsdk[litert]"),
    ],
)
def test_which_runtime_serves(
    monkeypatch: pytest.MonkeyPatch, present: set[str], numpy_version: str, ok: bool, text: str, fix: str
) -> None:
    monkeypatch.setattr(engine.util, "find_spec", lambda name: name if name in present else None)
    monkeypatch.setattr(engine.np, "__version__", numpy_version)
    state = LiteRtSession.availability("cpu")
    assert state.ok is ok
    assert text in state.reason
    assert fix in state.fix


def test_numpy_2_is_refused_before_tflite_runtime_is_touched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine.util, "find_spec", lambda name: name if name == "tflite_runtime" else None)
    monkeypatch.setattr(engine.np, "__version__", "2.4.0")
    monkeypatch.setattr(engine, "_interpreter_module", lambda: pytest.fail("tflite-runtime was imported"))
    with pytest.raises(
        NotAvailable, match="litert:cpu cannot run here: tflite-runtime was built for numpy 1"
    ) as caught:
        LiteRtSession.open(tmp_path, Artifact("net", "litert", "cpu", "fp32", ("n.tflite",)), _SPEC, 1)
    assert caught.value.exit_code == 3


# -- a recorded interpreter, for what is our own logic -----------------------------------------------------------------


class Recorded:
    """As the runtime's interpreter: one operation between one input and one output."""

    said = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nERROR: kept\n"

    def __init__(self, dtype: Any, operations: list[dict[str, Any]] | None = None) -> None:
        self.options: dict[str, Any] = {}
        self.dtype = dtype
        self.fed: dict[int, np.ndarray] = {}
        self.operations = operations or [{"op_name": "ADD", "inputs": [0], "outputs": [1]}]

    def load_delegate(self, library: str) -> str:
        return f"delegate of {library}"

    def Interpreter(self, **options: Any) -> Recorded:  # noqa: N802  (the runtime's own name)
        self.options = options
        return self

    def allocate_tensors(self) -> None:
        os.write(2, self.said)

    def _detail(self, name: str, index: int) -> dict[str, Any]:
        return {
            "name": name,
            "index": index,
            "shape": np.array([1, 4]),
            "dtype": self.dtype,
            "quantization": (0.5, 3) if self.dtype != np.float32 else (0.0, 0),
        }

    def get_input_details(self) -> list[dict[str, Any]]:
        return [self._detail("serving_x", 0)]

    def get_output_details(self) -> list[dict[str, Any]]:
        return [self._detail("serving_y", 1)]

    def get_tensor_details(self) -> list[dict[str, Any]]:
        return [*self.get_input_details(), *self.get_output_details()]

    def set_tensor(self, index: int, array: np.ndarray) -> None:
        self.fed[index] = array

    def invoke(self) -> None:
        self.fed[1] = self.fed[0]

    def get_tensor(self, index: int) -> np.ndarray:
        return self.fed[index]

    def _get_ops_details(self) -> list[dict[str, Any]]:
        return self.operations


def _open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recorded: Recorded, device: str, precision: str, **options: Any
) -> LiteRtSession:
    monkeypatch.setattr(engine, "_interpreter_module", lambda: recorded)
    monkeypatch.setattr(engine, "_runtime_state", lambda: engine.Availability(True))
    monkeypatch.setattr(engine, "_edge_tpu_state", lambda: engine.Availability(True))
    (tmp_path / "n.tflite").write_bytes(b"model")
    artifact = Artifact("net", "litert", device, precision, ("n.tflite",), None, {**_NAMES, **options})
    opened = LiteRtSession.open(tmp_path, artifact, _SPEC, 3)
    assert isinstance(opened, LiteRtSession)
    return opened


def test_an_int8_file_is_fed_and_read_in_the_floats_of_the_graph(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recorded = Recorded(np.int8)
    session = _open(monkeypatch, tmp_path, recorded, "cpu", "int8")
    found = session.run({"x": np.array([[0.0, 1.0, -1.2, 1000.0]], np.float32)})["y"]
    assert recorded.fed[0].dtype == np.int8
    assert recorded.fed[0].tolist() == [[3, 5, 1, 127]]
    assert found.tolist() == [[0.0, 1.0, -1.0, 62.0]]
    assert session.execution().effective_precision == "int8"
    assert recorded.options["num_threads"] == 3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"session": "x"}, "options.session is 'x'"),
        ({"inputs": ["x"]}, "options.inputs is"),
        ({"inputs": {"x": ["serving_x"]}}, "options.inputs"),
        ({"outputs": {"y": 3}}, "options.outputs"),
    ],
)
def test_a_manifest_that_says_nonsense_of_its_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(BundleRefused) as caught:
        _open(monkeypatch, tmp_path, Recorded(np.float32), "cpu", "fp32", **options)
    assert text in caught.value.failed


@pytest.mark.parametrize(
    "record",
    [
        ["SOFTMAX"],
        {"mapped": "9"},
        {"mapped": -1},
        {"mapped": 1, "left": ["SOFTMAX"]},
        {"mapped": 1, "left": ["SOFTMAX many reasons"]},
    ],
)
def test_a_manifest_that_says_nonsense_of_the_edge_tpus_compiler_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, record: Any
) -> None:
    recorded = Recorded(np.int8, [{"op_name": "edgetpu-custom-op", "inputs": [0], "outputs": [1]}])
    session = _open(monkeypatch, tmp_path, recorded, "edgetpu", "int8", edgetpu=record)
    with pytest.raises(BundleRefused):
        session.execution()


def test_an_int8_file_in_an_fp32_bundle_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match="holds 'x' as int8"):
        _open(monkeypatch, tmp_path, Recorded(np.int8), "cpu", "fp32")


def test_what_the_runtime_says_of_itself_is_dropped_and_its_errors_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _open(monkeypatch, tmp_path, Recorded(np.float32), "cpu", "fp32")
    assert capfd.readouterr().err == "ERROR: kept\n"


@pytest.mark.parametrize(
    ("operations", "share"),
    [
        ([("A", [0], [1]), ("B", [1], [2])], 0.0),
        ([("A", [0], [1]), ("B", [1], [2]), ("DELEGATE", [0], [2])], 1.0),
        ([("A", [0], [1]), ("B", [1], [2]), ("C", [2], [3]), ("D", [3], [4]), ("DELEGATE", [1], [3])], 0.5),
    ],
)
def test_the_share_that_a_delegate_took_is_read_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, operations: list[tuple[str, list[int], list[int]]], share: float
) -> None:
    listed = [{"op_name": name, "inputs": given, "outputs": made} for name, given, made in operations]
    session = _open(monkeypatch, tmp_path, Recorded(np.float32, listed), "cpu", "fp32")
    assert session.delegated_share() == share


# -- the Edge TPU ------------------------------------------------------------------------------------------------------


def test_the_edge_tpu_gets_its_delegate_and_the_placement_is_the_compilers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recorded = Recorded(np.int8, [{"op_name": "edgetpu-custom-op", "inputs": [0], "outputs": [1]}])
    edgetpu = {"mapped": 9, "left": ["SOFTMAX 1 Operation version not supported"]}
    session = _open(monkeypatch, tmp_path, recorded, "edgetpu", "int8", edgetpu=edgetpu)
    assert recorded.options["experimental_delegates"] == ["delegate of libedgetpu.so.1"]
    assert session.execution().placement == {"edgetpu": 0.9, "cpu": pytest.approx(0.1)}
    assert session.execution().device == "edgetpu"


def test_a_file_without_the_edge_tpus_operation_is_a_silent_fallback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session = _open(monkeypatch, tmp_path, Recorded(np.int8), "edgetpu", "int8")
    with pytest.raises(SilentFallback, match="no operation of n.tflite is one of the Edge TPU's"):
        session.execution()


@pytest.mark.parametrize("dtypes", [(np.float32, np.int32), (np.int32, np.int32), (np.float32, np.float32)])
def test_arithmetic_on_indices_is_no_other_precision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtypes: tuple[Any, Any]
) -> None:
    """An embedding's rows are numbers of 32 bits; that they are counted in whole numbers changes no precision."""
    computed = [{"op_name": "SUM", "inputs": [2], "outputs": [2]}, {"op_name": "ADD", "inputs": [3], "outputs": [3]}]
    session = _open(monkeypatch, tmp_path, Recorded(np.float32, computed), "cpu", "fp32")
    details = [
        {"name": str(index), "index": index, "shape": np.array([9]), "dtype": dtype}
        for index, dtype in enumerate(dtypes, 2)
    ]
    monkeypatch.setattr(Recorded, "get_tensor_details", lambda self: details)
    assert session.execution().precision_shares == {"fp32": 1.0}


def test_an_edge_tpu_that_is_not_here_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_runtime_state", lambda: engine.Availability(True))
    monkeypatch.setattr(engine.host, "probe", lambda: SimpleNamespace(accelerators=()))
    assert LiteRtSession.availability("edgetpu").reason == "no Edge TPU is attached to this machine"
    monkeypatch.setattr(engine.host, "probe", lambda: SimpleNamespace(accelerators=("coral: Edge TPU",)))
    monkeypatch.setattr(engine, "_EDGE_TPU_LIBRARY", "libno-such-thing.so.1")
    assert "libno-such-thing.so.1 cannot be loaded" in LiteRtSession.availability("edgetpu").reason
    assert not LiteRtSession.availability("gpu").ok


# -- the weight cache --------------------------------------------------------------------------------------------------


def test_a_runtime_without_the_weight_cache_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine.util, "find_spec", lambda name: None)
    with pytest.raises(NotAvailable, match="asks for a weight cache") as caught:
        _open(monkeypatch, tmp_path, Recorded(np.float32), "cpu", "fp32", session={"weight_cache": True})
    assert "weight_cache=no" in caught.value.fix


@pytest.mark.skipif(
    find_spec("ai_edge_litert") is None, reason="ai-edge-litert is not installed: pip install 'avsdk[litert]'"
)
def test_a_cache_that_cannot_be_written_is_not_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ai_edge_litert import compiled_model

    monkeypatch.setenv("AVSDK_HOME", str(tmp_path / "home"))
    model = SimpleNamespace(from_file=lambda file, options: None)
    monkeypatch.setattr(compiled_model, "CompiledModel", model)
    with pytest.raises(NotAvailable, match="wrote no weight cache at"):
        _open(monkeypatch, tmp_path, Recorded(np.float32), "cpu", "fp32", session={"weight_cache": True})
    (tmp_path / "file").touch()
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path / "file"))
    with pytest.raises(NotAvailable, match="wrote no weight cache at .*: Not a directory"):
        _open(monkeypatch, tmp_path, Recorded(np.float32), "cpu", "fp32", session={"weight_cache": True})
