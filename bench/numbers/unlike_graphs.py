"""Networks that are unlike each other, with random weights, at three sizes each: what predictions are judged on.

``network(name)`` -> a module, and one tuple of example inputs per size. Integers are token numbers below 256.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from unlike_layers import (
    Attending,
    ChannelsLast,
    Excite,
    PerFrame,
    Recurrent,
    Residual,
    Sequenced,
    Skipping,
    Transposed,
    conv,
)  # fmt: skip

from avsdk_export.program import nearest_size
from avsdk_train.family import load_trained

Inputs = tuple[Tensor, ...]
Made = tuple[nn.Module, list[Inputs]]


def network(name: str) -> Made:
    """The network of that name, in evaluation mode, its weights seeded by its name; ``zoo:NAME/GRAPH`` is the zoo's."""
    torch.manual_seed(sum(map(ord, name)))
    module, sizes = _zoo(name) if name.startswith("zoo:") else NETWORKS[name]()
    return module.eval(), sizes


def _zoo(name: str) -> Made:
    """A graph of the zoo's at three eighths, five eighths, and all of its default sizes."""
    model, _, graph = name.rpartition("/")
    trained = load_trained(model)
    spec = trained.spec.graph(graph)
    sizes = []
    for eighths in (3, 5, 8):
        asked = {
            axis: nearest_size(known, eighths * known.default // 8) if known.default > 1 else 1
            for axis, known in spec.axes.items()
        }
        sizes.append(tuple(_filled(item.sized(asked), item.dtype) for item in spec.inputs))
    return trained.networks[graph], sizes


def _filled(shape: tuple[int, ...], dtype: str) -> Tensor:
    kind: torch.dtype = getattr(torch, dtype)
    return torch.randn(shape).to(kind) if kind.is_floating_point else torch.randint(0, 256, shape, dtype=kind)


def _images(sizes: Sequence[int], channels: int = 3) -> list[Inputs]:
    return [(torch.randn(1, channels, size, size),) for size in sizes]


def plain() -> Made:
    """Convolutions and pooling only, as VGG."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 64, 128, 256):
        layers += [*conv(channels, width, 3, 1, nn.ReLU()), *conv(width, width, 3, 1, nn.ReLU()), nn.MaxPool2d(2)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 100)), _images((64, 128, 224))


def residual() -> Made:
    """Strided residual blocks with batch norm, as ResNet-18."""
    layers: list[nn.Module] = [*conv(3, 64, 7, 2, nn.BatchNorm2d(64), nn.ReLU()), nn.MaxPool2d(3, 2, 1)]
    a = 64
    for b, s in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        body = nn.Sequential(*conv(a, b, 3, s, nn.BatchNorm2d(b), nn.ReLU()), *conv(b, b, 3, 1, nn.BatchNorm2d(b)))
        layers.append(Residual(body, nn.Conv2d(a, b, 1, s) if a != b else None, nn.ReLU()))
        a = b
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 100)), _images((96, 160, 224))


def translation() -> Made:
    """Instance norms and transposed convolutions, as the generators of CycleGAN."""

    def norm(width: int) -> nn.Module:
        return nn.InstanceNorm2d(width, affine=True)

    layers = [*conv(3, 24, 7, 1, norm(24), nn.ReLU()), *conv(24, 48, 3, 2, norm(48), nn.ReLU())]
    layers += conv(48, 96, 3, 2, norm(96), nn.ReLU())
    for _ in range(3):
        layers.append(Residual(nn.Sequential(*conv(96, 96, 3, 1, norm(96), nn.ReLU()), *conv(96, 96, 3, 1, norm(96)))))
    for a, b in ((96, 48), (48, 24)):
        layers += [nn.ConvTranspose2d(a, b, 3, 2, 1, 1), norm(b), nn.ReLU()]
    return nn.Sequential(*layers, *conv(24, 3, 7), nn.Tanh()), _images((64, 128, 224))


def inverted() -> Made:
    """Inverted bottlenecks with depthwise convolutions, as MobileNet v2."""
    layers: list[nn.Module] = conv(3, 32, 3, 2, nn.BatchNorm2d(32), nn.ReLU6())
    a = 32
    for b, s in ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (64, 2), (64, 1), (96, 1), (96, 1)):
        h = a * 6
        body = nn.Sequential(
            *conv(a, h, 1, 1, nn.BatchNorm2d(h), nn.ReLU6()),
            *conv(h, h, 3, s, nn.BatchNorm2d(h), nn.ReLU6(), groups=h), *conv(h, b, 1, 1, nn.BatchNorm2d(b)),
        )  # fmt: skip
        layers.append(Residual(body) if a == b and s == 1 else body)
        a = b
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(a, 100)), _images((96, 160, 256))


def modern() -> Made:
    """Large depthwise convolutions, layer norm and Gelu, as ConvNeXt."""
    layers: list[nn.Module] = [nn.Conv2d(3, 48, 4, 4)]
    for width, following in ((48, 96), (96, 192), (192, 0)):
        for _ in range(2):
            layers.append(Residual(nn.Sequential(nn.Conv2d(width, width, 7, 1, 3, groups=width), ChannelsLast(width))))
        layers += [nn.Conv2d(width, following, 2, 2)] if following else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), _images((64, 128, 224))


def excited() -> Made:
    """Depthwise convolutions with squeeze and excitation and Swish, as EfficientNet."""
    layers: list[nn.Module] = conv(3, 24, 3, 2, nn.BatchNorm2d(24), nn.SiLU())
    a = 24
    for b, s, k in ((24, 1, 3), (40, 2, 5), (40, 1, 5), (80, 2, 3), (80, 1, 3), (112, 2, 5), (112, 1, 5)):
        h = a * 4
        body = nn.Sequential(
            *conv(a, h, 1, 1, nn.BatchNorm2d(h), nn.SiLU()),
            *conv(h, h, k, s, nn.BatchNorm2d(h), nn.SiLU(), Excite(h), groups=h),
            *conv(h, b, 1, 1, nn.BatchNorm2d(b)),
        )  # fmt: skip
        layers.append(Residual(body) if a == b and s == 1 else body)
        a = b
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), _images((96, 160, 256))


def patches() -> Made:
    """A transformer over patches of a picture, as ViT."""
    layers = [Attending(192, 3) for _ in range(6)]
    return nn.Sequential(nn.Conv2d(3, 192, 16, 16), Sequenced(), *layers, nn.LayerNorm(192)), _images((96, 160, 256))


def tokens() -> Made:
    """A transformer over tokens, as a text encoder."""
    layers = [Attending(384, 6) for _ in range(4)]
    module = nn.Sequential(nn.Embedding(1000, 384), *layers, nn.LayerNorm(384), nn.Linear(384, 256))
    return module, [(torch.randint(0, 256, (1, length)),) for length in (16, 64, 256)]


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


def factored() -> Made:
    """3-D convolutions as one over the picture and one over time, with batch norm and shortcuts, as R(2+1)D."""

    def pair(a: int, b: int, stride: int = 1) -> list[nn.Module]:
        across = nn.Conv3d(a, b, (1, 3, 3), (1, stride, stride), (0, 1, 1))
        along = nn.Conv3d(b, b, (3, 1, 1), 1, (1, 0, 0))
        return [across, nn.BatchNorm3d(b), nn.ReLU(), along, nn.BatchNorm3d(b)]

    layers = [*pair(3, 32, 2), nn.ReLU(), Residual(nn.Sequential(*pair(32, 32), nn.ReLU(), *pair(32, 32)))]
    layers += [*pair(32, 64, 2), nn.ReLU(), Residual(nn.Sequential(*pair(64, 64), nn.ReLU(), *pair(64, 64)))]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(64, 50))
    return module, [(torch.randn(1, 3, frames, size, size),) for frames, size in ((8, 64), (8, 96), (16, 112))]


def denoising() -> Made:
    """3-D convolutions of few channels at full size, as for the noise of volumes and videos."""
    layers: list[nn.Module] = [nn.Conv3d(1, 16, 3, 1, 1), nn.LeakyReLU(0.1)]
    for _ in range(3):
        layers += [nn.Conv3d(16, 16, 3, 1, 1), nn.LeakyReLU(0.1)]
    module = nn.Sequential(*layers, nn.Conv3d(16, 1, 3, 1, 1))
    return module, [(torch.randn(1, 1, frames, size, size),) for frames, size in ((8, 32), (8, 64), (16, 80))]


def lips() -> Made:
    """A 3-D front, 2-D residual blocks per frame and a GRU, as a lip reader."""
    front = [nn.Conv3d(1, 32, (5, 7, 7), (1, 2, 2), (2, 3, 3)), nn.BatchNorm3d(32), nn.PReLU(32)]
    body = nn.Sequential(
        nn.MaxPool2d(3, 2, 1), Residual(nn.Sequential(*conv(32, 32, 3, 1, nn.PReLU(32)), *conv(32, 32))),
        *conv(32, 64, 3, 2, nn.PReLU(64)), Residual(nn.Sequential(*conv(64, 64, 3, 1, nn.PReLU(64)), *conv(64, 64))),
        *conv(64, 128, 3, 2, nn.PReLU(128)),
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


def segmenting() -> Made:
    """Levels joined by concatenation, as U-Net."""
    module: nn.Module = nn.Sequential(*conv(192, 192, 3, 1, nn.ReLU()))
    for width, inner in ((96, 192), (48, 96), (24, 48)):
        module = Skipping(width, module, inner)
    return nn.Sequential(*conv(3, 24, 3, 1, nn.ReLU()), module, *conv(24, 4, 1)), _images((64, 128, 192))


def enlarging() -> Made:
    """Residual blocks and a shuffle of pixels, as super-resolution."""
    layers = conv(3, 48)
    for _ in range(4):
        layers.append(Residual(nn.Sequential(*conv(48, 48, 3, 1, nn.ReLU()), *conv(48, 48))))
    return nn.Sequential(*layers, *conv(48, 192), nn.PixelShuffle(2), *conv(48, 3)), _images((32, 64, 112))


def spectrum() -> Made:
    """2-D convolutions over a spectrogram, a GRU and a projection, as sound tagging."""
    layers = [*conv(1, 32, 3, 1, nn.BatchNorm2d(32), nn.ReLU()), nn.AvgPool2d(2)]
    layers += [*conv(32, 64, 3, 1, nn.BatchNorm2d(64), nn.ReLU()), nn.AvgPool2d(2)]
    layers += [*conv(64, 96, 3, 1, nn.BatchNorm2d(96), nn.ReLU()), nn.AdaptiveAvgPool2d((None, 1))]
    module = nn.Sequential(*layers, nn.Flatten(2), Transposed(), Recurrent(nn.GRU(96, 96, 1, batch_first=True)))
    return module, [(torch.randn(1, 1, frames, 64),) for frames in (64, 160, 400)]


NETWORKS: Mapping[str, Callable[[], Made]] = {
    item.__name__: item
    for item in (
        plain, residual, translation, inverted, modern, excited, patches, tokens, remembering, both_ways, volumes,
        factored, denoising, lips, wide, waveform, vocoder, separator, segmenting, enlarging, spectrum,
    )
}  # fmt: skip
