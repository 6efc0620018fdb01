"""Targets: names, aliases, engine:device pairs, lists."""

from __future__ import annotations

import pytest

from avsdk import nvidia
from avsdk.errors import UnknownName, UsageError
from avsdk_targets.device import list_devices
from avsdk_targets.target import all_targets, baseline_targets, known_targets, resolve, resolve_list


@pytest.mark.parametrize(
    ("text", "engine", "device", "profile"),
    [
        ("tensorrt", "tensorrt", "this-gpu", "this-gpu"),
        ("openvino", "openvino", "cpu", "this-cpu"),
        ("onnxruntime", "onnxruntime", "cpu", "this-cpu"),
        ("tflite", "litert", "cpu", "this-cpu"),
        ("litert", "litert", "cpu", "this-cpu"),
        ("xeon", "openvino", "cpu", "xeon-8480"),
        ("movidius", "openvino_myriad", "myriad-x", "myriad-x"),
        ("ncs2", "openvino_myriad", "myriad-x", "myriad-x"),
        ("arria10", "openvino_fpga", "fpga", "arria10-gx1150"),
        ("tpu", "xla", "tpu", "tpu-v5e"),
        ("edge", "litert", "cpu", "raspberry-pi-5"),
        ("this-cpu", "openvino", "cpu", "this-cpu"),
        ("cpu", "openvino", "cpu", "this-cpu"),
        ("rtx-4090", "tensorrt", "rtx-4090", "rtx-4090"),
        ("openvino:cpu", "openvino", "cpu", "this-cpu"),
        ("openvino:gpu", "openvino", "gpu", "openvino:gpu"),
        ("openvino:npu", "openvino", "npu", "openvino:npu"),
        ("openvino:npu-4000", "openvino", "npu", "npu-4000"),
        ("openvino:hetero:gpu+cpu", "openvino", "hetero:gpu+cpu", "openvino:hetero:gpu+cpu"),
        ("onnxruntime:cuda", "onnxruntime", "cuda", "this-gpu"),
        ("onnxruntime:a100", "onnxruntime", "cuda", "a100"),
        ("litert:cpu", "litert", "cpu", "this-cpu"),
        ("litert:raspberry-pi-4", "litert", "cpu", "raspberry-pi-4"),
        ("tensorrt:a100", "tensorrt", "a100", "a100"),
        ("tensorrt_rtx:rtx-3090", "tensorrt_rtx", "rtx-3090", "rtx-3090"),
        ("torch:cpu", "torch", "cpu", "torch:cpu"),
        ("torch:cuda", "torch", "cuda", "torch:cuda"),
        ("xla:cpu", "xla", "cpu", "this-cpu"),
        ("xla:tpu-v4", "xla", "tpu", "tpu-v4"),
        ("openvino_myriad", "openvino_myriad", "myriad-x", "myriad-x"),
        ("openvino_fpga", "openvino_fpga", "fpga", "arria10-gx1150"),
    ],
)
def test_resolves_names_aliases_and_engine_device_pairs(text: str, engine: str, device: str, profile: str) -> None:
    target = resolve(text)
    assert target.name == text
    first = target.candidates[0]
    assert (first.engine, first.device, first.profile.name) == (engine, device, profile)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("openvimo", "openvino"),
        ("openvino:gpuu", "gpu"),
        ("rtx-4080", "rtx-4090"),
        ("onnxruntim", "onnxruntime"),
        ("quadro-rtx-600", "quadro-rtx-6000"),
        ("openvino:xeon-8481", "xeon-8480"),
        ("openvino:", "cpu"),
        ("openvino:rtx-4090", "this-cpu"),
    ],
)
def test_misspelt_target_names_the_nearest(text: str, near: str) -> None:
    with pytest.raises(UnknownName) as caught:
        resolve(text)
    assert near in str(caught.value)


def test_a_device_has_its_engines_in_the_order_of_its_profile() -> None:
    found = [(item.engine, item.device, item.arch) for item in resolve("a100").candidates]
    assert found == [("tensorrt", "a100", "sm80"), ("tensorrt_rtx", "a100", "sm80"), ("onnxruntime", "cuda", "sm80")]


def test_this_gpu_takes_its_architecture_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "local_gpus", lambda: (nvidia.Gpu(0, "NVIDIA X", "sm86", 1024, "570.86"),))
    assert {item.arch for item in resolve("this-gpu").candidates} == {"sm86"}
    monkeypatch.setattr(nvidia, "local_gpus", tuple)
    assert {item.arch for item in resolve("tensorrt").candidates} == {""}


def test_a_list_keeps_its_order_and_drops_repeats() -> None:
    assert [target.name for target in resolve_list("openvino, rtx-3090,openvino")] == ["openvino", "rtx-3090"]
    hetero = resolve_list("openvino:hetero:gpu+cpu,litert")
    assert [target.candidates[0].device for target in hetero] == ["hetero:gpu+cpu", "cpu"]
    with pytest.raises(UnknownName):
        resolve_list(" , ")


def test_a_graph_is_not_placed_in_silence() -> None:
    with pytest.raises(UsageError, match="'encoder=openvino:cpu' places one graph") as caught:
        resolve_list("encoder=openvino:cpu,decoder=litert:cpu")
    assert caught.value.fix == "--target openvino:cpu"


def test_all_names_every_engine_of_this_processor_and_every_device_once() -> None:
    names = [target.name for target in resolve_list("all")]
    assert names == list(all_targets())
    assert len(names) == len(set(names))
    assert set(names) >= {device.name for device in list_devices()} - {"this-cpu"}
    assert {"openvino:cpu", "onnxruntime:cpu", "litert:cpu"} <= set(names)


def test_the_baseline_engine_is_diagnosed_and_never_exported_with_all() -> None:
    assert baseline_targets() == ("torch:cpu", "torch:cuda")
    assert not set(baseline_targets()) & set(all_targets())


@pytest.mark.parametrize(
    ("name", "asked", "built"),
    [
        ("openvino", None, "fp32"),
        ("xeon", None, "fp32"),
        ("quadro-rtx-6000", None, "fp16"),
        ("quadro-rtx-6000", "fp32", "fp32"),
        ("myriad-x", None, "fp16"),
        ("coral-edge-tpu", None, "int8"),
        ("openvino:gpu", None, "fp32"),
        ("openvino:gpu", "fp16", "fp16"),
    ],
)
def test_the_default_precision_is_the_first_of_the_profile(name: str, asked: str | None, built: str) -> None:
    assert resolve(name).precision(asked) == built


def test_every_known_name_resolves() -> None:
    for name in known_targets():
        assert resolve_list(name)
