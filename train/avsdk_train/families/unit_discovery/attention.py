"""Pre-norm transformer layers that see a stretch of time around each frame, written out for every exporter.

A layer looks ``reach`` frames back and ahead and knows how far away each of them is, not where in the recording it
stands. So what comes of a frame depends on a bounded stretch of sound, and a long recording may be cut into windows.
Masks are float, (batch, frames), 1 where there is something, and made inside the graph from the lengths.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_FAR = -1e4
"""Added to a score that must not count; finite, so that a row without any frame is no division by zero."""


class LocalAttention(nn.Module):
    """Multi-head attention over ``reach`` frames to either side, with a learned preference per distance and head."""

    def __init__(self, width: int, heads: int, reach: int) -> None:
        super().__init__()
        self.heads, self.reach = heads, reach
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.preference = nn.Parameter(torch.zeros(2 * reach + 1, heads))

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(batch, frames, width) to the same."""
        batch, _, width = frames.shape
        query, key, value = (
            part.reshape(batch, -1, self.heads, width // self.heads).transpose(1, 2)
            for part in self.query_key_value(frames).chunk(3, dim=-1)
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(width // self.heads)
        scores = scores + self._near(frames.shape[1], mask) + (1 - mask[:, None, None, :]) * _FAR
        mixed = scores.softmax(dim=-1) @ value
        joined: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, -1, width))
        return joined

    def _near(self, count: int, mask: Tensor) -> Tensor:
        """What is added to every score by distance alone (heads, frames, frames)."""
        places = torch.arange(count, device=mask.device)
        distance = places[None, :] - places[:, None]
        known = self.preference[(distance.clamp(-self.reach, self.reach) + self.reach).reshape(-1)]
        known = known.transpose(0, 1).reshape(self.heads, count, count)
        return known + (distance.abs() > self.reach) * _FAR


class TransformerLayer(nn.Module):
    """Attention and a two-layer network over each frame, each on normalised input and added to it."""

    def __init__(self, width: int, heads: int, inner: int, reach: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.inner_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = LocalAttention(width, heads, reach)
        self.inner = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(batch, frames, width) to the same."""
        frames = frames + self.dropout(self.attention(self.attention_norm(frames), mask))
        found: Tensor = frames + self.dropout(self.inner(self.inner_norm(frames)))
        return found


class ConvLayer(nn.Module):
    """The residual convolution of the 2019 model in the place of a transformer layer."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.wide = MaskedConv(width, inner, 3)
        self.narrow = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(batch, frames, width) to the same."""
        inner = functional.relu(self.wide(self.norm(frames), mask))
        found: Tensor = frames + self.dropout(self.narrow(inner))
        return found


class MaskedConv(nn.Module):
    """A convolution over time that hears silence where the mask is 0, as it does beyond the ends.

    (batch, frames, size) to (batch, frames / stride, width); ``frames`` is a multiple of the stride.
    """

    def __init__(self, size: int, width: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(size, width, kernel, stride, padding=(kernel - stride + 1) // 2)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Convolve what is there."""
        found: Tensor = self.conv((frames * mask[:, :, None]).transpose(1, 2))
        return found.transpose(1, 2)


def mask_from_lengths(lengths: Tensor, count: int) -> Tensor:
    """(batch,) lengths to a float mask (batch, count); a length below 1 counts as 1."""
    places = torch.arange(count, device=lengths.device, dtype=lengths.dtype)
    return (places[None, :] < lengths.clamp(min=1)[:, None]).float()


def repeated(frames: Tensor, times: int) -> Tensor:
    """Every frame that often in a row, without an operator that some exporters turn into a loop."""
    batch, _, width = frames.shape
    return frames[:, :, None, :].expand(-1, -1, times, -1).reshape(batch, -1, width)


def sinusoids(count: int, width: int, like: Tensor) -> Tensor:
    """Positions as sines and cosines of falling frequency (count, width), Vaswani et al. 2017, section 3.5."""
    places = torch.arange(count, device=like.device, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(10_000.0) / width))
    return torch.cat([torch.sin(places * rates), torch.cos(places * rates)], dim=1)
