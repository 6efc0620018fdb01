"""Small networks and their specs."""

from __future__ import annotations

from torch import Tensor, nn

from avsdk.spec import AxisRange, GraphSpec, ModelSpec, Step, TensorSpec


def style_spec() -> ModelSpec:
    """The spec of the style network, as its family writes it."""
    shape = ("batch", 3, "height", "width")
    side = AxisRange(min=64, max=4096, multiple_of=4, default=256)
    graph = GraphSpec(
        "transform",
        (TensorSpec("image", "float32", shape),),
        (TensorSpec("styled", "float32", shape),),
        {"batch": AxisRange(1, 64), "height": side, "width": side},
    )
    return ModelSpec(
        "style_transfer/random",
        "style_transfer",
        (graph,),
        (
            Step("image_rgb"),
            Step("pad_to_multiple", {"multiple": 4, "mode": "reflect"}),
            Step("to_nchw_float", {"scale": 1.0}),
        ),
        (Step("from_nchw_float"), Step("crop_to_input"), Step("clip_uint8")),
    )


def vector_spec(axes: dict[str, AxisRange] | None = None, outputs: int = 4) -> ModelSpec:
    """A graph from (batch, 4) to (batch, outputs)."""
    graph = GraphSpec(
        "model",
        (TensorSpec("x", "float32", ("batch", 4)),),
        (TensorSpec("y", "float32", ("batch", outputs)),),
        {"batch": AxisRange(1, 32)} if axes is None else axes,
    )
    return ModelSpec("vector", "tensor", (graph,))


class Branches(nn.Module):
    """Control flow on data, which cannot be exported."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


class Norms(nn.Module):
    """Instance norms of every kind: without weights, with running statistics, in one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.InstanceNorm2d(4)
        self.running = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
        self.line = nn.InstanceNorm1d(4, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.line((self.plain(x) + self.running(x)).flatten(2))
