"""The ``[settings]`` table of a style transfer recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from avsdk_train.recipe import require


@dataclass(frozen=True)
class StyleSettings:
    """What is learned, from which painting, at which weights.

    ``features`` is the file of the feature network, ``style`` the painting; its shorter side is set to ``style_px``.
    ``content_layer`` and ``style_layers`` default to those of the feature network. ``style_scale`` names the Gram
    scaling of ``losses.style_loss``. Crops are ``crop_px`` wide, and ``late_crop_px`` after the share
    ``late_crop_from`` of the training. For the first ``warmup_batches`` the network learns to return its
    input. Previews have ``preview_px`` on the shorter side.
    """

    features: str = ""
    style: str = ""
    style_px: int = 256
    content_layer: str = ""
    style_layers: tuple[str, ...] = ()
    content_weight: float = 1.0
    style_weight: float = 1e-2
    style_scale: Literal["channels", "mean"] = "channels"
    total_variation_weight: float = 0.0
    crop_px: int = 128
    late_crop_px: int = 176
    late_crop_from: float = 0.7
    warmup_batches: int = 200
    preview_px: int = 256

    def __post_init__(self) -> None:
        """Refuse sizes that the networks cannot take."""
        for key in ("style_px", "crop_px", "late_crop_px", "preview_px"):
            require(32 <= getattr(self, key) <= 4096, key, getattr(self, key), "32..4096 pixels")
        require(0 <= self.late_crop_from <= 1, "late_crop_from", self.late_crop_from, "a share, 0..1")
        require(self.warmup_batches >= 0, "warmup_batches", self.warmup_batches, "0 or more")

    def crop_px_at(self, progress: float) -> int:
        """The crop at a share of the training."""
        return self.late_crop_px if progress >= self.late_crop_from else self.crop_px
