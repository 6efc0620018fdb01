"""Photographs as training batches, and as the pictures of a preview."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avsdk_train.data import Image, ImageFolder, random_crop, resized_short_side
from avsdk_train.families.style_transfer.settings import StyleSettings
from avsdk_train.family import Batch, Sample

_PREVIEWS = 3


class PhotoCrops:
    """Random crops of the photographs beneath some folders: ``{"image": (batch, 3, px, px)}``, RGB in 0-255."""

    def __init__(self, settings: StyleSettings, folders: Sequence[Path]) -> None:
        self._settings = settings
        self._images = ImageFolder(folders)

    def __len__(self) -> int:
        return len(self._images)

    def fingerprint(self) -> str:
        """See ``ImageFolder.fingerprint``."""
        return self._images.fingerprint()

    def files(self) -> Sequence[Path]:
        """The photographs."""
        return self._images.files

    def batch(self, samples: Sequence[Sample], progress: float) -> Batch:
        """One crop per sample, of the size that the settings give at this progress."""
        crop_px = self._settings.crop_px_at(progress)
        crops = [random_crop(self._images.read(sample.index), crop_px, sample.random) for sample in samples]
        return {"image": torch.cat([tensor_from_image(crop) for crop in crops])}

    def previews(self) -> list[Image]:
        """A few whole photographs, spread over the data, the same ones every time."""
        count = min(_PREVIEWS, len(self))
        chosen = (self._images.read(i * len(self) // count) for i in range(count))
        return [resized_short_side(image, self._settings.preview_px) for image in chosen]


def tensor_from_image(image: Image) -> Tensor:
    """``(height, width, 3)`` uint8 to ``(1, 3, height, width)`` float32 in 0-255."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()[None]


def image_from_tensor(tensor: Tensor) -> Image:
    """``(1, 3, height, width)`` in 0-255 to uint8, rounded and clipped."""
    array: Image = tensor[0].float().clamp(0, 255).round().permute(1, 2, 0).to(torch.uint8).cpu().numpy()
    return array
