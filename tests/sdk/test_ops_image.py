from __future__ import annotations

import numpy as np
import pytest

from avsdk.errors import BundleRefused, UnusableInput
from avsdk.ops import Pipeline, Trace, image_pipelines
from avsdk.ops.image import (
    CHECKS,
    OPERATIONS,
    clip_uint8,
    crop_to_input,
    from_nchw_float,
    image_rgb,
    pad_to_multiple,
    to_nchw_float,
)
from avsdk.ops.video import frames_per_batch, repeated_to
from avsdk.spec import Step

BEFORE = (Step("image_rgb"), Step("pad_to_multiple", {"multiple": 4, "mode": "reflect"}), Step("to_nchw_float"))
AFTER = (Step("from_nchw_float"), Step("crop_to_input"), Step("clip_uint8"))


def random_picture(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def test_the_operations_are_those_that_manifests_name() -> None:
    names = {"image_rgb", "pad_to_multiple", "to_nchw_float", "from_nchw_float", "crop_to_input", "clip_uint8"}
    assert set(OPERATIONS) == names
    assert set(CHECKS) < names


@pytest.mark.parametrize("shape", [(5, 7), (64, 64), (1, 1), (2, 3), (3, 5, 7)])
def test_there_and_back_is_the_same_picture(shape: tuple[int, ...]) -> None:
    picture = random_picture(*shape)
    before, after = image_pipelines(BEFORE, AFTER)
    trace = Trace()
    tensor = before(picture, trace)
    frames = shape[0] if len(shape) == 3 else 1
    assert tensor.shape == (frames, 3, -(-shape[-2] // 4) * 4, -(-shape[-1] // 4) * 4)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    assert (after(tensor, trace) == picture).all()


def test_padding_reflects_without_repeating_the_edge() -> None:
    row = np.arange(6, dtype=np.uint8).reshape(1, 6, 1).repeat(3, -1).repeat(8, 0)
    padded = pad_to_multiple(row, Trace(), multiple=4)
    assert padded[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 4, 3]


def test_a_side_too_short_to_reflect_repeats_its_edge() -> None:
    row = np.arange(2, dtype=np.uint8).reshape(1, 2, 1).repeat(3, -1)
    padded = pad_to_multiple(row, Trace(), multiple=4)
    assert padded.shape == (4, 4, 3)
    assert padded[3, :, 0].tolist() == [0, 1, 1, 1]


def test_padding_leaves_a_fitting_picture_alone() -> None:
    picture = random_picture(8, 12)
    assert pad_to_multiple(picture, Trace(), multiple=4) is picture


def test_scales_undo_each_other() -> None:
    picture = random_picture(4, 4)
    tensor = to_nchw_float(picture, Trace(), scale=1 / 255)
    assert tensor.max() <= 1
    assert np.allclose(from_nchw_float(tensor, Trace(), scale=1 / 255), picture, atol=1e-4)


def test_values_are_rounded_and_clipped() -> None:
    values = np.array([-3.0, 0.4, 0.6, 254.7, 300.0])
    assert clip_uint8(values, Trace()).tolist() == [0, 0, 1, 255, 255]


def test_crop_takes_the_size_that_came_in() -> None:
    assert crop_to_input(np.zeros((2, 8, 8, 3)), Trace(height=5, width=7)).shape == (2, 5, 7, 3)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_only_8_bit_rgb_is_a_picture(wrong: np.ndarray) -> None:
    with pytest.raises(UnusableInput, match="the picture is an array of shape") as caught:
        image_rgb(wrong, Trace())
    assert "uint8 RGB" in caught.value.expected


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step("os.system", {"command": "true"}), "asks for the operation 'os.system'"),
        (Step("clip_uint8", {"extra": 1}), "does not take"),
        (Step("pad_to_multiple"), "does not take"),
        (Step("pad_to_multiple", {"multiple": 0}), "pad_to_multiple got"),
        (Step("pad_to_multiple", {"multiple": 10**9}), "pad_to_multiple got"),
        (Step("pad_to_multiple", {"multiple": 4, "mode": "wrap"}), "pad_to_multiple got"),
        (Step("pad_to_multiple", {"multiple": "4"}), "pad_to_multiple got"),
        (Step("to_nchw_float", {"scale": 0}), "to_nchw_float got"),
        (Step("to_nchw_float", {"scale": float("nan")}), "to_nchw_float got"),
        (Step("from_nchw_float", {"scale": "1"}), "from_nchw_float got"),
    ],
)
def test_a_step_that_does_not_exist_or_fit_is_refused(step: Step, message: str) -> None:
    with pytest.raises(BundleRefused, match=message) as caught:
        Pipeline((step,), OPERATIONS, CHECKS, where="preprocess")
    assert caught.value.expected
    assert "preprocess[0]" in caught.value.failed


@pytest.mark.parametrize(("size", "frames"), [((64, 64), 8), ((432, 768), 3), ((1080, 1920), 1), ((4096, 4096), 1)])
def test_frames_per_batch(size: tuple[int, int], frames: int) -> None:
    assert frames_per_batch(*size) == frames


def test_the_last_frame_fills_a_batch() -> None:
    frames = np.arange(3).reshape(3, 1)
    assert repeated_to(frames, 5).ravel().tolist() == [0, 1, 2, 2, 2]
    assert repeated_to(frames, 2) is frames
