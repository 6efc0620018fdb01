"""What ``--axis`` says: ``height=400,width=600`` is one set of sizes to build, ``frames=50:2000`` a range."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from avsdk.errors import UsageError
from avsdk.spec_request import AskedRange

GRAMMAR = "NAME=SIZE, NAME=MIN:MAX or NAME=MIN:MAX:STEP, with commas between; GRAPH.NAME for one graph of several"
_SIZE = re.compile("[0-9]{1,9}")


@dataclass(frozen=True)
class AskedAxes:
    """All ``--axis`` of one command.

    ``sizes``: one mapping per option that gives a size; ``ranges``: what axes may be, whichever option says it.
    """

    sizes: tuple[Mapping[str, int], ...] = ()
    ranges: Mapping[str, AskedRange] = field(default_factory=dict)


def asked_axes(texts: Sequence[str]) -> AskedAxes:
    """Parse the values of all ``--axis``. Raises ``UsageError`` for what the grammar does not know."""
    sizes: list[Mapping[str, int]] = []
    ranges: dict[str, AskedRange] = {}
    for text in texts:
        fixed: dict[str, int] = {}
        named: set[str] = set()
        for part in text.split(","):
            name, values = _parsed(part, text)
            if name in named or (len(values) > 1 and name in ranges):
                raise UsageError(
                    f"--axis {text!r} gives {name} twice",
                    expected="each axis once" if name in named else f"one range for {name}",
                    fix="repeat --axis for a second set of sizes",
                )
            named.add(name)
            if len(values) == 1:
                fixed[name] = values[0]
            else:
                ranges[name] = _range(name, values, text)
        sizes += [fixed] if fixed else []
    return AskedAxes(tuple(sizes), ranges)


def _parsed(part: str, text: str) -> tuple[str, list[int]]:
    name, equals, given = part.partition("=")
    values = [value.strip() for value in given.split(":")]
    if not equals or not name.strip() or len(values) > 3 or not all(_SIZE.fullmatch(value) for value in values):
        raise UsageError(f"--axis {text!r} is no set of sizes", expected=GRAMMAR, fix="--axis height=400,width=600")
    return name.strip(), [int(value) for value in values]


def _range(name: str, values: Sequence[int], text: str) -> AskedRange:
    least, most, step = (*values, 1)[:3]
    if not 1 <= least <= most or step < 1 or most // step * step < least:
        raise UsageError(
            f"--axis {text!r} leaves no size for {name}",
            expected="1 <= MIN <= MAX, and a multiple of STEP between them",
            fix=f"--axis {name}={min(least, most) or 1}:{max(least, most, 1)}",
        )
    return AskedRange(least, most, step if len(values) == 3 else None)
