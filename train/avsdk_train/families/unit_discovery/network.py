"""The Transformer VQ-VAE and its codebook inverter (Tjandra et al. 2020), and the convolutional model of 2019.

What the papers leave open is stated where it is chosen: sizes in ``variants``, the reach of attention and the place of
the strided convolutions here. Time runs along axis 1; masks are (batch, frames).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from avsdk_train.families.unit_discovery.attention import (
    ConvLayer,
    MaskedConv,
    TransformerLayer,
    mask_from_lengths,
    repeated,
    sinusoids,
)
from avsdk_train.families.unit_discovery.codebook import Codebook

KERNELS = (1, 3, 5, 7)
"""The widths, in frames, at which the inverter looks at the units."""


@dataclass(frozen=True)
class Shape:
    """Everything that decides the weights.

    ``stride``: feature frames per unit. ``reach``: frames that attention sees to either side, at the rate of its layer.
    ``speakers`` and ``voices``: how many the decoder and the inverter can tell apart.
    """

    features: Literal["mfcc", "log_mel"] = "mfcc"
    layer: Literal["transformer", "conv"] = "transformer"
    stride: Literal[2, 4] = 4
    entries: int = 128
    code_size: int = 64
    width: int = 256
    heads: int = 4
    inner: int = 1024
    reach: int = 16
    dropout: float = 0.1
    layers: int = 2
    speakers: int = 2560
    speaker_size: int = 64
    inverter_width: int = 256
    inverter_layers: int = 3
    voices: int = 16
    bins: int = 513

    @property
    def feature_size(self) -> int:
        """Coefficients per frame."""
        return {"mfcc": 39, "log_mel": 80}[self.features]

    @property
    def strides(self) -> tuple[int, int]:
        """Of the two blocks, from the input on."""
        return (2, self.stride // 2)

    @property
    def context(self) -> int:
        """Feature frames to either side that a unit can depend on, rounded up to whole units."""
        frames, rate = 0, 1
        for stride in self.strides:
            frames += 2 * rate
            rate *= stride
            frames += self.layers * rate * (self.reach if self.layer == "transformer" else 1)
        return -(-frames // self.stride) * self.stride


@dataclass(frozen=True)
class Answer:
    """What the loss compares: the decoder's features, or the inverter's magnitudes; the vectors before the
    codebook, and its entries after it.
    """

    features: Tensor
    vectors: Tensor
    entries: Tensor
    codes: Tensor
    mask: Tensor


class Encoder(nn.Module):
    """Features to vectors: two blocks, each a convolution (with a stride) and its layers; a projection to the codebook.

    (batch, frames, features) and lengths (batch,) to (batch, frames / stride, code_size).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.strides = shape.strides
        sizes = (shape.feature_size, shape.width)
        self.convs = nn.ModuleList(
            MaskedConv(size, shape.width, 2 * stride if stride > 1 else 3, stride)
            for size, stride in zip(sizes, self.strides, strict=True)
        )
        self.layers = nn.ModuleList(_layers(shape) for _ in self.strides)
        self.norm = nn.LayerNorm(shape.width)
        self.out = nn.Linear(shape.width, shape.code_size)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """The vectors; those beyond a length mean nothing."""
        mask = mask_from_lengths(lengths, frames.shape[1])
        for conv, layers, stride in zip(self.convs, self.layers, self.strides, strict=True):
            frames = functional.relu(conv(frames, mask))
            mask = mask[:, ::stride]
            frames = _through(layers, frames, mask)
        vectors: Tensor = self.out(self.norm(frames))
        return vectors


class Decoder(nn.Module):
    """Entries of the codebook and a speaker to features, the encoder's blocks in reverse order.

    (batch, units, code_size), speakers (batch,) and the units' mask to (batch, units * stride, features).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.strides = shape.strides[::-1]
        self.speakers = nn.Embedding(shape.speakers, shape.speaker_size)
        sizes = (shape.code_size + shape.speaker_size, shape.width)
        self.convs = nn.ModuleList(MaskedConv(size, shape.width, 3) for size in sizes)
        self.layers = nn.ModuleList(_layers(shape) for _ in self.strides)
        self.norm = nn.LayerNorm(shape.width)
        self.out = MaskedConv(shape.width, shape.feature_size, 3)

    def forward(self, entries: Tensor, speakers: Tensor, mask: Tensor) -> Tensor:
        """The features as that speaker would have said them."""
        speaker = self.speakers(speakers)[:, None, :].expand(-1, entries.shape[1], -1)
        frames = torch.cat([entries, speaker], dim=-1)
        for conv, layers, stride in zip(self.convs, self.layers, self.strides, strict=True):
            frames = functional.relu(conv(frames, mask))
            frames = _through(layers, frames, mask)
            frames, mask = repeated(frames, stride), _stretched(mask, stride)
        features: Tensor = self.out(self.norm(frames), mask)
        return features


class Inverter(nn.Module):
    """Entries of the codebook to a linear magnitude spectrogram (section 4): every entry as often as it has frames,
    positions that tell the copies apart, two multiscale convolutions and three transformer layers.

    The paper trains one inverter per voice; here a voice is one of a table's rows, and a table of one row is the paper.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.inverter_width
        self.stride, self.width = shape.stride, width
        self.voices = nn.Embedding(shape.voices, width)
        self.into = nn.Linear(shape.code_size, width)
        self.scales = nn.ModuleList(_Multiscale(width) for _ in range(2))
        self.layers = nn.ModuleList(
            TransformerLayer(width, shape.heads, 4 * width, 2 * shape.reach, shape.dropout)
            for _ in range(shape.inverter_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, shape.bins)

    def forward(self, entries: Tensor, voices: Tensor, mask: Tensor) -> Tensor:
        """(batch, units, code_size) to magnitudes (batch, units * stride, bins), none below 0."""
        frames = repeated(self.into(entries) + self.voices(voices)[:, None, :], self.stride)
        mask = _stretched(mask, self.stride)
        frames = frames + sinusoids(frames.shape[1], self.width, frames)
        for scale in self.scales:
            frames = scale(frames, mask)
        for layer in self.layers:
            frames = layer(frames, mask)
        return functional.softplus(self.out(self.norm(frames)))


class UnitNet(nn.Module):
    """The whole model: encoder, codebook, decoder, inverter."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = Encoder(shape)
        self.codebook = Codebook(shape.entries, shape.code_size)
        self.decoder = Decoder(shape)
        self.inverter = Inverter(shape)

    def forward(
        self,
        frames: Tensor,
        lengths: Tensor,
        speakers: Tensor,
        jitter: float = 0.0,
        *,
        quantises: bool = True,
        inverts: bool = False,
    ) -> Answer:
        """Encode, quantise and decode; in training the codebook learns and a share of the codes is jittered.

        The gradient passes the codebook as if it were not there (straight-through). Without ``quantises`` it is not:
        the decoder has the vectors. With ``inverts`` the inverter takes the decoder's place, ``speakers`` are
        voices, and nothing before it learns.
        """
        if inverts:
            return self._inverted(frames, lengths, speakers)
        vectors = self.encoder(frames, lengths)
        mask = mask_from_lengths(units_from_frames(lengths, self.shape.stride), vectors.shape[1])
        if self.training and quantises:
            self.codebook.begin(vectors, mask)
        codes = self.codebook.nearest(vectors)
        entries = self.codebook.looked_up(codes) if quantises else vectors.detach()
        passed = vectors + (entries - vectors).detach()
        if self.training and quantises:
            self.codebook.learn(vectors, codes, mask)
        if self.training:
            passed = jittered(passed, jitter)
        return Answer(self.decoder(passed, speakers, mask), vectors, entries, codes, mask)

    def _inverted(self, frames: Tensor, lengths: Tensor, voices: Tensor) -> Answer:
        self.encoder.eval()
        with torch.no_grad():
            vectors = self.encoder(frames, lengths)
            codes = self.codebook.nearest(vectors)
            entries = self.codebook.looked_up(codes)
        mask = mask_from_lengths(units_from_frames(lengths, self.shape.stride), codes.shape[1])
        return Answer(self.inverter(entries, voices, mask), vectors, entries, codes, mask)


def jittered(frames: Tensor, share: float) -> Tensor:
    """Every frame replaced by the one before it with probability ``share``, by the one after with the same (eq. 11-13).

    The first and the last stay. (Chorowski et al. 2019 and those after them count both sides together.)
    """
    if share == 0:
        return frames
    count = frames.shape[1]
    drawn = torch.rand(frames.shape[:2], device=frames.device)
    step = (drawn > 1 - share).long() - (drawn < share).long()
    step[:, :1], step[:, -1:] = 0, 0
    places = torch.arange(count, device=frames.device)[None, :] + step
    return frames.gather(1, places[:, :, None].expand_as(frames))


def units_from_frames(lengths: Tensor, stride: int) -> Tensor:
    """How many units some feature frames make: the last one may have fewer."""
    return (lengths + stride - 1) // stride


class _Multiscale(nn.Module):
    """Convolutions of several widths side by side, joined to one, on normalised input and added to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.convs = nn.ModuleList(MaskedConv(width, width // len(KERNELS), kernel) for kernel in KERNELS)
        self.join = nn.Linear(width // len(KERNELS) * len(KERNELS), width)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(batch, frames, width) to the same."""
        normed = self.norm(frames)
        found = torch.cat([conv(normed, mask) for conv in self.convs], dim=-1)
        joined: Tensor = frames + self.join(functional.relu(found))
        return joined


def _layers(shape: Shape) -> nn.ModuleList:
    if shape.layer == "conv":
        return nn.ModuleList(ConvLayer(shape.width, shape.inner, shape.dropout) for _ in range(shape.layers))
    return nn.ModuleList(
        TransformerLayer(shape.width, shape.heads, shape.inner, shape.reach, shape.dropout) for _ in range(shape.layers)
    )


def _through(layers: nn.Module, frames: Tensor, mask: Tensor) -> Tensor:
    for layer in layers.children():
        frames = layer(frames, mask)
    return frames


def _stretched(mask: Tensor, times: int) -> Tensor:
    return repeated(mask[:, :, None], times)[:, :, 0]
