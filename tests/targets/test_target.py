"""Targets and the catalogue of devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from avsdk.errors import Refused, UnknownName
from avsdk_targets import device as device_module
from avsdk_targets.device import list_devices, load_device
from avsdk_targets.target import all_targets, known_targets, resolve, resolve_list


@pytest.mark.parametrize(
    ("text", "engine", "device"),
    [
        ("onnxruntime", "onnxruntime", "cpu"),
        ("openvino", "openvino", "cpu"),
        ("openvino:cpu", "openvino", "cpu"),
        ("tflite", "litert", "cpu"),
        ("litert", "litert", "cpu"),
        ("this-cpu", "openvino", "cpu"),
        ("cpu", "openvino", "cpu"),
        ("rtx-4090", "tensorrt_rtx", "rtx-4090"),
        ("tensorrt_rtx:rtx-3090", "tensorrt_rtx", "rtx-3090"),
    ],
)
def test_resolves_names_aliases_and_engine_device_pairs(text: str, engine: str, device: str) -> None:
    target = resolve(text)
    assert target.name == text
    assert (target.candidates[0].engine, target.candidates[0].device) == (engine, device)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("openvimo", "openvino"),
        ("openvino:gpu", "openvino:cpu"),
        ("rtx-4080", "rtx-4090"),
        ("onnxruntim", "onnxruntime"),
        ("quadro-rtx-600", "quadro-rtx-6000"),
        ("openvino:rtx-4090", "this-cpu"),
    ],
)
def test_misspelt_target_names_the_nearest(text: str, near: str) -> None:
    with pytest.raises(UnknownName) as caught:
        resolve(text)
    assert caught.value.exit_code == 2
    assert near in str(caught.value)


def test_a_list_is_resolved_in_order_and_once() -> None:
    assert [target.name for target in resolve_list("openvino, rtx-3090,openvino")] == ["openvino", "rtx-3090"]
    assert [target.name for target in resolve_list("all")] == list(all_targets())
    with pytest.raises(UnknownName):
        resolve_list(" , ")


def test_default_precision_is_fp32_unless_the_device_lacks_it() -> None:
    assert resolve("openvino").precision(None) == "fp32"
    assert resolve("quadro-rtx-6000").precision(None) == "fp16"
    assert resolve("quadro-rtx-6000").precision("fp32") == "fp32"


def test_every_known_name_resolves() -> None:
    for name in known_targets():
        assert resolve_list(name)


def test_every_profile_marks_its_figures() -> None:
    for item in list_devices():
        figures = [*item.peaks.values(), *(figure for figure in (item.bandwidth_gb_s, item.power_w) if figure)]
        for figure in figures:
            assert figure.value > 0
            assert figure.source
        assert set(item.precisions) <= {"fp32", "fp16", "fp16w", "bf16", "int8"}
        assert load_device(item.name) is item


def test_a_profile_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('schema = 1\nname="x"\ndescription=""\nengines=[]\narch=""\nprecisions=[]\nspeed=3\n')
    with pytest.raises(Refused, match="unknown key 'speed'"):
        device_module._device_from_file(file)
