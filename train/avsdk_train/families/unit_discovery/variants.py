"""The sizes and kinds that a recipe may name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from avsdk_train.families.unit_discovery.network import Shape

_BASE = Shape()
_SMALL = Shape(
    width=128, inner=256, reach=5, dropout=0.0, speakers=256, inverter_width=128, voices=8,
)  # fmt: skip


def _with_ablations(name: str, shape: Shape) -> dict[str, Shape]:
    """A size with what the paper's tables change, one at a time."""
    return {
        name: shape,
        f"{name}-log-mel": replace(shape, features="log_mel"),
        f"{name}-conv": replace(shape, layer="conv"),
        f"{name}-stride2": replace(shape, stride=2),
        **{f"{name}-k{count}": replace(shape, entries=count) for count in (64, 256, 512)},
    }


SHAPES: Mapping[str, Shape] = {**_with_ablations("base", _BASE), **_with_ablations("small", _SMALL)}
"""``base`` is the paper's, with our choice where it gives none; ``small`` trains on a processor. 128 entries and 25
units per second but where the name says otherwise."""
