"""Normalisations spelt out in means, products and roots, in the precision that the node asks for."""

from __future__ import annotations

from avsdk_targets.rewrites.draft import CannotSpellOut, Draft


def layer_normalization(draft: Draft) -> None:
    """(x - mean) / sqrt(var + epsilon) * scale + bias over the axes from ``axis`` on."""
    x, scale, bias = draft.input(0), draft.input(1), draft.input(2)
    work = draft.attribute("stash_type", 1)
    axes = _last_axes(draft)
    wide = _as(draft, x, work)
    mean = draft.reduced("ReduceMean", wide, axes, out=draft.output(1))
    centred = draft.add("Sub", wide, mean)
    inverse = _inverse_root(draft, centred, axes, work, out=draft.output(2))
    normed = _back(draft, draft.add("Mul", centred, inverse), x, work)
    _scaled(draft, normed, scale, bias)


def rms_normalization(draft: Draft) -> None:
    """x / sqrt(mean(x^2) + epsilon) * scale over the axes from ``axis`` on."""
    x = draft.input(0)
    work = draft.attribute("stash_type", 1)
    wide = _as(draft, x, work)
    inverse = _inverse_root(draft, wide, _last_axes(draft), work)
    _scaled(draft, _back(draft, draft.add("Mul", wide, inverse), x, work), draft.input(1), "")


def group_normalization(draft: Draft) -> None:
    """Each group of channels normalised on its own, by instance normalisation of the channels joined to groups."""
    x, scale, bias = draft.input(0), draft.input(1), draft.input(2)
    groups, rank = draft.attribute("num_groups", 0), draft.rank(x)
    channels = draft.known.shapes[x][1]
    if channels is None or rank < 3:
        raise CannotSpellOut(f"the number of channels of {x!r} is not known, or there is no axis after them")
    kind = draft.type(x)
    joined = draft.reshaped(x, [0, groups, -1])
    ones, zeros = draft.value([1.0] * groups, kind), draft.value([0.0] * groups, kind)
    normed = draft.add("InstanceNormalization", joined, ones, zeros, epsilon=draft.attribute("epsilon", 1e-5))
    apart = draft.add("Reshape", normed, draft.add("Shape", x))
    shape = [1, channels, *[1] * (rank - 2)]
    if draft.known.opset < 21:  # one scale per group, before opset 21
        scale, bias = (_per_channel(draft, name, groups, channels // groups) for name in (scale, bias))
    product = draft.add("Mul", apart, draft.reshaped(scale, shape))
    draft.add("Add", product, draft.reshaped(bias, shape), out=draft.output(0))


def _per_channel(draft: Draft, name: str, groups: int, repeat: int) -> str:
    return draft.add("Expand", draft.reshaped(name, [groups, 1]), draft.ints(groups, repeat))


def _last_axes(draft: Draft) -> list[int]:
    rank = draft.rank(draft.input(0))
    return list(range(draft.attribute("axis", -1) % rank, rank))


def _inverse_root(draft: Draft, centred: str, axes: list[int], kind: int, out: str = "") -> str:
    square = draft.reduced("ReduceMean", draft.add("Mul", centred, centred), axes)
    shifted = draft.add("Add", square, draft.value(draft.attribute("epsilon", 1e-5), kind))
    return draft.add("Reciprocal", draft.add("Sqrt", shifted), out=out)


def _as(draft: Draft, name: str, kind: int) -> str:
    return name if draft.type(name) == kind else draft.cast(name, kind)


def _back(draft: Draft, name: str, like: str, work: int) -> str:
    return name if draft.type(like) == work else draft.cast(name, draft.type(like))


def _scaled(draft: Draft, normed: str, scale: str, bias: str) -> None:
    product = draft.add("Mul", normed, scale, out="" if bias else draft.output(0))
    if bias:
        draft.add("Add", product, bias, out=draft.output(0))
