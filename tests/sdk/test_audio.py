"""Sounds from files, checked before they are decoded, and the predictor that answers them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avsdk import sound
from avsdk.bundle import Artifact, Bundle, Manifest, open_bundle, write_manifest
from avsdk.errors import BundleRefused, SizeNotBuilt, UnusableInput, UsageError
from avsdk.parity import Parity
from avsdk.predictor import predictor_for
from avsdk.spec import AxisRange, GraphSpec, ModelSpec, Step, TensorSpec

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")
pytest.importorskip("onnxruntime")

RATE = 8000
BEFORE = (Step("sound_mono", {"sample_rate_hz": RATE}), Step("batch"))


def bundle(folder: Path, before: tuple[Step, ...], after: tuple[Step, ...], shapes: dict[str, int] | None) -> Bundle:
    """y = -x on (1, samples)."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "minus"], ["y"])], "negate",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "samples"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "samples"])],
        [numpy_helper.from_array(np.array(-1, np.float32), "minus")],
    )  # fmt: skip
    (folder / "model").mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model/g.onnx"
    )
    tensors = [TensorSpec(name, "float32", (1, "samples")) for name in ("x", "y")]
    spec = GraphSpec("g", (tensors[0],), (tensors[1],), {"samples": AxisRange(10, 16000, 1, 8000)})
    manifest = Manifest(
        avsdk="0", spec=ModelSpec("negate", "audio", (spec,), before, after), target="onnxruntime",
        engine="onnxruntime", device="cpu", precision="fp32", effective_precision="fp32", source={},
        artifacts=(Artifact("g", "onnxruntime", "cpu", "fp32", ("model/g.onnx",), shapes),), golden={}, built_with={},
        parity=Parity.not_run("a test"), model={"g": "model/g.onnx"},
    )  # fmt: skip
    write_manifest(folder, manifest)
    return open_bundle(folder)


def predictor(folder: Path, after: tuple[Step, ...] = (Step("sound_out"),), **options: Any) -> Any:
    made = bundle(folder / "bundle", options.pop("before", BEFORE), after, options.pop("shapes", None))
    return predictor_for(made, threads=1, settings=options)


def tone(rate: int, seconds: float = 1.0, channels: int = 1) -> Any:
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)
    return np.stack([wave] * channels, axis=1)


@pytest.mark.parametrize("kind", [".wav", ".flac"])
def test_a_sound_in_a_sound_out_at_the_rate_of_the_model(tmp_path: Path, kind: str) -> None:
    source, out = tmp_path / f"in{kind}", tmp_path / f"out{kind}"
    soundfile.write(source, tone(44100, channels=2), 44100)
    with predictor(tmp_path) as model:
        assert model.output_name(source) == source.name
        model.run_file(source, out)
    heard, rate = soundfile.read(out)
    assert (rate, heard.shape) == (RATE, (RATE,))
    middle = slice(1000, 7000)
    assert np.allclose(heard[middle], -tone(RATE)[middle, 0], atol=2e-3)


def test_an_array_is_taken_at_the_rate_of_the_model(tmp_path: Path) -> None:
    heard = tone(RATE)[:, 0]
    with predictor(tmp_path) as model:
        assert np.allclose(model(heard), -heard, atol=1e-6)
        assert model.accepts(heard)
        assert not model.accepts(np.zeros(20000, np.float32))
        with pytest.raises(UnusableInput, match="the sound is a list"):
            model([0.0, 1.0])


def test_without_postprocessing_the_tensors_are_written(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", tone(RATE), RATE)
    with predictor(tmp_path, ()) as model:
        assert model.output_name(tmp_path / "in.wav") == "in.npz"
        model.run_file(tmp_path / "in.wav", tmp_path / "out.npz")
        with pytest.raises(UsageError, match="cannot be written as 'out.wav'"):
            model.run_file(tmp_path / "in.wav", tmp_path / "out.wav")
    with np.load(tmp_path / "out.npz") as answer:
        assert answer["y"].shape == (1, RATE)


def test_labels_are_written_as_json(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", np.linspace(-0.5, 0.5, 16), RATE)
    with predictor(tmp_path, (Step("softmax"), Step("top_k", {"k": 2}))) as model:
        assert model.output_name(tmp_path / "in.wav") == "in.json"
        model.run_file(tmp_path / "in.wav", tmp_path / "out.json")
    assert [item["index"] for item in json.loads((tmp_path / "out.json").read_text())] == [0, 1]


def test_a_sound_that_is_too_long_is_refused_with_the_range_in_seconds(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", tone(RATE, 3.0), RATE)
    with predictor(tmp_path) as model, pytest.raises(SizeNotBuilt, match="lasts 3.00 s, 24000 samples") as caught:
        model.run_file(tmp_path / "in.wav", tmp_path / "out.wav")
    assert caught.value.expected == "10..16000"
    assert "fit_samples" in caught.value.fix
    assert not (tmp_path / "out.wav").exists()


def test_a_size_that_was_not_built_is_refused_with_the_line_that_builds_it(tmp_path: Path) -> None:
    with predictor(tmp_path, shapes={"samples": 8000}) as model:
        assert model.accepts(np.zeros(8000, np.float32))
        assert not model.accepts(np.zeros(9000, np.float32))
        with pytest.raises(SizeNotBuilt, match="was not built for samples=9000") as caught:
            model(np.zeros(9000, np.float32))
    assert "--axis samples=9000" in caught.value.fix


def test_steps_that_do_not_begin_with_a_rate_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match="does not say at which rate"):
        predictor(tmp_path, before=())


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("empty.wav", b"", "is empty"),
        ("text.wav", b"no sound at all", "is not a sound"),
        ("list.wav", b"#EXTM3U\nfile:///etc/passwd\n", "is not a sound"),
        ("header.wav", b"RIFF\x04\0\0\0WAVE", "cannot be decoded"),
        ("broken.flac", b"fLaC" + b"\0" * 60, "cannot be decoded"),
    ],
)
def test_what_is_no_sound_is_refused(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnusableInput, match=text):
        sound.read_sound(tmp_path / name, RATE)


def test_what_is_missing_truncated_silent_or_endless_is_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.wav"
    soundfile.write(good, tone(RATE), RATE)
    (tmp_path / "cut.wav").write_bytes(good.read_bytes()[:5000])
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 1)), RATE)
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan]), RATE, subtype="FLOAT")
    for name, text in (
        ("cut.wav", "is truncated: it promises 16044 bytes and has 5000"),
        ("none.wav", "holds no samples"),
        ("nan.wav", "samples that are no numbers"),
        ("absent.wav", "does not exist"),
    ):
        with pytest.raises(UnusableInput, match=text):
            sound.read_sound(tmp_path / name, RATE)
    with pytest.raises(UnusableInput, match="lasts 1 s with 1 channels") as caught:
        sound.read_sound(good, RATE, max_seconds=0)
    assert "max_seconds" in caught.value.fix


def test_a_written_sound_is_clipped_and_whole(tmp_path: Path) -> None:
    sound.write_sound(tmp_path / "a.wav", np.array([2.0, -2.0, 0.5], np.float32), RATE)
    heard, _ = soundfile.read(tmp_path / "a.wav")
    assert np.allclose(heard, [1, -1, 0.5], atol=1e-4)
    with pytest.raises(UsageError, match="cannot be written as 'a.mp3'"):
        sound.write_sound(tmp_path / "a.mp3", np.zeros(3, np.float32), RATE)
    assert [item.name for item in tmp_path.iterdir()] == ["a.wav"]
