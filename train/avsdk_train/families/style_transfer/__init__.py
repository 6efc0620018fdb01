"""Feed-forward style transfer: photo in, painting out (Johnson et al. 2016)."""

from __future__ import annotations

from avsdk_train.families.style_transfer.family import StyleTransfer

__all__ = ["StyleTransfer"]
