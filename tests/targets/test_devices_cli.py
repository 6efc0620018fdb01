"""``avsdk devices`` and ``avsdk doctor`` as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from avsdk.errors import AvsdkError, UnknownName
from avsdk_targets import doctor
from avsdk_targets.cli import app
from avsdk_targets.device import list_devices
from avsdk_targets.doctor import Diagnosis

AVSDK = Path(sys.executable).parent / "avsdk"
ALIASES = """tensorrt openvino onnxruntime tflite litert xeon movidius ncs2 arria10 tpu edge openvino:cpu openvino:gpu
    openvino:npu openvino:hetero:gpu+cpu onnxruntime:cpu onnxruntime:cuda litert:cpu tensorrt:a100 torch:cpu torch:cuda
    xla:cpu xla:tpu-v4 openvino_myriad openvino_fpga tensorrt_rtx tensorrt_rtx:rtx-3090""".split()


def typed(*words: str, code: int = 0) -> str:
    """What the command prints on standard output; an error of ours is raised, as the root command would see it."""
    done = CliRunner().invoke(app, list(words), catch_exceptions=True)
    if isinstance(done.exception, AvsdkError):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout


def document(*words: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(typed(*words, "--json", code=code))
    return found


@pytest.mark.parametrize("alias", ALIASES)
def test_the_doctor_knows_every_alias(alias: str) -> None:
    rows = document("doctor", alias)["targets"]
    assert rows
    for row in rows:
        assert row["target"] == alias
        assert set(row) >= {"target", "engine", "can_compile", "can_run", "verified", "reason", "fix"}


def test_an_alias_on_the_real_command_line() -> None:
    done = subprocess.run([AVSDK, "doctor", "onnxruntime", "--json"], capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)["targets"][0]
    assert (row["engine"], row["device"], row["can_run"], row["verified"]) == ("onnxruntime", "cpu", True, "hardware")


def test_a_withdrawn_device_is_exit_3_with_the_reason() -> None:
    done = subprocess.run([AVSDK, "doctor", "nervana-nnp-t"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "Intel ended Nervana" in done.stdout
    assert document("doctor", "nervana-nnp-i", code=3)["targets"][0]["can_compile"] is False


@pytest.mark.parametrize("name", ["toaster", "", "openvino,litert"])
def test_an_unknown_target_is_refused(name: str) -> None:
    with pytest.raises(UnknownName, match=f"unknown target '{name}'"):
        typed("doctor", name)


def test_all_is_every_target_and_is_exit_0_although_some_are_withdrawn() -> None:
    found = document("doctor", "all")["targets"]
    assert {device.name for device in list_devices()} - {"this-cpu"} <= {row["target"] for row in found}


def test_the_catalogue_is_listed_by_vendor_within_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    text = typed("devices")
    lines = text.splitlines()
    for vendor in ("This machine", "Google", "Intel", "NVIDIA", "Raspberry Pi"):
        assert vendor in [line.strip() for line in lines]
    assert all(device.name in text for device in list_devices())


def test_one_device_shows_figures_with_source_and_mark_and_what_can_be_done() -> None:
    text = typed("devices", "ncs2")
    for wanted in (
        "myriad-x: Intel Movidius", "also called: movidius, ncs2", "openvino_myriad (as myriad-x)", "shaves = 6",
        "memory (MiB): 512, datasheet", "as quoted by", "memory bandwidth (GB/s): not published, or not found",
        "openvino to 2022.3, datasheet", "compile", "verified",
    ):  # fmt: skip
        assert wanted in text


def test_options_in_tables_are_shown_by_both_names() -> None:
    text = typed("devices", "arria10")
    assert "dsps = 1518, fp11.architecture = A10_Performance, fp11.fmax_mhz = 275" in text


def test_devices_that_lack_the_same_share_a_line_and_a_fix_that_fits_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(device: str, fix: str) -> Diagnosis:
        return Diagnosis(device, "tensorrt", device, (), False, False, "contract", "no driver", fix)

    found = (lacking("t4", "go to a machine with t4"), lacking("a100", "go to a machine with a100"))
    monkeypatch.setattr(doctor, "diagnose", lambda name: found)
    lines = typed("doctor").splitlines()
    assert lines[-2:] == ["t4, a100: no driver", "  fix: go to a machine with that device"]
    monkeypatch.setattr(doctor, "diagnose", lambda name: found[:1])
    assert typed("doctor", "t4").splitlines()[-2:] == ["t4: no driver", "  fix: go to a machine with t4"]


def test_a_withdrawn_device_is_shown_with_its_figures_and_the_reason() -> None:
    text = typed("devices", "nervana-nnp-t")
    assert "peak bf16 (TFLOP/s): 93.4, datasheet" in text
    assert "Intel ended Nervana" in text


def test_this_machine_has_no_figures_of_the_catalogue() -> None:
    assert "Figures" not in typed("devices", "cpu")


def test_one_device_as_json_has_its_profile_and_its_diagnosis() -> None:
    found = document("devices", "tpu")
    assert found["device"]["name"] == "tpu-v5e"
    assert found["device"]["peaks"]["bf16"] == {
        "value": 197.0, "source": "https://docs.cloud.google.com/tpu/docs/v5e", "mark": "datasheet",
    }  # fmt: skip
    assert [row["engine"] for row in found["targets"]] == ["xla"]
    assert len(document("devices")["devices"]) == len(list_devices())


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("onnxruntime", "next: avsdk export zoo:style_transfer/wave --target onnxruntime"),
        ("xeon", "next: avsdk export zoo:style_transfer/wave --target xeon"),
        ("torch", "next: avsdk bench zoo:style_transfer/wave --target torch"),
        ("torch:cpu", "next: avsdk bench zoo:style_transfer/wave --target torch:cpu"),
        ("nervana-nnp-i", "next: avsdk devices"),
    ],
)
def test_the_next_step_is_a_build_that_can_succeed(name: str, line: str) -> None:
    done = CliRunner().invoke(app, ["doctor", name])
    assert done.stderr.splitlines()[-1] == line
