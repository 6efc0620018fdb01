"""The operations around models from elsewhere: sizes, colours, statistics, answers, and those on sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsdk.errors import BundleRefused, UnusableInput
from avsdk.ops import Trace, answers, audio, image_pipelines, known_operations, picture, pipelines_for
from avsdk.ops.image import image_rgb, to_nchw_float
from avsdk.spec import Step

RANDOM = np.random.default_rng(0)


def photo(height: int, width: int) -> Any:
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


def run(media: str, steps: list[Step], value: Any, trace: Trace | None = None) -> Any:
    before, _ = pipelines_for(media, steps, ())
    return before(value, trace or Trace())


def test_sizes() -> None:
    shown = photo(40, 80)
    assert picture.resize(shown, Trace(), height=10, width=20).shape == (10, 20, 3)
    assert picture.resize(shown, Trace(), height=40, width=80) is shown
    assert picture.resize_shorter(shown, Trace(), size=20).shape == (20, 40, 3)
    assert picture.resize_shorter(shown.transpose(1, 0, 2), Trace(), size=20).shape == (40, 20, 3)
    assert (picture.center_crop(shown, Trace(), height=20, width=20) == shown[10:30, 30:50]).all()
    assert picture.resize(np.stack([shown, shown]), Trace(), height=10, width=20).shape == (2, 10, 20, 3)
    with pytest.raises(UnusableInput, match="has 80x40 pixels here"):
        picture.center_crop(shown, Trace(), height=41, width=20)


def test_colours() -> None:
    shown = np.array([[[10, 20, 30]]], np.uint8)
    assert picture.bgr(shown, Trace()).tolist() == [[[30, 20, 10]]]
    assert picture.grey(shown, Trace()).tolist() == [[[round(0.299 * 10 + 0.587 * 20 + 0.114 * 30)]]]


@pytest.mark.parametrize("layout", ["to_nchw_float", "to_nhwc_float"])
def test_mean_and_deviation_per_channel_in_either_layout(layout: str) -> None:
    shown, trace = photo(4, 5), Trace()
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    steps = [Step("image_rgb"), Step(layout, {"scale": 1 / 255}), Step("normalise", {"mean": mean, "std": std})]
    tensor = run("image", steps, shown, trace)
    wanted = (shown / 255 - mean) / std
    found = tensor[0].transpose(1, 2, 0) if layout == "to_nchw_float" else tensor[0]
    assert tensor.dtype == np.float32
    assert np.allclose(found, wanted, atol=1e-5)
    back = picture.denormalise(tensor, trace, mean=mean, std=std)
    assert np.allclose(
        back * 255, to_nchw_float(shown, Trace()) if layout == "to_nchw_float" else shown[None], atol=1e-3
    )


def test_frames_come_back_from_channels_last() -> None:
    frames, trace = np.stack([photo(4, 5)] * 2), Trace()
    image_rgb(frames, trace)
    tensor = picture.to_nhwc_float(frames, trace, scale=0.5)
    assert np.allclose(picture.from_nhwc_float(tensor, trace, scale=0.5), frames)
    trace.single = True
    assert picture.from_nhwc_float(tensor[:1], trace).shape == (4, 5, 3)


def test_a_class_map_becomes_a_picture_of_the_input_size() -> None:
    trace = Trace(height=4, width=6)
    scores = np.zeros((1, 3, 2, 3), np.float32)
    scores[0, [0, 1, 2, 2, 1, 0], [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]] = 1
    classes = picture.class_map(scores, trace)
    assert classes.tolist() == [[0, 1, 2], [2, 1, 0]]
    shown = picture.colours(classes, trace, palette=[[0, 0, 0], [255, 0, 0]])
    assert shown.dtype == np.uint8
    assert shown[0].tolist() == [[0, 0, 0], [255, 0, 0], [0, 0, 0]], "a short palette is repeated"
    large = picture.resize_to_input(shown, trace, mode="nearest")
    assert large.shape == (4, 6, 3)
    assert (large[::2, ::2] == shown).all()
    assert {tuple(colour) for colour in large.reshape(-1, 3).tolist()} == {(0, 0, 0), (255, 0, 0)}
    assert picture.resize_to_input(shown, trace).shape == (4, 6, 3)


def test_probabilities() -> None:
    scores = np.array([[1000.0, 999.0, -1000.0]], np.float32)
    found = answers.softmax(scores, Trace())
    assert found.dtype == np.float32
    assert np.allclose(found, [[0.7310586, 0.2689414, 0]], atol=1e-6)
    assert np.allclose(answers.sigmoid(np.array([-1e9, 0, 1e9], np.float32), Trace()), [0, 0.5, 1])


def test_the_best_labels() -> None:
    scores = np.array([[0.1, 0.7, 0.2]], np.float32)
    best = answers.top_k(scores, Trace(), k=2, labels=("a", "b", "c"))
    assert [(item["index"], item["label"]) for item in best] == [(1, "b"), (2, "c")]
    assert best[0]["score"] == pytest.approx(0.7)
    assert [item["label"] for item in answers.top_k(scores, Trace(), k=9)] == ["1", "2", "0"]
    several = answers.top_k(np.concatenate([scores, scores]), Trace(single=False), k=1)
    assert [item[0]["index"] for item in several] == [1, 1]
    with pytest.raises(BundleRefused, match="the labels are 2 lines, the model gives 3 scores"):
        answers.top_k(scores, Trace(), labels=("a", "b"))


def test_labels_are_read_from_an_asset(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("cat\ndog\n")
    steps = [Step("top_k", {"k": 1, "labels": "l.txt"})]
    _, after = image_pipelines((), steps, {"l.txt": tmp_path / "l.txt"})
    assert after(np.array([[0.1, 0.9]]), Trace())[0]["label"] == "dog"
    with pytest.raises(BundleRefused, match="names the asset 'l.txt'") as caught:
        image_pipelines((), steps, {})
    assert "[assets]" in caught.value.fix
    (tmp_path / "l.txt").write_bytes(b"\xff\xff")
    with pytest.raises(BundleRefused, match="cannot be read"):
        image_pipelines((), steps, {"l.txt": tmp_path / "l.txt"})


def test_a_sound_is_taken_as_floats_of_one_channel() -> None:
    trace = Trace()
    heard = audio.sound_mono(np.zeros(7), trace, sample_rate_hz=16000)
    assert (heard.dtype, trace.samples) == (np.float32, 7)
    for wrong in (np.zeros((2, 7)), np.zeros(7, np.int16), np.zeros(0)):
        with pytest.raises(UnusableInput, match="the sound is an array"):
            audio.sound_mono(wrong, Trace(), sample_rate_hz=16000)


def test_levels_of_a_sound() -> None:
    heard = np.array([0.1, -0.2, 0.05], np.float32)
    assert np.allclose(audio.peak(heard, Trace(), level=0.5), [0.25, -0.5, 0.125])
    assert not audio.peak(np.zeros(3, np.float32), Trace()).any()
    even = audio.standardise(heard, Trace())
    assert (abs(even.mean()) < 1e-6, even.std()) == (True, pytest.approx(1, abs=1e-3))


def test_lengths_of_a_sound() -> None:
    heard = np.arange(5, dtype=np.float32)
    assert audio.pad_samples(heard, Trace(), multiple=4).tolist() == [0, 1, 2, 3, 4, 0, 0, 0]
    assert audio.fit_samples(heard, Trace(), samples=3).tolist() == [0, 1, 2]
    assert audio.fit_samples(heard, Trace(), samples=6).tolist() == [0, 1, 2, 3, 4, 0]
    assert audio.batch(heard, Trace(), axes=2).shape == (1, 1, 5)
    assert audio.unbatch(heard[None, None], Trace()).shape == (5,)


@pytest.mark.parametrize("samples", [1, 8, 9, 16, 21])
def test_pieces_of_a_sound_join_to_the_sound(samples: int) -> None:
    heard, trace = RANDOM.standard_normal(samples).astype(np.float32), Trace()
    audio.sound_mono(heard, trace, sample_rate_hz=8000)
    pieces = audio.frames(heard, trace, length=8, hop=4)
    assert pieces.shape[1] == 8
    assert np.allclose(audio.overlap_add(pieces, trace, hop=4), heard, atol=1e-6)


def test_steps_that_would_take_all_memory_are_refused() -> None:
    with pytest.raises(UnusableInput, match="of 2000000 samples makes 1951425 pieces of 48576") as caught:
        audio.frames(np.zeros(2_000_000, np.float32), Trace(), length=48_576, hop=1)
    assert "cut the sound" in caught.value.fix
    with pytest.raises(UnusableInput, match="30000x1 pixels would be scaled to 480000000x16000"):
        picture.resize_shorter(photo(1, 30_000), Trace(), size=16_000)


def test_a_sound_to_be_written_is_as_long_as_the_one_that_came() -> None:
    trace = Trace(samples=3)
    assert audio.sound_out(np.array([[[0.5, -2, 2, 9]]]), trace).tolist() == [0.5, -1, 1]


@pytest.mark.parametrize(
    ("media", "step"),
    [
        ("image", Step("resize", {"height": 0, "width": 3})), ("image", Step("resize_shorter", {"size": True})),
        ("image", Step("center_crop", {"height": 3, "width": 99999})), ("image", Step("to_nhwc_float", {"scale": 0})),
        ("image", Step("normalise", {"mean": [0], "std": [0]})),
        ("image", Step("normalise", {"mean": [0, 0], "std": [1, 1]})),
        ("image", Step("normalise", {"mean": 0, "std": 1})), ("image", Step("colours", {"palette": [[0, 0]]})),
        ("image", Step("colours", {"palette": [[0, 0, 256]]})), ("image", Step("resize_to_input", {"mode": "cubic"})),
        ("image", Step("top_k", {"k": 0})), ("audio", Step("sound_mono", {"sample_rate_hz": 10})),
        ("audio", Step("peak", {"level": 2})), ("audio", Step("pad_samples", {"multiple": 0})),
        ("audio", Step("fit_samples", {"samples": "many"})), ("audio", Step("frames", {"length": 4, "hop": 5})),
        ("audio", Step("frames", {"length": "4", "hop": 2})), ("audio", Step("overlap_add", {"hop": 0})),
        ("audio", Step("batch", {"axes": 9})),
    ],
)  # fmt: skip
def test_parameters_out_of_range_are_refused_before_any_media(media: str, step: Step) -> None:
    with pytest.raises(BundleRefused, match=rf"preprocess\[0\]: {step.op} got"):
        pipelines_for(media, [step], ())


def test_each_kind_of_media_has_its_operations() -> None:
    assert "sound_mono" not in known_operations("image")
    assert "image_rgb" not in known_operations("audio")
    assert "softmax" in known_operations("audio")
    assert not known_operations("tensor")
    with pytest.raises(BundleRefused, match="asks for the operation 'softmax'"):
        pipelines_for("tensor", [Step("softmax")], ())
