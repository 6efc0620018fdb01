"""PyTorch as a target: it is measured, never shipped."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from avsdk.engines.torch import TorchSession
from avsdk.errors import NotAvailable, UnknownName
from avsdk.session import Availability
from avsdk.spec import GraphSpec
from avsdk_targets.cli import app
from avsdk_targets.compiler import CompileJob
from avsdk_targets.compilers.torch import TorchCompiler
from avsdk_targets.target import resolve

pytest.importorskip("torch", reason="pip install 'avsdk[train]'")


def job(tmp_path: Path, **changes: object) -> CompileJob:
    values: dict[str, object] = {
        "onnx": tmp_path / "net.onnx", "graph": GraphSpec("net", (), (), {}), "device": "cpu", "arch": "host",
        "precision": "fp32", "out": tmp_path, "program": tmp_path / "net.pt2",
    }  # fmt: skip
    return CompileJob(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["torch", "torch:cpu"])
def test_export_makes_no_bundle_and_names_the_bench(tmp_path: Path, target: str) -> None:
    arguments = ["export", "tests.contracts.tiny_model:network", "--target", target, "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    text = " ".join(result.output.split())
    assert result.exit_code == 3
    assert "makes no bundle" in text
    assert f"avsdk bench tests.contracts.tiny_model:network --target {target}" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_targets_name_its_devices_on_this_machine(device: str) -> None:
    (candidate,) = resolve(f"torch:{device}").candidates
    assert (candidate.engine, candidate.device, candidate.arch) == ("torch", device, "host")


@pytest.mark.parametrize(("device", "arch"), [("toaster", "host"), ("cpu", "cortex-a76"), ("cuda", "sm86")])
def test_another_machine_is_refused(device: str, arch: str) -> None:
    assert "this machine's cpu or cuda" in TorchCompiler().refusal(device, arch, "fp32")


def test_a_device_that_is_absent_is_not_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = classmethod(lambda cls, device: Availability(False, "PyTorch finds no CUDA device", "nvidia-smi"))
    monkeypatch.setattr(TorchSession, "availability", absent)
    verdict = TorchCompiler().check("cuda", "host", "fp32")
    assert (verdict.ok, verdict.reason, verdict.fix) == (False, "PyTorch finds no CUDA device", "nvidia-smi")


def test_a_bare_onnx_file_has_no_program(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="no PyTorch program") as caught:
        TorchCompiler().compile(job(tmp_path, program=None))
    assert "source" in caught.value.fix


def test_a_misspelt_mode_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="compiled") as caught:
        TorchCompiler().compile(job(tmp_path, options={"mode": "compiled"}))
    assert "compile" in str(caught.value)


def test_doctor_sends_on_to_the_bench() -> None:
    result = CliRunner().invoke(app, ["doctor", "torch:cpu"])
    assert "avsdk bench zoo:style_transfer/wave --target torch:cpu" in " ".join(result.stderr.split())
