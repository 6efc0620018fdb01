"""Activations, and other functions of single elements, spelt out in elementary operators."""

from __future__ import annotations

import math

from onnx import TensorProto

from avsdk_targets.rewrites.draft import CannotSpellOut, Draft

_UNSIGNED = {TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64}


def absolute(draft: Draft) -> None:
    """max(x, -x); numbers without a sign stay."""
    x = draft.input(0)
    if draft.known.types.get(x) in _UNSIGNED:
        draft.add("Identity", x, out=draft.output(0))
    else:
        draft.add("Max", x, draft.add("Neg", x), out=draft.output(0))


def cast_like(draft: Draft) -> None:
    """The cast to the type that the second operand is known to have."""
    draft.cast(draft.input(0), draft.type(draft.input(1)), out=draft.output(0))


def hard_sigmoid(draft: Draft) -> None:
    """max(0, min(1, alpha x + beta))."""
    alpha, beta = draft.attribute("alpha", 0.2), draft.attribute("beta", 0.5)
    _hard_sigmoid(draft, alpha, beta, draft.output(0))


def hard_swish(draft: Draft) -> None:
    """x max(0, min(1, x / 6 + 1 / 2))."""
    gate = _hard_sigmoid(draft, 1 / 6, 0.5)
    draft.add("Mul", draft.input(0), gate, out=draft.output(0))


def mish(draft: Draft) -> None:
    """x tanh(softplus(x))."""
    x = draft.input(0)
    draft.add("Mul", x, draft.add("Tanh", draft.add("Softplus", x)), out=draft.output(0))


def swish(draft: Draft) -> None:
    """x sigmoid(alpha x)."""
    x, alpha = draft.input(0), draft.attribute("alpha", 1.0)
    scaled = x if alpha == 1.0 else draft.add("Mul", x, draft.value(alpha, draft.type(x)))
    draft.add("Mul", x, draft.add("Sigmoid", scaled), out=draft.output(0))


def gelu(draft: Draft) -> None:
    """x Phi(x), with the error function, or its approximation by tanh where the node asks for it."""
    x = draft.input(0)
    kind = draft.type(x)
    form = draft.attribute("approximate", "none")
    if form == "tanh":
        cube = draft.add("Mul", draft.add("Mul", x, x), x)
        inner = draft.add("Add", x, draft.add("Mul", cube, draft.value(0.044715, kind)))
        inner = draft.add("Tanh", draft.add("Mul", inner, draft.value(math.sqrt(2 / math.pi), kind)))
    elif form == "none":
        inner = draft.add("Erf", draft.add("Mul", x, draft.value(math.sqrt(0.5), kind)))
    else:
        raise CannotSpellOut(f"approximate={form!r}")
    half = draft.add("Mul", x, draft.value(0.5, kind))
    draft.add("Mul", half, draft.add("Add", inner, draft.value(1.0, kind)), out=draft.output(0))


def celu(draft: Draft) -> None:
    """max(0, x) + min(0, alpha (exp(x / alpha) - 1)), which is alpha elu(x / alpha) for alpha > 0."""
    x, alpha = draft.input(0), draft.attribute("alpha", 1.0)
    if alpha <= 0:
        raise CannotSpellOut(f"alpha={alpha:g}: above 0 only")
    kind = draft.type(x)
    inner = draft.add("Elu", draft.add("Div", x, draft.value(alpha, kind)), alpha=1.0)
    draft.add("Mul", inner, draft.value(alpha, kind), out=draft.output(0))


def _hard_sigmoid(draft: Draft, alpha: float, beta: float, out: str = "") -> str:
    x = draft.input(0)
    kind = draft.type(x)
    line = draft.add("Add", draft.add("Mul", x, draft.value(alpha, kind)), draft.value(beta, kind))
    return draft.add("Clip", line, draft.value(0.0, kind), draft.value(1.0, kind), out=out)
