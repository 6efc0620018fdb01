"""Making a model fit for an engine: another opset, operators spelt out in others, sizes fixed.

Whether anything is to be done is decided on the facts that our own reader found; only then a child process opens the
model with the onnx package.

A compiler says what its engine needs with one line, ``rewrites = RewritePlan(...)``. ``opset=(7, 13)`` converts up and
down into that range; ``lacking=frozenset({"GRU", "Einsum"})`` names what the engine does not have and ``SPELT_OUT`` or
ONNX's own definition of the operator can replace; ``static=True`` writes the job's sizes into the model and computes
what is then constant, which unrolling a GRU and most of Einsum need. What was done stands in the child's
``request["rewritten"]`` and in the artifact's options. What cannot be done is ``NotAvailable`` with operator and opset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from avsdk.onnx_check import OnnxFacts, check_onnx
from avsdk.spec import GraphSpec
from avsdk.worker import call_in_child

SPELT_OUT = frozenset({
    "Abs", "CastLike", "Celu", "Einsum", "GRU", "Gelu", "GroupNormalization", "HardSigmoid", "HardSwish", "LSTM",
    "LayerNormalization", "Mish", "RMSNormalization", "Swish",
})  # fmt: skip
"""Operators that ``rewrites`` has a rule for, beside those that ONNX itself defines by others."""

_TIMEOUT_S = 600.0
_MEMORY_MB = 16_384


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

    def asks_for(self, facts: OnnxFacts) -> bool:
        """Whether a model with these facts is to be rewritten."""
        lowest, newest = self.opset or (facts.opset, facts.opset)
        if not facts.opset:  # none of ONNX's own operators: there is nothing to convert
            lowest = newest = 0
        too_new = self.ir is not None and facts.ir > self.ir
        return self.static or too_new or not lowest <= facts.opset <= newest or bool(self.lacking & facts.ops.keys())


@dataclass(frozen=True)
class Rewritten:
    """The model to compile, and what was done to it: one line each, empty where it is the model as it came."""

    onnx: Path
    applied: tuple[str, ...] = ()


def rewritten_model(
    onnx: Path, folder: Path, plan: RewritePlan, graph: GraphSpec, sizes: Mapping[str, int] | None
) -> Rewritten:
    """Rewrite the model into ``folder`` where the plan asks for it; the tensors of ``graph`` keep name and type.

    Raises ``NotAvailable`` naming the operator, its opset and the reason where the model cannot be made to fit.
    """
    if not plan.asks_for(check_onnx(onnx)):
        return Rewritten(onnx)
    shapes = None
    if plan.static and (sizes is not None or not graph.axes):
        shapes = {item.name: list(item.sized(sizes or {})) for item in graph.inputs}
    return _in_child(onnx, folder / onnx.name, plan, shapes)


def converted(onnx: Path, out: Path, lowest: int, newest: int) -> Rewritten:
    """Convert a model into ``out`` with an opset from ``lowest`` to ``newest``; as it came where it has one already.

    Raises ``NotAvailable`` naming the operator and the opset where it cannot be converted.
    """
    plan = RewritePlan(opset=(lowest, newest))
    return _in_child(onnx, out, plan, None) if plan.asks_for(check_onnx(onnx)) else Rewritten(onnx)


def _in_child(onnx: Path, out: Path, plan: RewritePlan, shapes: Mapping[str, list[int]] | None) -> Rewritten:
    request = {
        "onnx": str(onnx),
        "out": str(out),
        "opset": None if plan.opset is None else list(plan.opset),
        "ir": plan.ir,
        "lacking": sorted(plan.lacking),
        "shapes": shapes,
    }
    answer = call_in_child(
        "avsdk_targets.rewrites.steps:rewrite",
        name="rewrite",
        timeout_s=_TIMEOUT_S,
        memory_mb=_MEMORY_MB,
        request=request,
    )
    return Rewritten(out, tuple(answer["applied"]))
