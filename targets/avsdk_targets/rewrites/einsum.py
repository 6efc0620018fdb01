"""Einsum of one or two operands as transposes, sums and one matrix product."""

from __future__ import annotations

import math
from collections.abc import Sequence

from avsdk_targets.rewrites.draft import CannotSpellOut, Draft

_FREE_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Stand for the axes of an ellipsis, which no equation names; letters that it uses are skipped."""


def einsum(draft: Draft) -> None:
    """Sum what one operand alone has and the result lacks, then one product of matrices over batch axes."""
    terms, result = _terms(draft)
    operands = []
    for index, (name, term) in enumerate(zip(draft.node.input, terms)):
        others = {*result, *"".join(terms[:index] + terms[index + 1 :])}
        operands.append(_summed(draft, name, term, others))
    if len(operands) == 1:
        (name, term), shape = operands[0], {}
    elif len(operands) == 2:
        shape = _sizes(draft, terms)
        name, term = _product(draft, operands[0], operands[1], result, shape)
    else:
        raise CannotSpellOut(f"{len(operands)} operands: two at most")
    _transposed(draft, name, term, result, out=draft.output(0))


def _terms(draft: Draft) -> tuple[list[str], str]:
    """The letters of each operand and of the result, ellipses written out, the result made where there is no arrow."""
    equation = draft.attribute("equation", "").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(draft.node.input):
        raise CannotSpellOut(f"{equation!r} has not one term for each of {len(draft.node.input)} inputs")
    letters = [letter for letter in _FREE_LETTERS if letter not in equation]
    widths = [draft.rank(name) - len(term) + 3 for name, term in zip(draft.node.input, terms) if "..." in term]
    if len(set(widths)) > 1:
        raise CannotSpellOut(f"{equation!r} broadcasts the axes of its ellipses")
    axes = "".join(letters[: widths[0]]) if widths else ""
    terms = [term.replace("...", axes) for term in terms]
    if not arrow:
        joined = "".join(terms)
        named = sorted(letter for letter in set(joined) - set(axes) if joined.count(letter) == 1)
        result = axes + "".join(named)
    result = result.replace("...", axes)
    for term in (*terms, result):
        if len(set(term)) < len(term):
            raise CannotSpellOut(f"{equation!r} takes a diagonal")
    strange = sorted(set(result) - set("".join(terms)))
    if strange:
        raise CannotSpellOut(f"no operand of {equation!r} has the axis {strange[0]!r}")
    return terms, result


def _sizes(draft: Draft, terms: Sequence[str]) -> dict[str, int | None]:
    """The size of each letter, None where it is not fixed. Axes of size 1 that are stretched are refused."""
    sizes: dict[str, int | None] = {}
    for name, term in zip(draft.node.input, terms):
        for letter, size in zip(term, draft.known.shapes[name]):
            known = sizes.get(letter)
            if known is not None and size is not None and known != size:
                raise CannotSpellOut(f"the axis {letter!r} is {known} in one operand and {size} in another")
            sizes[letter] = size if known is None else known
    return sizes


def _summed(draft: Draft, name: str, term: str, needed: set[str]) -> tuple[str, str]:
    alone = [index for index, letter in enumerate(term) if letter not in needed]
    if not alone:
        return name, term
    kept = "".join(letter for letter in term if letter in needed)
    return draft.reduced("ReduceSum", name, alone, keep=False), kept


def _product(
    draft: Draft, left: tuple[str, str], right: tuple[str, str], result: str, sizes: dict[str, int | None]
) -> tuple[str, str]:
    """Of (batch..., rows, inner) and (batch..., inner, columns); gives (batch..., rows..., columns...)."""
    shared = set(left[1]) & set(right[1])
    batch = "".join(letter for letter in result if letter in shared)
    inner = "".join(letter for letter in left[1] if letter in shared and letter not in result)
    rows = "".join(letter for letter in left[1] if letter not in shared)
    columns = "".join(letter for letter in right[1] if letter not in shared)
    if not inner:
        return _outer(draft, left, right, batch, rows, columns)
    first = _transposed(draft, *left, batch + rows + inner)
    second = _transposed(draft, *right, batch + inner + columns)
    groups = {"rows": rows, "inner": inner, "columns": columns}
    if all(len(group) == 1 for group in groups.values()):
        return draft.add("MatMul", first, second), batch + rows + columns
    fixed = {letter: sizes[letter] for letter in batch + rows + inner + columns}
    loose = [letter for letter, size in fixed.items() if size is None]
    if loose:
        raise CannotSpellOut(f"the axis {loose[0]!r} has no fixed size, and axes must be joined")
    number = {letter: int(size or 0) for letter, size in fixed.items()}
    joined = {name: math.prod(number[letter] for letter in group) for name, group in groups.items()}
    heads = [number[letter] for letter in batch]
    matrix = draft.add(
        "MatMul",
        draft.reshaped(first, [*heads, joined["rows"], joined["inner"]]),
        draft.reshaped(second, [*heads, joined["inner"], joined["columns"]]),
    )
    return draft.reshaped(matrix, [number[letter] for letter in batch + rows + columns]), batch + rows + columns


def _outer(
    draft: Draft, left: tuple[str, str], right: tuple[str, str], batch: str, rows: str, columns: str
) -> tuple[str, str]:
    """Nothing is summed: a product of elements, each operand given the axes that it lacks."""
    first = _transposed(draft, *left, batch + rows)
    second = _transposed(draft, *right, batch + columns)
    if columns:
        first = draft.add("Unsqueeze", first, draft.ints(*range(len(batch + rows), len(batch + rows + columns))))
    if rows:
        second = draft.add("Unsqueeze", second, draft.ints(*range(len(batch), len(batch + rows))))
    return draft.add("Mul", first, second), batch + rows + columns


def _transposed(draft: Draft, name: str, term: str, wanted: str, out: str = "") -> str:
    if term == wanted:
        return draft.add("Identity", name, out=out) if out else name
    return draft.add("Transpose", name, out=out, perm=[term.index(letter) for letter in wanted])
