"""The layers that the networks of ``unlike_graphs`` are made of."""

from __future__ import annotations

from torch import Tensor, cat, nn


def conv(a: int, b: int, k: int = 3, s: int = 1, *more: nn.Module, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size where ``s`` is 1, and the layers behind it."""
    return [nn.Conv2d(a, b, k, s, k // 2, groups=groups), *more]


class Residual(nn.Module):
    """``x + body(x)``, the shortcut projected where it must be."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, last: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut, self.last = body, shortcut or nn.Identity(), last or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that the body keeps."""
        out: Tensor = self.last(self.shortcut(x) + self.body(x))
        return out


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


class Recurrent(nn.Module):
    """The sequence of states of a recurrent layer."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) -> (batch, length, hidden)."""
        out: Tensor = self.layer(x)[0]
        return out


class PerFrame(nn.Module):
    """2-D layers on each frame of a video, then one vector per frame."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """(1, channels, frames, height, width) -> (1, frames, features)."""
        return self.body(x.squeeze(0).transpose(0, 1)).mean((2, 3)).unsqueeze(0)


class Skipping(nn.Module):
    """Down, inside, up, and the input beside the result, as a level of U-Net."""

    def __init__(self, width: int, inside: nn.Module, inner: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.MaxPool2d(2), *conv(width, inner, 3, 1, nn.BatchNorm2d(inner), nn.ReLU()), inside)
        self.up = nn.ConvTranspose2d(inner, width, 2, 2)
        self.out = nn.Sequential(*conv(2 * width, width, 3, 1, nn.BatchNorm2d(width), nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, width), kept; sides a multiple of what all levels halve."""
        out: Tensor = self.out(cat([x, self.up(self.down(x))], 1))
        return out


class Transposed(nn.Module):
    """(batch, a, b) -> (batch, b, a)."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.transpose(1, 2)
