"""Arm boards without the board: which proof a candidate gets, and the real wheels under emulation where they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from avsdk import plugins, verify
from avsdk.bundle import Manifest, open_bundle, write_manifest
from avsdk.cli import root_app
from avsdk.errors import BundleRefused
from avsdk.toolchains import installed_python
from avsdk.verify import emulation_of, run_golden, verify_bundle
from avsdk_targets import proof as proof_module
from avsdk_targets.build import Exporter, ExportOptions
from avsdk_targets.proof import proof_for
from avsdk_targets.target import Candidate, resolve
from avsdk_targets.toolchain import load_toolchain, missing


def _candidate(device: str, engine: str = "onnxruntime") -> Candidate:
    return next(item for item in resolve(device).candidates if item.engine == engine)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution between named axes."""
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    node = onnx.helper.make_node("Conv", ["image", "w"], ["out"], pads=[1, 1, 1, 1])
    shapes = {"image": ["batch", 3, "height", "width"], "out": ["batch", 4, "height", "width"]}
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, axes) for name, axes in shapes.items()]
    graph = onnx.helper.make_graph([node], "net", values[:1], values[1:], [onnx.numpy_helper.from_array(weights, "w")])
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _export(model: Path, target: str, out: Path) -> Path:
    options = ExportOptions(out, sizes=({"height": 16, "width": 16}, {"height": 24, "width": 16}))
    with Exporter(str(model), options, lambda line: None) as exporter:
        return exporter.export(resolve(target)).bundle.path


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export(model, "onnxruntime:cpu", tmp_path_factory.mktemp("out"))


# -- which proof -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "cpu"),
    [("raspberry-pi-4", "cortex-a72"), ("raspberry-pi-5", "cortex-a76"), ("android-arm64", "cortex-a76")],
)
def test_an_arm_device_is_emulated_with_its_own_processor(
    monkeypatch: pytest.MonkeyPatch, device: str, cpu: str
) -> None:
    asked = []
    monkeypatch.setattr(proof_module, "installed_python", lambda name: asked.append(name) or ("qemu", "python"))
    proof = proof_for(_candidate(device))
    assert (proof.executed_on, proof.python, dict(proof.env)) == ("emulated", ("qemu", "python"), {"QEMU_CPU": cpu})
    assert asked == ["arm64"]
    assert proof.record()["emulation"]["cpu"] == cpu
    assert not proof.notice


def test_without_the_toolchain_this_processor_is_named_and_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proof_module, "installed_python", lambda name: ())
    proof = proof_for(_candidate("raspberry-pi-5"))
    assert (proof.executed_on, proof.python, proof.record()) == ("this-cpu", (), {})
    assert proof.notice.endswith("to emulate it: avsdk toolchain install arm64")


def test_another_arm_machine_needs_no_emulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof_module.host, "probe", lambda: SimpleNamespace(arch="aarch64"))
    monkeypatch.setattr(proof_module, "is_here", lambda profile: False)
    monkeypatch.setattr(proof_module, "installed_python", lambda name: pytest.fail("it was asked for"))
    assert proof_for(_candidate("raspberry-pi-5")).executed_on == "this-cpu"


def test_the_device_itself_needs_none_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof_module, "is_here", lambda profile: True)
    assert proof_for(_candidate("raspberry-pi-5")).executed_on == "device"
    assert proof_for(_candidate("this-cpu")).executed_on == "device"


# -- the budget of slow samples ----------------------------------------------------------------------------------------


def test_under_a_budget_the_smallest_sample_runs_and_the_rest_is_counted(bundle: Path) -> None:
    everything = run_golden(str(bundle), 1, "emulated")
    assert everything["left_out"] == []
    least = run_golden(str(bundle), 1, "emulated", budget_s=0.0)
    (whole,), (one,) = everything["parity"], least["parity"]
    assert (one["samples"], one["verdict"]) == (1, "pass")
    left = whole["samples"] - 1
    assert left >= 1
    plural = "s" if left > 1 else ""
    assert least["left_out"] == [f"{left} golden sample{plural} of model left out, which would take too long here"]


def test_the_record_of_a_bundle_says_what_was_left_out(bundle: Path) -> None:
    parity = verify_bundle(bundle, executed_on="emulated", threads=1, budget_s=0.0).parity
    assert (parity.verdict, parity.executed_on, parity.samples) == ("pass", "emulated", 1)
    assert "of model left out" in parity.reason


def test_availability_is_asked_where_the_bundle_runs(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "absent_engine", lambda manifest: "asked here")
    assert verify_bundle(bundle).parity.reason == "no device here: asked here"
    assert run_golden(str(bundle), 1, "emulated")["parity"][0]["reason"] == "no device here: asked here"
    monkeypatch.setattr(verify, "call_in_child", lambda *_, **given: pytest.fail(f"asked {given['python'][0]}"))
    with pytest.raises(pytest.fail.Exception, match="asked another-python"):
        verify_bundle(bundle, python=("another-python",))


def test_a_python_without_entry_points_is_lent_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    known = plugins.offered("engines", "predictors")
    assert known["engines"]["litert"] == "avsdk.engines.litert:LiteRtSession"
    monkeypatch.setattr(plugins, "_entries", {"engines": {}, "predictors": {}}.__getitem__)
    plugins.lend(known)
    assert plugins.load("engines", "litert").engine == "litert"


# -- verifying again ---------------------------------------------------------------------------------------------------


def _manifest(bundle: Path, emulation: object) -> Manifest:
    return replace(open_bundle(bundle).manifest, measured={"emulation": emulation})


def test_a_bundle_is_verified_again_by_its_own_record(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "installed_python", lambda name: ("qemu", name))
    monkeypatch.setattr(verify.platform, "machine", lambda: "x86_64")
    record = {"toolchain": "arm64", "cpu": "cortex-a76", "budget_s": 60.0}
    found = emulation_of(_manifest(bundle, record))
    assert found["env"] == {"QEMU_CPU": "cortex-a76"}
    assert (found["python"], found["executed_on"]) == (("qemu", "arm64"), "emulated")
    assert emulation_of(open_bundle(bundle).manifest) == {}
    for words in ((), ("the/python/of/a/toolchain/that/emulates/nothing",)):
        monkeypatch.setattr(verify, "installed_python", lambda name, words=words: words)
        assert emulation_of(_manifest(bundle, record)) == {}
    monkeypatch.setattr(verify.platform, "machine", lambda: "aarch64")
    assert emulation_of(_manifest(bundle, record)) == {}


@pytest.mark.parametrize(
    "record",
    [
        {"toolchain": "../../evil", "cpu": "max", "budget_s": 1},
        {"toolchain": "arm64", "cpu": "max -plugin x.so", "budget_s": 1},
        {"toolchain": "arm64", "cpu": "max"},
        {"toolchain": "arm64", "cpu": "max", "budget_s": "long"},
        {"toolchain": "arm64", "cpu": "max", "budget_s": 10**400},
        ["arm64"],
    ],
)
def test_a_record_that_names_something_else_is_refused(bundle: Path, record: object) -> None:
    with pytest.raises(BundleRefused, match="the bundle records the emulation"):
        emulation_of(_manifest(bundle, record))


# -- the real thing ----------------------------------------------------------------------------------------------------


@pytest.fixture
def arm64() -> tuple[str, ...]:
    python = installed_python("arm64")
    if not python:
        error = missing(load_toolchain("arm64"))
        pytest.skip(f"{error.failed}; {error.fix}")
    return python


def test_a_bundle_for_a_raspberry_pi_is_run_by_the_wheels_of_its_processor(
    arm64: tuple[str, ...], model: Path, tmp_path: Path
) -> None:
    path = _export(model, "raspberry-pi-5" if _litert_builds() else "onnxruntime:cpu", tmp_path)
    manifest = open_bundle(path).manifest
    if manifest.target != "raspberry-pi-5":  # nothing here builds for it; the other engine's files serve it as well
        proof = proof_for(_candidate("raspberry-pi-5"))
        manifest = replace(manifest, measured={**manifest.measured, **proof.record()})
        write_manifest(path, manifest)
    document = json.loads(CliRunner().invoke(root_app(), ["bundle", "verify", str(path), "--run", "--json"]).stdout)
    assert document["parity"]["executed_on"] == "emulated"
    assert document["parity"]["verdict"] == "pass"
    assert document["parity"]["outputs"][0]["snr_db"] > 100
    assert document["effective_precision"] == {"model": "fp32"}


def _litert_builds() -> bool:
    return bool(installed_python("onnx2tf"))


def test_the_child_is_the_processor_that_was_asked_for(arm64: tuple[str, ...]) -> None:
    import subprocess

    code = "import platform; print(platform.machine(), open('/proc/cpuinfo').read().split('CPU part')[1][:8])"
    for cpu, part in (("cortex-a72", "0xd08"), ("cortex-a76", "0xd0b")):
        said = subprocess.run(
            [*arm64, "-I", "-c", code], env={"QEMU_CPU": cpu}, capture_output=True, text=True, check=True
        ).stdout
        assert said.startswith("aarch64")
        assert part in said
