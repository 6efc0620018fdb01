"""The three networks that ship, without what training alone needs; whole numbers are int32 at their borders."""

from __future__ import annotations

from torch import Tensor, nn

from avsdk.spec import AxisRange, GraphSpec, TensorSpec
from avsdk_train.families.unit_discovery.attention import mask_from_lengths
from avsdk_train.families.unit_discovery.network import Shape, UnitNet

MOST_FRAMES = 4096
"""The longest window: 41 seconds."""
_DEFAULT_FRAMES = 512


class EncoderGraph(nn.Module):
    """Features and their length to codes, the vectors before the codebook, and its entries."""

    def __init__(self, network: UnitNet) -> None:
        super().__init__()
        self.encoder, self.codebook = network.encoder, network.codebook
        self.shape = network.shape

    def forward(self, features: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, frames, size) and (batch,) to (batch, units), and twice (batch, units, code_size)."""
        vectors = self.encoder(features, length)
        codes = self.codebook.nearest(vectors)
        return codes.int(), vectors, self.codebook.looked_up(codes)


class DecoderGraph(nn.Module):
    """Codes, their number and a speaker to features."""

    def __init__(self, network: UnitNet) -> None:
        super().__init__()
        self.decoder, self.codebook = network.decoder, network.codebook

    def forward(self, codes: Tensor, length: Tensor, speaker: Tensor) -> Tensor:
        """(batch, units), (batch,) and (batch,) to (batch, units * stride, size)."""
        features: Tensor = self.decoder(
            self.codebook.looked_up(codes), speaker, mask_from_lengths(length, codes.shape[1])
        )
        return features


class InverterGraph(nn.Module):
    """Codes, their number and a voice to linear magnitudes."""

    def __init__(self, network: UnitNet) -> None:
        super().__init__()
        self.inverter, self.codebook = network.inverter, network.codebook

    def forward(self, codes: Tensor, length: Tensor, voice: Tensor) -> Tensor:
        """(batch, units), (batch,) and (batch,) to (batch, units * stride, bins)."""
        magnitudes: Tensor = self.inverter(
            self.codebook.looked_up(codes), voice, mask_from_lengths(length, codes.shape[1])
        )
        return magnitudes


def graphs_of(network: UnitNet) -> dict[str, nn.Module]:
    """The networks by graph."""
    return {
        "encoder": EncoderGraph(network),
        "decoder": DecoderGraph(network),
        "inverter": InverterGraph(network),
    }


def graph_specs(shape: Shape) -> tuple[GraphSpec, ...]:
    """Their tensors; ``frames`` is a multiple of the stride, and there are as many ``units`` as it says."""
    batch = AxisRange(min=1, max=64)
    frames = AxisRange(min=shape.stride, max=MOST_FRAMES, multiple_of=shape.stride, default=_DEFAULT_FRAMES)
    units = AxisRange(min=1, max=MOST_FRAMES // shape.stride, default=_DEFAULT_FRAMES // shape.stride)
    length = TensorSpec("length", "int32", ("batch",))
    codes = TensorSpec("codes", "int32", ("batch", "units"))
    vectors = (TensorSpec(name, "float32", ("batch", "units", shape.code_size)) for name in ("vectors", "entries"))
    encoder = GraphSpec(
        "encoder",
        inputs=(TensorSpec("features", "float32", ("batch", "frames", shape.feature_size)), length),
        outputs=(codes, *vectors),
        axes={"batch": batch, "frames": frames},
    )
    decoder, inverter = (
        GraphSpec(
            name,
            inputs=(codes, length, TensorSpec(who, "int32", ("batch",))),
            outputs=(TensorSpec(answer, "float32", ("batch", "frames", size)),),
            axes={"batch": batch, "units": units},
        )
        for name, who, answer, size in (
            ("decoder", "speaker", "features", shape.feature_size),
            ("inverter", "voice", "magnitudes", shape.bins),
        )
    )
    return encoder, decoder, inverter
