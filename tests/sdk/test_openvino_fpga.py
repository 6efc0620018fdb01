"""The Arria 10 session says what is missing, and takes no graph that the FPGA does not execute.

No board and no suite are here: the suite's OpenVINO is a recording of the calls that its runtime's sources make.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avsdk.engines.openvino_fpga import FpgaSession
from avsdk.errors import BundleRefused, NotAvailable, SilentFallback
from avsdk.session import Artifact
from avsdk.spec import GraphSpec, TensorSpec

GRAPH = GraphSpec("g", (TensorSpec("x", "float32", (1, 4)),), (TensorSpec("y", "float32", (1, 4)),))


class Port:
    def __init__(self, name: str) -> None:
        self.name = name

    def get_names(self) -> set[str]:
        return {self.name}


class RecordedSuite:
    """An OpenVINO core with the suite's plugins, and the model that it imports."""

    devices = ["FPGA", "CPU"]
    properties = ["SUPPORTED_PROPERTIES", "DLA_ARCH_FILE_PATH"]
    calls: list[tuple[Any, ...]] = []

    def __init__(self, plugins: str = "") -> None:
        self.calls.append(("core", plugins))
        self.inputs, self.outputs = [Port("x")], [Port("y")]

    def get_property(self, name: str, of: str = "") -> Any:
        return self.properties if of == "SUPPORTED_PROPERTIES" else self.devices

    def set_property(self, plugin: str, values: dict[str, str]) -> None:
        self.calls.append(("set", plugin, values))

    def import_model(self, content: bytes, device: str, config: dict[str, str]) -> RecordedSuite:
        self.calls.append(("import", content, device, config))
        return self

    def create_infer_request(self) -> object:
        return object()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bundle's folder, and a suite whose core records."""
    openvino = pytest.importorskip("openvino")
    (tmp_path / "suite" / "lib").mkdir(parents=True)
    (tmp_path / "suite" / "lib" / "plugins.xml").write_text("<ie/>")
    (tmp_path / "g.compiled.bin").write_bytes(b"compiled")
    (tmp_path / "g.arch").write_text("family : 'A10'")
    monkeypatch.setenv("COREDLA_ROOT", str(tmp_path / "suite"))
    monkeypatch.setattr(openvino, "Core", RecordedSuite)
    monkeypatch.setattr(RecordedSuite, "calls", [])
    yield tmp_path


def artifact(report: Any = None) -> Artifact:
    options = {"report": report or {"fpga_share": 0.9}}
    device = "fpga"
    return Artifact("g", "openvino_fpga", device, "fp16", ("g.compiled.bin", "g.arch"), {}, options)


def test_the_compiled_file_is_imported_for_its_architecture(folder: Path) -> None:
    session = FpgaSession.open(folder, artifact(), GRAPH, 1)
    assert RecordedSuite.calls[1:] == [
        ("core", str(folder / "suite/lib/plugins.xml")),
        ("set", "FPGA", {"DLA_ARCH_FILE_PATH": str(folder / "g.arch")}),
        ("import", b"compiled", "HETERO:FPGA,CPU", {}),
    ]
    session._ran = True
    execution = session.execution()
    assert execution.placement == {"fpga": 0.9, "cpu": pytest.approx(0.1)}
    assert execution.effective_precision == "fp16 (90 %) + fp32"


@pytest.mark.parametrize("report", [[1], {"share": 1}, {"fpga_share": "all"}, {"fpga_share": 2}])
def test_a_strangers_report_is_checked(report: Any, folder: Path) -> None:
    session = FpgaSession.open(folder, artifact(report), GRAPH, 1)
    session._ran = True
    with pytest.raises(BundleRefused, match="gives the FPGA the share"):
        session.execution()


def test_what_executes_on_the_processor_alone_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordedSuite, "devices", ["CPU"])
    with pytest.raises(SilentFallback, match="HETERO:FPGA,CPU executes on CPU"):
        FpgaSession.open(folder, artifact(), GRAPH, 1)


def test_a_plugin_that_takes_no_architecture_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordedSuite, "properties", ["SUPPORTED_PROPERTIES"])
    with pytest.raises(NotAvailable, match="no property for the .arch file"):
        FpgaSession.open(folder, artifact(), GRAPH, 1)


@pytest.mark.parametrize(("root", "text"), [("", "COREDLA_ROOT is not set"), ("/nowhere", "which has none of")])
def test_without_the_suite_the_session_says_so(
    root: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COREDLA_ROOT", root)
    state = FpgaSession.availability("fpga")
    assert not state.ok
    assert text in state.reason
    with pytest.raises(NotAvailable) as caught:
        FpgaSession.open(folder, artifact(), GRAPH, 1)
    assert caught.value.exit_code == 3
    assert "FPGA AI Suite" in caught.value.fix
