"""Device profiles: what a file may say, and the error for what it may not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from avsdk.errors import Refused, UnknownName
from avsdk_targets.device import device_from_file, list_devices, load_device, require_distinct

SOUND = """schema = 1
name = "toy"
description = "a toy"
engines = ["openvino"]
engine_device = "cpu"
arch = "x86_64"
precisions = ["fp32"]

[peaks.fp32]
value = 1.5
source = "counted"
mark = "computed"

[served.openvino]
product = "openvino"
first = ""
last = ""
source = "tried"
mark = "unconfirmed"
"""


def profile(folder: Path, text: str) -> Path:
    file = folder / "toy.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_sound_profile_is_read_whole(tmp_path: Path) -> None:
    device = device_from_file(profile(tmp_path, SOUND))
    assert device.called_by("openvino") == "cpu"
    assert device.figures["peak fp32 (TFLOP/s)"] == device.peaks["fp32"]
    assert device.figures["memory (MiB)"] is None


def test_an_engine_may_have_a_word_of_its_own(tmp_path: Path) -> None:
    device = device_from_file(profile(tmp_path, SOUND + '\n[engine_devices]\nonnxruntime = "cuda"\n'))
    assert (device.called_by("onnxruntime"), device.called_by("openvino")) == ("cuda", "cpu")
    assert replace(device, engine_device="").called_by("openvino") == "toy"


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('arch = "x86_64"', 'arch = "x86_64"\nspeed = 3', "unknown key 'speed'"),
        ('["openvino"]', '["openvimo"]', "unknown engine 'openvimo'"),
        ("[served.openvino]", "[served.openvimo]", "unknown engine 'openvimo'"),
        ('["fp32"]', '["fp31"]', "unknown precision 'fp31'"),
        ('["fp32"]', "[]", "no precision or no description"),
        ('"a toy"', '""', "no precision or no description"),
        ("[peaks.fp32]", "[peaks.fp31]", "unknown peak 'fp31'"),
        ("value = 1.5", "value = -1.5", "gives -1.5 as peak fp32"),
        ("value = 1.5", "value = 0", "gives 0 as peak fp32"),
        ("value = 1.5", "value = nan", "gives nan as peak fp32"),
        ("value = 1.5", 'value = "1.5"', "value"),
        ('"counted"', '""', "without a source"),
        ('"computed"', '"guessed"', "'guessed'"),
        ('source = "tried"', 'source = ""', "lacks its product or its source"),
        ('"x86_64"', '"x87"', "unknown arch 'x87'"),
        ('"x86_64"', '"sm8"', "unknown arch 'sm8'"),
        ('name = "toy"', 'name = "tay"', "names the device 'tay'"),
        ('name = "toy"', 'name = "toy"\naliases = ["A toy"]', "has the name 'A toy'"),
        ('["openvino"]', "[]", "no engine"),
        ("schema = 1", "schema = 2", "schema 2"),
        ("schema = 1", "schema =", "is not TOML"),
    ],
)
def test_an_unsound_profile_is_refused_with_the_value(tmp_path: Path, old: str, new: str, error: str) -> None:
    assert old in SOUND
    with pytest.raises(Refused, match=error) as caught:
        device_from_file(profile(tmp_path, SOUND.replace(old, new, 1)))
    assert caught.value.exit_code == 5
    assert "toy.toml" in str(caught.value)


def test_a_withdrawn_device_needs_no_engine(tmp_path: Path) -> None:
    text = SOUND.replace('["openvino"]', "[]").replace('arch = "x', 'withdrawn = "given up"\narch = "x')
    assert device_from_file(profile(tmp_path, text)).withdrawn == "given up"


@pytest.mark.parametrize("alias", ["xeon-8480", "xeon", "pi4"])
def test_two_profiles_may_not_share_a_name_or_an_alias(alias: str) -> None:
    twin = replace(load_device("xeon-8180"), name="twin", aliases=(alias,))
    with pytest.raises(Refused, match=f"both answer to '{alias}'"):
        require_distinct([*list_devices(), twin])


def test_an_unknown_device_gets_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="did you mean 'h200'"):
        load_device("h201")
