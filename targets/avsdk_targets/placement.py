"""Several graphs of one model on several targets: ``--target encoder=openvino:cpu,decoder=litert:cpu``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from avsdk.errors import UnknownName, UsageError
from avsdk_targets.plan import Plan, plan_target
from avsdk_targets.proof import proof_for
from avsdk_targets.target import Target, resolve

_GRAMMAR = "GRAPH=TARGET for every graph, with commas between, or targets for the whole model"


@dataclass(frozen=True)
class Placement:
    """The plan of the whole bundle, and those of single graphs where they differ from it."""

    whole: Plan
    graphs: Mapping[str, Plan] = field(default_factory=dict)

    def plan_for(self, graph: str) -> Plan:
        """The plan of one graph."""
        return self.graphs.get(graph, self.whole)

    def plans(self) -> tuple[Plan, ...]:
        """Every plan, that of the whole first."""
        return (self.whole, *self.graphs.values())

    def require_graphs(self, names: Sequence[str]) -> None:
        """Raise ``UsageError`` unless the graphs that are placed are those of the model."""
        for name in self.graphs:
            if name not in names:
                raise UnknownName.among("graph", name, names)
        lacking = [name for name in names if self.graphs and name not in self.graphs]
        if lacking:
            raise UsageError(
                f"--target places {', '.join(self.graphs)} and not {lacking[0]!r}",
                expected=f"a target for each graph: {', '.join(names)}",
                fix=f"add {lacking[0]}=TARGET",
            )


def targets_by_graph(text: str) -> dict[str, Target]:
    """The targets that ``--target`` gives to single graphs; empty where it names none. Raises ``UsageError``."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not any("=" in part for part in parts):
        return {}
    found: dict[str, Target] = {}
    for part in parts:
        graph, equals, target = (item.strip() for item in part.partition("="))
        if not equals or not graph or graph in found or target == "all":
            raise UsageError(f"--target {text!r} is no placement of graphs", expected=_GRAMMAR)
        found[graph] = resolve(target)
    return found


def placed(targets: Mapping[str, Target], precision: str | None) -> Placement:
    """Decide every graph's target.

    Raises ``NotAvailable`` as ``plan_target`` does, and ``UsageError`` for what one bundle cannot hold: two precisions,
    or proofs of two kinds.
    """
    plans = {graph: plan_target(target, precision) for graph, target in targets.items()}
    first, *others = plans.values()
    for plan in others:
        if plan.precision != first.precision:
            raise UsageError(
                f"{first.target.name} is built at {first.precision} and {plan.target.name} at {plan.precision}",
                expected="one precision for all graphs of a bundle",
                fix="name one that both have: --precision P",
            )
        if proof_for(plan.candidate) != proof_for(first.candidate):
            raise UsageError(
                f"{first.target.name} and {plan.target.name} cannot be run in one process here",
                expected="targets whose numbers are proven on one machine",
                fix="export a bundle for each",
            )
    name = ",".join(f"{graph}={target.name}" for graph, target in targets.items())
    notices = tuple(dict.fromkeys(text for plan in plans.values() for text in plan.notices))
    passed = tuple(dict.fromkeys(text for plan in plans.values() for text in plan.passed_over))
    whole = replace(first, target=replace(first.target, name=name), notices=notices, passed_over=passed)
    return Placement(whole, plans)
