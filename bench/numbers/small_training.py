"""A training of seconds, from nothing: pictures and a painting of noise, a feature network with random weights.

It goes through every part of the loop; only its pictures mean nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from avsdk.media import write_image
from avsdk_train.families.style_transfer.features import NormalisedVgg19
from avsdk_train.weights import write_weights

_PICTURES = 5


def small_training(folder: Path, *, side_px: int, layers: tuple[str, ...]) -> list[str]:
    """Write the files that a training needs into ``folder``; the settings that name them."""
    random = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for index in range(_PICTURES):
        shape = (side_px + 8 * index, side_px + 4, 3)
        write_image(folder / "data" / f"{index}.png", random.integers(0, 256, shape, dtype=np.uint8))
    write_image(folder / "style.png", random.integers(0, 256, (side_px, side_px, 3), dtype=np.uint8))
    torch.manual_seed(1)
    write_weights(folder / "features.safetensors", NormalisedVgg19(list(layers)).state_dict())
    chosen = {"features": folder / "features.safetensors", "style": folder / "style.png"}
    return [f"{key}={value}" for key, value in chosen.items()]
