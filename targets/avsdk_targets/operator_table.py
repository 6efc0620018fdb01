"""Which operators an engine has, as data: ``operators/<engine>.toml``, and what a model's nodes come to by it.

A table says which toolchain it holds for and how it was obtained. Its lists come from the runtimes themselves
(tools/operator_tables.py); its limits say what lists do not, each with its source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Optional, Union

from avsdk.schema import check_schema, decode

_FOLDER = Path(__file__).parent / "operators"

Kind = Literal["operator", "type", "shape", "precision", "rewrite", "elsewhere", "version", "device"]


@dataclass(frozen=True)
class Finding:
    """One thing to know before a build. ``blocks``: with it there is no path; ``fix``: what to do, where there is one.

    ``kind``: operator (the engine lacks it), type, shape, precision, rewrite (what we will do), elsewhere (it runs
    on another device instead), version, device.
    """

    graph: str
    node: str
    op: str
    kind: Kind
    text: str
    fix: str = ""
    blocks: bool = False


@dataclass(frozen=True)
class NodeFact:
    """What is known of one node before anything runs.

    ``since``: the opset that its definition came with. ``types``: the element type per type parameter of that
    definition (``T``), as ONNX writes it (``float``, ``int64``); ``tensors``: every element type that goes in or out.
    ``shapes``: of the inputs, None where unknown. ``given``: attributes, and constant operands of one element as
    ``input.INDEX``. ``notes``: ``weights_beyond_fp16``, ``zero_point``, ``dynamic``,
    ``empty``, ``large_reduction``, ``operand_not_constant`` (one after the first), ``operand_from_outside``
    (one after the first is an input of the graph), ``scalar_from_outside``.
    """

    name: str
    op: str
    domain: str
    since: int
    types: Mapping[str, str] = field(default_factory=dict)
    tensors: tuple[str, ...] = ()
    shapes: tuple[Optional[tuple[Union[int, None], ...]], ...] = ()  # noqa: UP045, UP007
    given: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """The operator with its domain, where it is not ONNX's own."""
        return f"{self.domain}:{self.op}" if self.domain else self.op


@dataclass(frozen=True)
class Span:
    """Definitions of an operator that an engine has: those of the opsets ``since`` to ``until``, with these types."""

    since: int
    until: Optional[int] = None  # noqa: UP045
    types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Limit:
    """What an operator's name does not tell. Every condition that is given must hold; ``text`` says what comes of it.

    ``since``, ``until``: opsets of the definition; ``ranks``: of the first input; ``types``: one of them goes in or
    out; ``given``: attributes and values, ``""`` for one that is left out, ``*`` for any; ``inputs``: places that are
    given; ``note``: of the node. ``precisions``, ``archs``, ``devices``: what is asked for; empty is any.
    """

    kind: Kind
    text: str
    source: str
    operators: tuple[str, ...] = ()
    since: int = 0
    until: int = 1 << 30
    ranks: tuple[int, ...] = ()
    types: tuple[str, ...] = ()
    given: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    inputs: tuple[int, ...] = ()
    note: str = ""
    precisions: tuple[str, ...] = ()
    archs: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    fix: str = ""
    blocks: bool = True

    def meets(self, node: NodeFact) -> bool:
        """Whether the node is one of those that the limit speaks of."""
        first = node.shapes[0] if node.shapes else None
        return (
            (not self.operators or node.full_name in self.operators)
            and self.since <= node.since <= self.until
            and (not self.ranks or (first is not None and len(first) in self.ranks))
            and (not self.types or bool(set(self.types) & set(node.tensors)))
            and all(_is_given(node.given, name, values) for name, values in self.given.items())
            and all(place < len(node.shapes) and f"absent.{place}" not in node.given for place in self.inputs)
            and (not self.note or self.note in node.notes)
        )

    def asked(self, device: str, arch: str, precision: str) -> bool:
        """Whether it speaks of such a build."""
        return (
            (not self.precisions or precision in self.precisions)
            and (not self.archs or arch in self.archs)
            and (not self.devices or any(part in self.devices for part in (device, *device.split(":"))))
        )


@dataclass(frozen=True)
class OperatorTable:
    """What one engine has.

    ``expands``: it writes operators that ONNX defines by others out by itself. ``widens``: types that it casts to
    another where it has the operator for that one only.
    """

    engine: str
    toolchain: str
    obtained: str
    operators: Mapping[str, tuple[Span, ...]]
    expands: bool = False
    widens: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[Limit, ...] = ()

    def lack(self, node: NodeFact) -> tuple[Kind, str] | None:
        """Why the engine does not have the node's operator; None where it does."""
        spans = self.operators.get(node.full_name, ())
        if not spans:
            return "operator", f"{self.toolchain} has no {node.full_name}"
        fitting = [span for span in spans if _covers(span, node.since)]
        if not fitting:
            known = ", ".join(_shown(span) for span in spans)
            return "version", f"{self.toolchain} has {node.full_name} of opset {known}, not of {node.since}"
        widened = {name: self.widens.get(kind, kind) for name, kind in node.types.items()}
        if any(_takes(span, types) for span in fitting for types in (node.types, widened)):
            return None
        wrong = next((name, kind) for name, kind in node.types.items() if not _admits(fitting[0], name, kind))
        taken = ", ".join(sorted({kind for span in fitting for kind in span.types.get(wrong[0], ())}))
        return "type", f"{self.toolchain} has {node.full_name} for {taken}, not for {wrong[1]}"


def _covers(span: Span, since: int) -> bool:
    return span.since <= since and (span.until is None or since <= span.until)


def _takes(span: Span, types: Mapping[str, str]) -> bool:
    return all(_admits(span, name, kind) for name, kind in types.items())


def _admits(span: Span, name: str, kind: str) -> bool:
    return name not in span.types or kind in span.types[name]


def _shown(span: Span) -> str:
    return f"{span.since}" if span.until == span.since else f"{span.since} to {span.until or 'the newest'}"


def _is_given(given: Mapping[str, Any], name: str, values: Sequence[Any]) -> bool:
    found = given.get(name, "")
    return found in values or ("*" in values and name in given)


@cache
def load_table(engine: str) -> OperatorTable | None:
    """The table of an engine; None for one that has none, as those that start from a PyTorch program."""
    import tomllib  # Python 3.11; compilers import this module inside older toolchains and never call this there

    file = _FOLDER / f"{engine}.toml"
    if not file.exists():
        return None
    document = tomllib.loads(file.read_text(encoding="utf-8"))
    return decode(OperatorTable, check_schema(document, where=file.name), where=file.name)


def table_findings(
    table: OperatorTable, graph: str, nodes: Sequence[NodeFact], device: str, arch: str, precision: str
) -> Iterator[Finding]:
    """What the table says of the nodes: lacking operators, and every limit that one of them meets."""
    limits = [limit for limit in table.limits if limit.asked(device, arch, precision)]
    for node in nodes:
        lack = table.lack(node)
        if lack is not None:
            kind, text = lack
            yield Finding(graph, node.name, node.full_name, kind, text, _ELSEWHERE, blocks=True)
        for limit in limits:
            if limit.meets(node):
                yield Finding(graph, node.name, node.full_name, limit.kind, limit.text, limit.fix, limit.blocks)


_ELSEWHERE = "avsdk check MODEL --target all shows which targets have it"
