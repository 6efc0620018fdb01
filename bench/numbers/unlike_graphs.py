"""Networks that are unlike each other, with random weights, at three sizes each: what predictions are judged on.

``network(name)`` -> a module, and one tuple of example inputs per size. Integers are token numbers below 256.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

Inputs = tuple[Tensor, ...]
Made = tuple[nn.Module, list[Inputs]]


def network(name: str) -> Made:
    """The network of that name, in evaluation mode, its weights seeded by its name."""
    torch.manual_seed(sum(map(ord, name)))
    module, sizes = NETWORKS[name]()
    return module.eval(), sizes


def _images(sizes: Sequence[int], channels: int = 3) -> list[Inputs]:
    return [(torch.randn(1, channels, size, size),) for size in sizes]


class Residual(nn.Module):
    """``x + body(x)``, the shortcut projected where it must be."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, last: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut, self.last = body, shortcut or nn.Identity(), last or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that the body keeps."""
        out: Tensor = self.last(self.shortcut(x) + self.body(x))
        return out


def _conv(a: int, b: int, k: int = 3, s: int = 1, *more: nn.Module, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(a, b, k, s, k // 2, groups=groups), *more]


def plain() -> Made:
    """Convolutions and pooling only, as VGG."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 64, 128, 256):
        layers += [*_conv(channels, width, 3, 1, nn.ReLU()), *_conv(width, width, 3, 1, nn.ReLU()), nn.MaxPool2d(2)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 100)), _images((64, 128, 224))


def residual() -> Made:
    """Strided residual blocks with batch norm, as ResNet-18."""
    layers: list[nn.Module] = [*_conv(3, 64, 7, 2, nn.BatchNorm2d(64), nn.ReLU()), nn.MaxPool2d(3, 2, 1)]
    a = 64
    for b, s in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        body = nn.Sequential(*_conv(a, b, 3, s, nn.BatchNorm2d(b), nn.ReLU()), *_conv(b, b, 3, 1, nn.BatchNorm2d(b)))
        layers.append(Residual(body, nn.Conv2d(a, b, 1, s) if a != b else None, nn.ReLU()))
        a = b
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 100)), _images((96, 160, 224))


def translation() -> Made:
    """Instance norms and transposed convolutions, as the generators of CycleGAN."""

    def norm(width: int) -> nn.Module:
        return nn.InstanceNorm2d(width, affine=True)

    layers = [*_conv(3, 24, 7, 1, norm(24), nn.ReLU()), *_conv(24, 48, 3, 2, norm(48), nn.ReLU())]
    layers += _conv(48, 96, 3, 2, norm(96), nn.ReLU())
    for _ in range(3):
        layers.append(
            Residual(nn.Sequential(*_conv(96, 96, 3, 1, norm(96), nn.ReLU()), *_conv(96, 96, 3, 1, norm(96))))
        )
    for a, b in ((96, 48), (48, 24)):
        layers += [nn.ConvTranspose2d(a, b, 3, 2, 1, 1), norm(b), nn.ReLU()]
    return nn.Sequential(*layers, *_conv(24, 3, 7), nn.Tanh()), _images((64, 128, 224))


def inverted() -> Made:
    """Inverted bottlenecks with depthwise convolutions, as MobileNet v2."""
    layers: list[nn.Module] = _conv(3, 32, 3, 2, nn.BatchNorm2d(32), nn.ReLU6())
    a = 32
    for b, s in ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (64, 2), (64, 1), (96, 1), (96, 1)):
        h = a * 6
        body = nn.Sequential(
            *_conv(a, h, 1, 1, nn.BatchNorm2d(h), nn.ReLU6()),
            *_conv(h, h, 3, s, nn.BatchNorm2d(h), nn.ReLU6(), groups=h), *_conv(h, b, 1, 1, nn.BatchNorm2d(b)),
        )  # fmt: skip
        layers.append(Residual(body) if a == b and s == 1 else body)
        a = b
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(a, 100)), _images((96, 160, 256))


class ChannelsLast(nn.Module):
    """Layer norm, a wide product, Gelu, a product; over the last axis, as in ConvNeXt."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width), kept."""
        out: Tensor = self.body(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out


def modern() -> Made:
    """Large depthwise convolutions, layer norm and Gelu, as ConvNeXt."""
    layers: list[nn.Module] = [nn.Conv2d(3, 48, 4, 4)]
    for width, following in ((48, 96), (96, 192), (192, 0)):
        for _ in range(2):
            layers.append(Residual(nn.Sequential(nn.Conv2d(width, width, 7, 1, 3, groups=width), ChannelsLast(width))))
        layers += [nn.Conv2d(width, following, 2, 2)] if following else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), _images((64, 128, 224))


class Excite(nn.Module):
    """Channels weighted by their means, as in squeeze and excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width // 4, 1), nn.SiLU(), nn.Conv2d(width // 4, width, 1),
            nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width), kept."""
        out: Tensor = x * self.body(x)
        return out


def excited() -> Made:
    """Depthwise convolutions with squeeze and excitation and Swish, as EfficientNet."""
    layers: list[nn.Module] = _conv(3, 24, 3, 2, nn.BatchNorm2d(24), nn.SiLU())
    a = 24
    for b, s, k in ((24, 1, 3), (40, 2, 5), (40, 1, 5), (80, 2, 3), (80, 1, 3), (112, 2, 5), (112, 1, 5)):
        h = a * 4
        body = nn.Sequential(
            *_conv(a, h, 1, 1, nn.BatchNorm2d(h), nn.SiLU()),
            *_conv(h, h, k, s, nn.BatchNorm2d(h), nn.SiLU(), Excite(h), groups=h),
            *_conv(h, b, 1, 1, nn.BatchNorm2d(b)),
        )  # fmt: skip
        layers.append(Residual(body) if a == b and s == 1 else body)
        a = b
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), _images((96, 160, 256))


class Attending(nn.Module):
    """Self-attention with the heads written out, then two products; norms before each, as a transformer's layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.gathered, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width), kept."""
        batch, length, width = x.shape
        parts = self.gathered(self.first(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5).softmax(-1)
        x = x + self.out((scores @ value).transpose(1, 2).reshape(batch, length, width))
        out: Tensor = x + self.wide(self.second(x))
        return out


class Sequenced(nn.Module):
    """(batch, channels, height, width) -> (batch, height * width, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.flatten(2).transpose(1, 2)


def patches() -> Made:
    """A transformer over patches of a picture, as ViT."""
    layers = [Attending(192, 3) for _ in range(6)]
    return nn.Sequential(nn.Conv2d(3, 192, 16, 16), Sequenced(), *layers, nn.LayerNorm(192)), _images((96, 160, 256))


def tokens() -> Made:
    """A transformer over tokens, as a text encoder."""
    layers = [Attending(384, 6) for _ in range(4)]
    module = nn.Sequential(nn.Embedding(1000, 384), *layers, nn.LayerNorm(384), nn.Linear(384, 256))
    return module, [(torch.randint(0, 256, (1, length)),) for length in (16, 64, 256)]


class Recurrent(nn.Module):
    """The sequence of states of a recurrent layer."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) -> (batch, length, hidden)."""
        out: Tensor = self.layer(x)[0]
        return out


def remembering() -> Made:
    """Two layers of LSTM."""
    module = nn.Sequential(Recurrent(nn.LSTM(80, 256, 2, batch_first=True)), nn.Linear(256, 64))
    return module, [(torch.randn(1, length, 80),) for length in (25, 100, 300)]


def both_ways() -> Made:
    """A GRU in both directions and one behind it."""
    module = nn.Sequential(
        nn.Linear(40, 128), nn.ReLU(), Recurrent(nn.GRU(128, 192, 1, batch_first=True, bidirectional=True)),
        Recurrent(nn.GRU(384, 128, 1, batch_first=True)), nn.Linear(128, 40),
    )  # fmt: skip
    return module, [(torch.randn(1, length, 40),) for length in (30, 90, 240)]


def volumes() -> Made:
    """3-D convolutions, as C3D."""
    layers: list[nn.Module] = []
    a = 3
    for b, pool in ((24, (1, 2, 2)), (48, (2, 2, 2)), (96, (2, 2, 2)), (96, (1, 2, 2))):
        layers += [nn.Conv3d(a, b, 3, 1, 1), nn.ReLU(), nn.MaxPool3d(pool)]
        a = b
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(96, 50))
    return module, [(torch.randn(1, 3, frames, size, size),) for frames, size in ((8, 48), (8, 80), (16, 96))]


class PerFrame(nn.Module):
    """2-D layers on each frame of a video, then one vector per frame."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """(1, channels, frames, height, width) -> (1, frames, features)."""
        return self.body(x.squeeze(0).transpose(0, 1)).mean((2, 3)).unsqueeze(0)


def lips() -> Made:
    """A 3-D front, 2-D residual blocks per frame and a GRU, as a lip reader."""
    front = [nn.Conv3d(1, 32, (5, 7, 7), (1, 2, 2), (2, 3, 3)), nn.BatchNorm3d(32), nn.PReLU(32)]
    body = nn.Sequential(
        nn.MaxPool2d(3, 2, 1), Residual(nn.Sequential(*_conv(32, 32, 3, 1, nn.PReLU(32)), *_conv(32, 32))),
        *_conv(32, 64, 3, 2, nn.PReLU(64)), Residual(nn.Sequential(*_conv(64, 64, 3, 1, nn.PReLU(64)), *_conv(64, 64))),
        *_conv(64, 128, 3, 2, nn.PReLU(128)),
    )  # fmt: skip
    module = nn.Sequential(*front, PerFrame(body), Recurrent(nn.GRU(128, 128, 1, batch_first=True)))
    return module, [(torch.randn(1, 1, frames, size, size),) for frames, size in ((8, 64), (16, 64), (16, 96))]


def wide() -> Made:
    """Large matrix products, as a perceptron's or a language model's."""
    module = nn.Sequential(nn.Linear(1024, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 1024))
    return module, [(torch.randn(rows, 1024),) for rows in (1, 16, 128)]


def waveform() -> Made:
    """Strided 1-D convolutions over samples with group norm and Gelu, as wav2vec's encoder."""
    layers: list[nn.Module] = [nn.Conv1d(1, 192, 10, 5), nn.GroupNorm(16, 192), nn.GELU()]
    for kernel in (8, 4, 4):
        layers += [nn.Conv1d(192, 192, kernel, kernel // 2), nn.GELU()]
    return nn.Sequential(*layers), [(torch.randn(1, 1, samples),) for samples in (4000, 16000, 48000)]


def vocoder() -> Made:
    """Transposed and dilated 1-D convolutions, as HiFi-GAN."""
    layers: list[nn.Module] = [nn.Conv1d(80, 192, 7, 1, 3)]
    a = 192
    for rate in (8, 4, 4):
        b = a // 2
        layers += [nn.LeakyReLU(0.1), nn.ConvTranspose1d(a, b, 2 * rate, rate, rate // 2)]
        for dilation in (1, 3):
            body = [nn.LeakyReLU(0.1), nn.Conv1d(b, b, 3, 1, dilation, dilation), nn.LeakyReLU(0.1)]
            layers.append(Residual(nn.Sequential(*body, nn.Conv1d(b, b, 3, 1, 1))))
        a = b
    return nn.Sequential(*layers, nn.LeakyReLU(0.1), nn.Conv1d(a, 1, 7, 1, 3), nn.Tanh()), [
        (torch.randn(1, 80, frames),) for frames in (10, 30, 90)
    ]


def separator() -> Made:
    """Dilated depthwise 1-D convolutions with global norms, as Conv-TasNet."""
    layers: list[nn.Module] = [nn.Conv1d(1, 128, 16, 8), nn.GroupNorm(1, 128), nn.Conv1d(128, 96, 1)]
    for dilation in (1, 2, 4, 8, 16, 32):
        layers.append(Residual(nn.Sequential(
            nn.Conv1d(96, 192, 1), nn.PReLU(), nn.GroupNorm(1, 192),
            nn.Conv1d(192, 192, 3, 1, dilation, dilation, groups=192), nn.PReLU(), nn.GroupNorm(1, 192),
            nn.Conv1d(192, 96, 1),
        )))  # fmt: skip
    module = nn.Sequential(*layers, nn.Conv1d(96, 128, 1), nn.Sigmoid(), nn.ConvTranspose1d(128, 1, 16, 8))
    return module, [(torch.randn(1, 1, samples),) for samples in (4000, 16000, 40000)]


class Skipping(nn.Module):
    """Down, inside, up, and the input beside the result, as a level of U-Net."""

    def __init__(self, width: int, inside: nn.Module, inner: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.MaxPool2d(2), *_conv(width, inner, 3, 1, nn.BatchNorm2d(inner), nn.ReLU()), inside)
        self.up = nn.ConvTranspose2d(inner, width, 2, 2)
        self.out = nn.Sequential(*_conv(2 * width, width, 3, 1, nn.BatchNorm2d(width), nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, width), kept; sides a multiple of what all levels halve."""
        out: Tensor = self.out(torch.cat([x, self.up(self.down(x))], 1))
        return out


def segmenting() -> Made:
    """Levels joined by concatenation, as U-Net."""
    module: nn.Module = nn.Sequential(*_conv(192, 192, 3, 1, nn.ReLU()))
    for width, inner in ((96, 192), (48, 96), (24, 48)):
        module = Skipping(width, module, inner)
    return nn.Sequential(*_conv(3, 24, 3, 1, nn.ReLU()), module, *_conv(24, 4, 1)), _images((64, 128, 192))


def enlarging() -> Made:
    """Residual blocks and a shuffle of pixels, as super-resolution."""
    layers = _conv(3, 48)
    for _ in range(4):
        layers.append(Residual(nn.Sequential(*_conv(48, 48, 3, 1, nn.ReLU()), *_conv(48, 48))))
    return nn.Sequential(*layers, *_conv(48, 192), nn.PixelShuffle(2), *_conv(48, 3)), _images((32, 64, 112))


def spectrum() -> Made:
    """2-D convolutions over a spectrogram, a GRU and a projection, as sound tagging."""
    layers = [*_conv(1, 32, 3, 1, nn.BatchNorm2d(32), nn.ReLU()), nn.AvgPool2d(2)]
    layers += [*_conv(32, 64, 3, 1, nn.BatchNorm2d(64), nn.ReLU()), nn.AvgPool2d(2)]
    layers += [*_conv(64, 96, 3, 1, nn.BatchNorm2d(96), nn.ReLU()), nn.AdaptiveAvgPool2d((None, 1))]
    module = nn.Sequential(*layers, nn.Flatten(2), Transposed(), Recurrent(nn.GRU(96, 96, 1, batch_first=True)))
    return module, [(torch.randn(1, 1, frames, 64),) for frames in (64, 160, 400)]


class Transposed(nn.Module):
    """(batch, a, b) -> (batch, b, a)."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.transpose(1, 2)


NETWORKS: Mapping[str, Callable[[], Made]] = {
    item.__name__: item
    for item in (
        plain, residual, translation, inverted, modern, excited, patches, tokens, remembering, both_ways, volumes, lips,
        wide, waveform, vocoder, separator, segmenting, enlarging, spectrum,
    )
}  # fmt: skip
