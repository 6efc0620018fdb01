"""The perceptual losses against sums done by hand."""

from __future__ import annotations

import pytest
import torch

from avsdk_train.families.style_transfer.features import FeatureLayers
from avsdk_train.families.style_transfer.losses import (
    content_loss,
    gram,
    perceptual_losses,
    style_loss,
    total_variation,
)

MAPS = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # 1 image, 2 channels, 1 x 2 pixels
GRAM = torch.tensor([[2.5, 5.5], [5.5, 12.5]])  # (1*1+2*2)/2, (1*3+2*4)/2, (3*3+4*4)/2
LAYERS = FeatureLayers("a", ("a",))


def test_gram_is_the_mean_product_over_the_pixels() -> None:
    torch.testing.assert_close(gram(MAPS)[0], GRAM)


def test_gram_of_half_precision_maps_is_summed_in_single_precision() -> None:
    large = torch.full((1, 1, 256, 256), 255.0, dtype=torch.float16)
    assert gram(large).item() == pytest.approx(255.0**2, rel=1e-4)  # the sum, 4e9, is far beyond half precision


def test_content_loss_is_the_mean_square() -> None:
    assert content_loss(MAPS, torch.zeros_like(MAPS)).item() == pytest.approx((1 + 4 + 9 + 16) / 4)


@pytest.mark.parametrize(("scale", "expected"), [("channels", 2 * 1.0), ("mean", 1.0 / 4)])
def test_style_loss_scales(scale: str, expected: float) -> None:
    # Every entry of the Gram matrix is 1 away from its target, so the mean square is 1.
    found = style_loss({"a": MAPS}, {"a": GRAM - 1}, LAYERS, scale)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(expected)


def test_style_loss_sums_over_layers_and_takes_a_batch() -> None:
    maps = {"a": MAPS.repeat(3, 1, 1, 1), "b": MAPS}
    found = style_loss(maps, {"a": GRAM - 1, "b": GRAM - 2}, FeatureLayers("a", ("a", "b")))
    assert found.item() == pytest.approx(2 * 1 + 2 * 4)


def test_style_loss_without_layers_is_an_error() -> None:
    with pytest.raises(ValueError, match="no style layer"):
        style_loss({}, {}, FeatureLayers("a", ()))


def test_total_variation_by_hand() -> None:
    image = torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])
    assert total_variation(image).item() == pytest.approx((0.5 + 0.5) / 2 + (1.0 + 0.0) / 2)


def test_the_three_parts_together() -> None:
    found = perceptual_losses(torch.zeros(1, 3, 2, 2), {"a": MAPS}, {"a": MAPS + 1}, {"a": GRAM}, LAYERS)
    assert (found.content.item(), found.style.item(), found.total_variation.item()) == pytest.approx((1.0, 0.0, 0.0))
