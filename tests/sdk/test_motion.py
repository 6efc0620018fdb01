from __future__ import annotations

import cv2
import numpy as np
import pytest

from avsdk.ops.motion import Steadier, motion_between


def scene(seed: int, height: int = 64, width: int = 160) -> np.ndarray:
    """A picture with structure at several sizes."""
    random = np.random.default_rng(seed)
    sizes = ((4, 10), (16, 40), (32, 80))
    parts = [cv2.resize(random.uniform(0, 85, (*size, 3)), (width, height)) for size in sizes]
    return np.sum(parts, axis=0).astype(np.uint8)


def panned(count: int = 6, step: int = 3) -> np.ndarray:
    """A window of 64 x 96 that moves to the right."""
    wide = scene(0)
    return np.stack([wide[:, step * place : step * place + 96] for place in range(count)])


def flickering(sources: np.ndarray) -> np.ndarray:
    """A style that is another one in every frame: noise over the inverted picture."""
    noise = np.random.default_rng(1).normal(0, 20, sources.shape)
    return np.clip(255 - sources.astype(float) + noise, 0, 255).astype(np.uint8)


def test_the_flow_says_where_each_place_was() -> None:
    before, now = panned(2)
    motion = motion_between(before, now)
    assert motion is not None
    inner = motion.flow[8:-8, 8:-12]
    assert np.abs(np.median(inner[..., 0]) - 3) < 0.2
    assert np.abs(np.median(inner[..., 1])) < 0.2
    moved = motion.moved(before)
    assert np.abs(moved[motion.reliable].astype(int) - now[motion.reliable]).mean() < 4
    assert not motion.reliable[:, -2:].any()  # it was outside the frame before


def test_what_was_hidden_is_not_reliable() -> None:
    """A square moves over a still ground: what it uncovers was not seen before."""
    ground, square = scene(2)[:, :96], 255 - scene(3)[:24, :24]
    before, now = ground.copy(), ground.copy()
    before[20:44, 30:54] = square
    now[20:44, 40:64] = square
    motion = motion_between(before, now)
    assert motion is not None
    assert motion.reliable[22:42, 31:38].mean() < 0.5
    assert motion.reliable[2:12, 5:85].mean() > 0.9


def test_it_lowers_the_warping_error_of_a_moving_picture() -> None:
    sources = panned()
    steadier = Steadier(0.7)
    answer = steadier(sources, flickering(sources))
    report = steadier.report()
    assert answer.shape == sources.shape
    assert report["scene_cuts"] == 0
    assert report["warping_error"] < 0.3 * report["warping_error_without"]


def test_the_batches_make_no_difference() -> None:
    sources = panned()
    styled = flickering(sources)
    one, two = Steadier(0.5), Steadier(0.5)
    whole = one(sources, styled)
    parts = np.concatenate([two(sources[place : place + 2], styled[place : place + 2]) for place in (0, 2, 4)])
    assert (whole == parts).all()
    assert one.report() == two.report()


def test_still_pictures_stay_as_they_are() -> None:
    sources = np.stack([scene(0)] * 4)
    styled = 255 - sources
    steadier = Steadier(1.0)
    assert (steadier(sources, styled) == styled).all()
    assert steadier.report()["warping_error"] == 0.0


def test_strength_0_only_measures() -> None:
    sources = panned()
    styled = flickering(sources)
    steadier = Steadier(0.0)
    assert (steadier(sources, styled) == styled).all()
    report = steadier.report()
    assert report["warping_error"] == report["warping_error_without"] > 0


def test_the_warping_error_is_the_mean_square_in_0_to_1() -> None:
    """Two styled frames 51 levels apart over a still source: (51 / 255)^2."""
    sources = np.stack([scene(0)] * 2)
    styled = np.stack([np.full_like(sources[0], 100), np.full_like(sources[0], 151)])
    steadier = Steadier(0.0)
    steadier(sources, styled)
    assert steadier.report()["warping_error"] == pytest.approx(0.04)


@pytest.mark.parametrize("size", [(64, 96), (12, 12)])
def test_a_new_scene_is_not_mixed_with_the_one_before(size: tuple[int, int]) -> None:
    sources = np.stack([scene(0, *size), 255 - scene(5, *size)[:, ::-1]])
    styled = flickering(sources)
    steadier = Steadier(1.0)
    assert (steadier(sources, styled) == styled).all()
    assert steadier.report() == {
        "strength": 1.0, "scene_cuts": 1, "warping_error": None, "warping_error_without": None,
    }  # fmt: skip
