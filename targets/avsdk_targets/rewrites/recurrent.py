"""GRU and LSTM unrolled in time: one set of elementary nodes per step, so the sequence length must be fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from avsdk_targets.rewrites.draft import CannotSpellOut, Draft

_MAX_STEPS = 512
"""About 20 nodes per step; beyond this neither the compiler nor the device is served by unrolling."""
_DEFAULTS = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
_PLAIN = {"Sigmoid", "Tanh", "Relu", "Softsign", "Softplus"}
"""Activations without parameters, which are operators of the same name."""


def gru(draft: Draft) -> None:
    """Gates z, r, h of ONNX's order, with ``linear_before_reset`` 0 or 1."""
    _unrolled(draft, _gru_step)


def lstm(draft: Draft) -> None:
    """Gates i, o, f, c of ONNX's order, with peepholes."""
    _unrolled(draft, _lstm_step)


@dataclass(frozen=True)
class _Cell:
    """One direction: weights turned for multiplication from the right, biases as (gates x hidden), or empty names."""

    draft: Draft
    hidden: int
    recurrent: str
    bias: str
    recurrent_bias: str
    peepholes: str
    activations: tuple[str, ...]

    def activated(self, index: int, name: str) -> str:
        return self.draft.add(self.activations[index], name)

    def gates(self, name: str, first: int, last: int) -> str:
        return self.draft.part(name, -1, first * self.hidden, last * self.hidden)


_Step = Callable[[_Cell, str, tuple[str, ...]], tuple[str, ...]]
"""A cell, one step's share of the input (batch, gates x hidden) and the states before it -> the states after it."""


def _unrolled(draft: Draft, step: _Step) -> None:
    x = draft.input(0)
    sizes = draft.sizes(x)
    layout = draft.attribute("layout", 0)
    length = sizes[1] if layout else sizes[0]
    directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    _refuse(draft, length)
    if layout:
        x = draft.add("Transpose", x, perm=[1, 0, 2])
    batch = sizes[0] if layout else sizes[1]
    ended = [
        _direction(draft, step, x, index, backwards, (length, batch), layout)
        for index, backwards in enumerate(directions[draft.attribute("direction", "forward")])
    ]
    if draft.output(0):  # length, directions, batch, hidden
        joined = _concat(draft, [steps for steps, _ in ended], 1, "" if layout else draft.output(0))
        if layout:
            draft.add("Transpose", joined, out=draft.output(0), perm=[2, 0, 1, 3])
    for number in range(len(ended[0][1])):
        if draft.output(1 + number):
            _state_out(draft, [states[number] for _, states in ended], layout, draft.output(1 + number))


def _refuse(draft: Draft, length: int) -> None:
    if length > _MAX_STEPS:
        raise CannotSpellOut(f"{length} steps: {_MAX_STEPS} at most are unrolled")
    if draft.input(4):
        lengths = draft.constant(draft.input(4))
        if any(int(item) != length for item in lengths):
            raise CannotSpellOut(f"sequence_lens {lengths.tolist()} differ from the {length} steps")
    for name in ("clip", "activation_alpha", "activation_beta"):
        if draft.attribute(name, None):
            raise CannotSpellOut(f"the attribute {name}")
    if draft.attribute("input_forget", 0):
        raise CannotSpellOut("the attribute input_forget")
    strange = set(draft.attribute("activations", [])) - _PLAIN
    if strange:
        raise CannotSpellOut(f"the activation {min(strange)}")


def _direction(
    draft: Draft, step: _Step, x: str, index: int, backwards: bool, extent: tuple[int, int], layout: int
) -> tuple[str, tuple[str, ...]]:
    """All hidden states of one direction (length, 1, batch, hidden), and the last states (1, batch, hidden)."""
    length, batch = extent
    kind = draft.node.op_type
    hidden = draft.attribute("hidden_size", 0) or draft.sizes(draft.input(2))[-1]
    usual = _DEFAULTS[kind]
    named = draft.attribute("activations", []) or usual * 2
    weights = _turned(draft, draft.input(1), index)
    bias = recurrent_bias = ""
    if draft.input(3):
        both = _of_direction(draft, draft.input(3), index)
        half = draft.sizes(draft.input(3))[1] // 2
        bias, recurrent_bias = draft.part(both, 0, 0, half), draft.part(both, 0, half, 2 * half)
    cell = _Cell(
        draft=draft,
        hidden=hidden,
        recurrent=_turned(draft, draft.input(2), index),
        bias=bias,
        recurrent_bias=recurrent_bias,
        peepholes=_of_direction(draft, draft.input(7), index) if draft.input(7) else "",
        activations=tuple(named[index * len(usual) : (index + 1) * len(usual)]),
    )
    inputs = draft.add("MatMul", x, weights)  # every step's share of the input at once
    inputs = draft.add("Add", inputs, bias) if bias else inputs
    states = tuple(
        _first_state(draft, place, index, (batch, hidden), layout) for place in ((5,) if kind == "GRU" else (5, 6))
    )
    steps = [""] * length
    for time in reversed(range(length)) if backwards else range(length):
        now = draft.reshaped(draft.part(inputs, 0, time, time + 1), [batch, -1])
        states = step(cell, now, states)
        steps[time] = draft.reshaped(states[0], [1, 1, batch, hidden])
    return _concat(draft, steps, 0), tuple(draft.reshaped(state, [1, batch, hidden]) for state in states)


def _gru_step(cell: _Cell, now: str, states: tuple[str, ...]) -> tuple[str, ...]:
    draft, before = cell.draft, states[0]
    linear = draft.attribute("linear_before_reset", 0)
    recurrent = draft.add("MatMul", before, cell.gates(cell.recurrent, 0, 3 if linear else 2))
    if cell.recurrent_bias:
        recurrent = draft.add("Add", recurrent, cell.gates(cell.recurrent_bias, 0, 3 if linear else 2))
    both = draft.add("Add", cell.gates(now, 0, 2), cell.gates(recurrent, 0, 2) if linear else recurrent)
    both = cell.activated(0, both)
    update, reset = cell.gates(both, 0, 1), cell.gates(both, 1, 2)
    if linear:
        share = draft.add("Mul", reset, cell.gates(recurrent, 2, 3))
    else:
        share = draft.add("MatMul", draft.add("Mul", reset, before), cell.gates(cell.recurrent, 2, 3))
        if cell.recurrent_bias:
            share = draft.add("Add", share, cell.gates(cell.recurrent_bias, 2, 3))
    candidate = cell.activated(1, draft.add("Add", cell.gates(now, 2, 3), share))
    # (1 - z) h + z H, with one product less
    kept = draft.add("Mul", update, draft.add("Sub", before, candidate))
    return (draft.add("Add", candidate, kept),)


def _lstm_step(cell: _Cell, now: str, states: tuple[str, ...]) -> tuple[str, ...]:
    draft, (before, memory) = cell.draft, states
    recurrent = draft.add("MatMul", before, cell.recurrent)
    if cell.recurrent_bias:
        recurrent = draft.add("Add", recurrent, cell.recurrent_bias)
    total = draft.add("Add", now, recurrent)

    def gate(index: int, peephole: int, watched: str) -> str:
        share = cell.gates(total, index, index + 1)
        if cell.peepholes:
            share = draft.add(
                "Add", share, draft.add("Mul", cell.gates(cell.peepholes, peephole, peephole + 1), watched)
            )
        return cell.activated(0, share)

    let_in, forget = gate(0, 0, memory), gate(2, 2, memory)
    candidate = cell.activated(1, cell.gates(total, 3, 4))
    fresh = draft.add("Add", draft.add("Mul", forget, memory), draft.add("Mul", let_in, candidate))
    return draft.add("Mul", gate(1, 1, fresh), cell.activated(2, fresh)), fresh


def _first_state(draft: Draft, place: int, index: int, shape: tuple[int, int], layout: int) -> str:
    given = draft.input(place)
    if not given:
        kind = draft.type(draft.input(0))
        return draft.value([[0.0] * shape[1]] * shape[0], kind)
    if layout:
        given = draft.add("Transpose", given, perm=[1, 0, 2])
    return draft.reshaped(draft.part(given, 0, index, index + 1), shape)


def _state_out(draft: Draft, states: Sequence[str], layout: int, out: str) -> None:
    joined = _concat(draft, states, 0, "" if layout else out)
    if layout:
        draft.add("Transpose", joined, out=out, perm=[1, 0, 2])


def _of_direction(draft: Draft, name: str, index: int) -> str:
    """One direction's weights, without the axis of directions."""
    return draft.reshaped(draft.part(name, 0, index, index + 1), draft.sizes(name)[1:])


def _turned(draft: Draft, name: str, index: int) -> str:
    return draft.add("Transpose", _of_direction(draft, name, index), perm=[1, 0])


def _concat(draft: Draft, names: Sequence[str], axis: int, out: str = "") -> str:
    return draft.add("Concat", *names, out=out, axis=axis)
