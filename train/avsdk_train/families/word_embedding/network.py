"""Two views of a word in one space: how it sounds and how it is spelt in phones.

Source: Rhodes and Bains' multi-view acoustic word embeddings with transformer encoders, section 3.2; the recurrent
views are the multi-view baseline that the paper compares with. Written without fused layers, so that every exporter
takes it, and with every layer initialised on its own: eight copies of one layer, post-norm and without a warm-up, do
not train.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from avsdk.errors import UsageError

POSITION_BASE = 5000.0
"""The paper's equation 5; Vaswani et al. have 10000."""
_FAR = -1e4
"""Added to a score that must not count; finite, so that no softmax divides by zero."""

Pooling = Literal["mean", "first"]


@dataclass(frozen=True)
class TransformerView:
    """A transformer encoder: post-norm as in the paper, or pre-norm, which trains at any depth.

    ``pooling``: the mean over what is there, or the answer at a learned first token (the paper's "representative").
    ``projection``: the size of a last linear map, 0 for none.
    """

    layers: int
    heads: int
    width: int = 256
    inner: int = 1024
    dropout: float = 0.1
    pre_norm: bool = False
    pooling: Pooling = "mean"
    projection: int = 0

    def __post_init__(self) -> None:
        """Refuse heads that do not divide the width."""
        if self.width % self.heads or self.width % 2:
            raise UsageError(
                f"{self.heads} heads on a width of {self.width}", expected="heads that divide an even width"
            )

    @property
    def size(self) -> int:
        """The length of the embedding."""
        return self.projection or self.width


@dataclass(frozen=True)
class RecurrentView:
    """A bidirectional LSTM or GRU; the embedding is the last state of either direction, side by side."""

    kind: Literal["lstm", "gru"]
    layers: int
    width: int
    dropout: float = 0.4
    embedded: int = 64
    projection: int = 0

    @property
    def size(self) -> int:
        """The length of the embedding."""
        return self.projection or 2 * self.width


View = TransformerView | RecurrentView


@dataclass(frozen=True)
class Views:
    """Both views; they end in one size."""

    acoustic: View
    phone: View
    features: int = 39
    phones: int = 45

    def __post_init__(self) -> None:
        """Refuse views that do not meet."""
        if self.acoustic.size != self.phone.size:
            raise UsageError(
                f"the acoustic view ends in {self.acoustic.size} numbers and the phone view in {self.phone.size}",
                expected="one space",
                fix="give both the same projection",
            )


VARIANTS: Mapping[str, Views] = {
    "paper": Views(TransformerView(6, 4), TransformerView(4, 16)),
    "base": Views(TransformerView(6, 4, pre_norm=True), TransformerView(4, 16, pre_norm=True)),
    "small": Views(
        TransformerView(3, 4, width=128, inner=512, pre_norm=True),
        TransformerView(2, 4, width=128, inner=512, pre_norm=True),
    ),
    "lstm": Views(RecurrentView("lstm", 6, 512), RecurrentView("lstm", 2, 512)),
    "gru": Views(RecurrentView("gru", 6, 512), RecurrentView("gru", 2, 512)),
}


class WordEmbedding(nn.Module):
    """Both views. ``acoustic(features, length)`` and ``phone(phones, length)`` give unit vectors of one space."""

    def __init__(self, views: Views) -> None:
        super().__init__()
        self.views = views
        self.acoustic = AcousticView(views)
        self.phone = PhoneView(views)


class AcousticView(nn.Module):
    """Features (batch, frames, size) and their lengths (batch,) to embeddings (batch, size) of length 1."""

    def __init__(self, views: Views) -> None:
        super().__init__()
        self.encoder = encoder_for(views.acoustic)
        self.enter = nn.Linear(views.features, self.encoder.entry)
        _reset(self.enter)

    def forward(self, features: Tensor, length: Tensor) -> Tensor:
        """Embed a batch of spoken words; frames beyond ``length`` do not count."""
        return unit(self.encoder(self.enter(features), length))


class PhoneView(nn.Module):
    """Phone numbers (batch, phones), 1 to the number of phones with 0 beyond the end, to embeddings of length 1."""

    def __init__(self, views: Views) -> None:
        super().__init__()
        self.encoder = encoder_for(views.phone)
        self.enter = nn.Embedding(views.phones + 1, self.encoder.entry, padding_idx=0)

    def forward(self, phones: Tensor, length: Tensor) -> Tensor:
        """Embed a batch of pronunciations."""
        return unit(self.encoder(self.enter(phones), length))


class TransformerEncoder(nn.Module):
    """(batch, places, width) and lengths to (batch, size)."""

    def __init__(self, view: TransformerView) -> None:
        super().__init__()
        self.entry = view.width
        self.pooling = view.pooling
        self.dropout = nn.Dropout(view.dropout)
        self.layers = nn.ModuleList([TransformerLayer(view) for _ in range(view.layers)])
        self.last_norm = nn.LayerNorm(view.width) if view.pre_norm else nn.Identity()
        self.leave = nn.Linear(view.width, view.projection) if view.projection else nn.Identity()
        if view.pooling == "first":
            self.first = nn.Parameter(torch.randn(1, 1, view.width) * view.width**-0.5)
        _reset(self.leave)

    def forward(self, places: Tensor, length: Tensor) -> Tensor:
        """Encode and pool."""
        if self.pooling == "first":
            places = torch.cat([self.first.expand(places.shape[0], -1, -1), places], dim=1)
            length = length + 1
        mask = mask_from_lengths(length, places.shape[1])
        places = self.dropout(places + sinusoids(places.shape[1], places.shape[2], places))
        for layer in self.layers:
            places = layer(places, mask)
        places = self.last_norm(places)
        pooled = places[:, 0] if self.pooling == "first" else masked_mean(places, mask)
        answer: Tensor = self.leave(pooled)
        return answer


class TransformerLayer(nn.Module):
    """Self-attention and a two-layer network, each added to its input; the norm comes after the sum, or before it."""

    def __init__(self, view: TransformerView) -> None:
        super().__init__()
        self.pre_norm = view.pre_norm
        self.attention = Attention(view.width, view.heads)
        self.inner = nn.Sequential(nn.Linear(view.width, view.inner), nn.ReLU(), nn.Linear(view.inner, view.width))
        self.attention_norm, self.inner_norm = nn.LayerNorm(view.width), nn.LayerNorm(view.width)
        self.dropout = nn.Dropout(view.dropout)
        for part in self.inner:
            _reset(part)

    def forward(self, places: Tensor, mask: Tensor) -> Tensor:
        """(batch, places, width) to the same."""
        if self.pre_norm:
            places = places + self.dropout(self.attention(self.attention_norm(places), mask))
            summed: Tensor = places + self.dropout(self.inner(self.inner_norm(places)))
            return summed
        places = self.attention_norm(places + self.dropout(self.attention(places, mask)))
        normed: Tensor = self.inner_norm(places + self.dropout(self.inner(places)))
        return normed


class Attention(nn.Module):
    """Multi-head self-attention over the places that are there."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])
        self.out = nn.Linear(width, width)
        for part in (*self.query_key_value, self.out):
            _reset(part)

    def forward(self, places: Tensor, mask: Tensor) -> Tensor:
        """(batch, places, width) to the same."""
        batch, _, width = places.shape
        query, key, value = (
            part(places).reshape(batch, -1, self.heads, width // self.heads).transpose(1, 2)
            for part in self.query_key_value
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(width // self.heads) + (1 - mask[:, None, None, :]) * _FAR
        mixed = scores.softmax(dim=-1) @ value
        answer: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, -1, width))
        return answer


class RecurrentEncoder(nn.Module):
    """(batch, places, entry) and lengths to the last states of both directions (batch, size).

    The backward direction runs forward over each word turned round within its own length, so that padding is last in
    both, and nothing needs packed sequences, which no exporter takes.
    """

    def __init__(self, view: RecurrentView) -> None:
        super().__init__()
        self.entry = view.embedded
        kind = nn.LSTM if view.kind == "lstm" else nn.GRU
        sizes = [view.embedded, *[2 * view.width] * (view.layers - 1)]
        self.forwards = nn.ModuleList([kind(size, view.width, batch_first=True) for size in sizes])
        self.backwards = nn.ModuleList([kind(size, view.width, batch_first=True) for size in sizes])
        self.dropout = nn.Dropout(view.dropout)
        self.leave = nn.Linear(2 * view.width, view.projection) if view.projection else nn.Identity()
        _reset(self.leave)

    def forward(self, places: Tensor, length: Tensor) -> Tensor:
        """Encode and take the last states."""
        turned = turn_index(length, places.shape[1])
        last = (length.clamp(min=1) - 1)[:, None]
        for index, (there, back) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            if index:
                places = self.dropout(places)
            ahead, behind = there(places)[0], back(taken(places, turned))[0]
            ends = torch.cat([taken(ahead, last), taken(behind, last)], dim=-1)[:, 0]
            places = torch.cat([ahead, taken(behind, turned)], dim=-1)
        answer: Tensor = self.leave(ends)
        return answer


def encoder_for(view: View) -> TransformerEncoder | RecurrentEncoder:
    """The encoder of a view, with fresh weights."""
    return TransformerEncoder(view) if isinstance(view, TransformerView) else RecurrentEncoder(view)


def unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1, in fp32: cosines are what everything compares."""
    exact = vectors.float()
    return exact / exact.square().sum(dim=-1, keepdim=True).clamp(min=1e-12).sqrt()


def mask_from_lengths(length: Tensor, count: int) -> Tensor:
    """Lengths (batch,) to a float mask (batch, count); a length below 1 counts as 1."""
    places = torch.arange(count, device=length.device, dtype=length.dtype)
    return (places[None, :] < length.clamp(min=1)[:, None]).float()


def masked_mean(places: Tensor, mask: Tensor) -> Tensor:
    """The mean over the places that are there: (batch, places, width) to (batch, width)."""
    return (places * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def turn_index(length: Tensor, count: int) -> Tensor:
    """Where each place lies when every word is turned round within its length and padding stays: (batch, count)."""
    places = torch.arange(count, device=length.device, dtype=length.dtype)[None, :]
    ends = length.clamp(min=1)[:, None]
    return torch.where(places < ends, ends - 1 - places, places)


def taken(places: Tensor, index: Tensor) -> Tensor:
    """The places (batch, count, width) that the index (batch, n) names."""
    return places.gather(1, index[:, :, None].expand(-1, -1, places.shape[2]))


def sinusoids(count: int, width: int, like: Tensor) -> Tensor:
    """Positions (count, width): sines in the even columns, cosines in the odd ones, by the paper's equation 5."""
    places = torch.arange(count, device=like.device, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(POSITION_BASE) / width))
    angles = places * rates
    return torch.stack([torch.sin(angles), torch.cos(angles)], dim=2).reshape(count, width)


def _reset(part: nn.Module) -> None:
    """A matrix of its own for every layer: Glorot and Bengio's uniform one, as for the paper's text encoder."""
    if isinstance(part, nn.Linear):
        nn.init.xavier_uniform_(part.weight)
        nn.init.zeros_(part.bias)
