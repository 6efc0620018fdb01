"""Which nodes run as one: what every engine fuses, so that no tensor between them is written and no start is paid.

Three rules. Elementwise nodes that all stem from one tensor are one pass over it: Gelu, Swish and HardSwish spelt out.
With a mean of that tensor among them they are a norm: LayerNormalization spelt out. And such a pass, or a single
elementwise node, behind a product or norm that nothing else reads is part of it: bias, activation, batch norm.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from avsdk_bench.flops import ELEMENTWISE, PRODUCTS, VIEWS, Count
from avsdk_bench.work import Operator

_STATISTICS = frozenset({"ReduceMean", "ReduceSumSquare", "ReduceL2", "ReduceSum"})
_HOSTS = PRODUCTS | {"norm"}
_LEAST_PASS = 2


@dataclass(frozen=True)
class Part:
    """A node with its count. ``inputs`` are those that are no weights; ``read`` are its elements by tensor."""

    name: str
    op: str
    count: Count
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    read: Mapping[str, int]
    weights: int
    written: int
    other_bytes: int
    shape: tuple[int, ...]
    movement: bool = False
    quantised: bool = False

    @property
    def light(self) -> bool:
        """Whether it can be part of one pass."""
        return self.op in ELEMENTWISE or self.op == "BatchNormalization"


@dataclass
class _Group:
    """Parts that run as one; ``parts[0]`` is the first."""

    parts: list[Part] = field(default_factory=list)
    kind: str = ""


def fused(parts: Sequence[Part], answers: set[str]) -> list[Operator]:
    """The operators, in order; views are none. ``answers`` are the graph's outputs, which are always written."""
    return _Fusing(parts, answers).operators()


class _Fusing:
    def __init__(self, parts: Sequence[Part], answers: set[str]) -> None:
        self._parts = parts
        self._answers = answers
        self._place = {name: place for place, part in enumerate(parts) for name in part.outputs}
        self._readers: dict[str, list[int]] = {}
        for place, part in enumerate(parts):
            for name in part.inputs:
                self._readers.setdefault(name, []).append(place)
        self._group: dict[int, _Group] = {}

    def operators(self) -> list[Operator]:
        groups = []
        for place, part in enumerate(self._parts):
            if place in self._group or part.op in VIEWS:
                continue
            group = self._grown(place)
            groups.append(group)
        return [operator for group in groups if (operator := self._operator(group)) is not None]

    def _grown(self, place: int) -> _Group:
        """The group that starts with this part."""
        part = self._parts[place]
        group = _Group([part], part.count.kind)
        self._group[place] = group
        if part.count.kind in _HOSTS and part.op != "BatchNormalization":
            self._follow(group, part.outputs[:1])
            return group
        if part.light or part.op in _STATISTICS:
            source = part.inputs[0] if part.inputs else ""
            members = self._pass_over(source, place)
            if len(members) >= _LEAST_PASS:
                self._take(group, [other for other in members if other != place])
                statistics = any(self._parts[other].op in _STATISTICS for other in members)
                group.kind = "norm" if statistics else "elementwise"
                return group
            if part.op == "BatchNormalization":
                group.kind = "elementwise"
        return group

    def _follow(self, group: _Group, names: Sequence[str]) -> None:
        """Add what stems from the result alone, as long as nothing else reads the result."""
        name = next(iter(names), "")
        while name and name not in self._answers:
            members = self._pass_over(name, None)
            outside = set(self._readers.get(name, ())) - set(members)
            if not members or outside:
                return
            self._take(group, members)
            ends = [end for end in self._ends(members) if end != name]
            if len(ends) != 1:
                return
            name = ends[0]

    def _pass_over(self, source: str, first: int | None) -> list[int]:
        """The places of the parts that take nothing but ``source`` and each other's results.

        They are light ones, and statistics where the pass starts with the part at ``first``.
        """
        inside, members = {source}, []
        waiting = [first] if first is not None else []
        waiting += self._readers.get(source, [])
        heapq.heapify(waiting)
        while waiting:
            place = heapq.heappop(waiting)
            part = self._parts[place]
            taken = place in members or (place in self._group and place != first)
            fitting = part.light or (part.op in _STATISTICS and first is not None)
            if taken or not fitting or not part.inputs or not set(part.inputs) <= inside:
                continue
            members.append(place)
            for name in part.outputs:
                inside.add(name)
                for reader in self._readers.get(name, ()):
                    heapq.heappush(waiting, reader)
        return members

    def _ends(self, members: Sequence[int]) -> list[str]:
        """The results of the members that others read, or that the graph gives."""
        chosen = set(members)
        return [
            name
            for place in members
            for name in self._parts[place].outputs
            if name in self._answers or set(self._readers.get(name, ())) - chosen
        ]

    def _take(self, group: _Group, members: Sequence[int]) -> None:
        for place in members:
            group.parts.append(self._parts[place])
            self._group[place] = group

    def _operator(self, group: _Group) -> Operator | None:
        first = group.parts[0]
        if _free(first, self._readers, self._parts):
            return None
        made = {name for part in group.parts for name in part.outputs}
        read = {
            name: size for part in group.parts for name, size in part.read.items() if name not in made or part.movement
        }
        ends = set(self._ends([self._place[part.outputs[0]] for part in group.parts if part.outputs]))
        written = sum(part.written for part in group.parts if set(part.outputs) & ends)
        return Operator(
            name=first.name,
            kind=group.kind or first.count.kind,
            nodes=tuple(part.op for part in group.parts),
            flops=sum(part.count.flops for part in group.parts),
            read=sum(read.values()),
            weights=sum(part.weights for part in group.parts),
            written=written if ends else first.written,
            other_bytes=first.other_bytes,
            rows=first.count.rows,
            columns=first.count.columns,
            depth=first.count.depth,
            steps=first.count.steps,
            fused_flops=sum(part.count.flops for part in group.parts[1:]) if group.kind in _HOSTS else 0,
            quantised=first.quantised,
        )


def _free(part: Part, readers: Mapping[str, list[int]], parts: Sequence[Part]) -> bool:
    """Whether a node that quantises or dequantises stands beside integer products only, which take it in."""
    if part.op != "DequantizeLinear":
        return False
    following = [parts[place] for name in part.outputs for place in readers.get(name, ())]
    return bool(following) and all(other.quantised for other in following)
