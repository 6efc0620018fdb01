"""The order of the rules over a whole model; runs in a child of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import defs, helper, version_converter

from avsdk.errors import NotAvailable
from avsdk_targets.rewrites import activations, einsum, lower, norms, recurrent
from avsdk_targets.rewrites.draft import CannotSpellOut, Draft, Known, Rule, graphs_of, known_of
from avsdk_targets.rewrites.functions import body_opset, has_body, inlined
from avsdk_targets.rewrites.raised import say_old_defaults
from avsdk_targets.rewrites.static import fold, write_sizes
from avsdk_targets.rewrites.weights import Shelf, replace, save

RULES: Mapping[str, Rule] = {
    "Abs": activations.absolute,
    "CastLike": activations.cast_like,
    "Celu": activations.celu,
    "Einsum": einsum.einsum,
    "GRU": recurrent.gru,
    "Gelu": activations.gelu,
    "GroupNormalization": norms.group_normalization,
    "HardSigmoid": activations.hard_sigmoid,
    "HardSwish": activations.hard_swish,
    "LSTM": recurrent.lstm,
    "LayerNormalization": norms.layer_normalization,
    "Mish": activations.mish,
    "RMSNormalization": norms.rms_normalization,
    "Swish": activations.swish,
}
"""Rules of our own; another operator that ONNX defines by others is replaced by that definition."""
_OLDEST_TO_REWRITE = 13
_MAX_ROUNDS = 8
_OWN = ("", "ai.onnx")
_ELSEWHERE = "choose another target: avsdk devices lists them"


def rewrite(request: dict[str, Any]) -> dict[str, Any]:
    """Rewrite the model ``onnx`` into the file ``out``; answers what was done. Runs in the child.

    ``opset``: [lowest, newest] or None; ``ir``: the newest, or None; ``lacking``: operators to spell out;
    ``shapes``: of every input, or None to leave sizes as they are. Raises ``NotAvailable`` naming operator and opset.
    """
    source = Path(request["onnx"])
    model = onnx.load(source, load_external_data=False)
    shelf = Shelf(model, source.parent)
    work = _Work(model, shelf)
    work.inline_own_functions()
    lowest, newest = request["opset"] or (1, defs.onnx_opset_version())
    lacking = frozenset(request["lacking"])
    rules_wanted = work.opset > newest or bool(lacking & work.ops())
    work.raise_to(max(lowest, min(newest, _OLDEST_TO_REWRITE) if rules_wanted else 1))
    if request["shapes"] is not None:
        work.fix_sizes(request["shapes"])
    work.spell_out(lacking, newest)
    if work.opset > newest:
        work.lower_to(newest)
    if request["shapes"] is not None:
        work.fold()
    work.limit_ir(request["ir"])
    work.check(dict(zip(("lowest", "newest"), (lowest, newest))))
    shelf.restore(work.model)
    save(work.model, Path(request["out"]), source.parent)
    return {"applied": work.applied}


class _Work:
    """A model on its way, its large weights on the shelf, and the lines that say what was done."""

    def __init__(self, model: onnx.ModelProto, shelf: Shelf) -> None:
        self.model = model
        self.shelf = shelf
        self.applied: list[str] = []

    @property
    def opset(self) -> int:
        return next((item.version for item in self.model.opset_import if item.domain in _OWN), 0)

    def ops(self) -> set[str]:
        return {node.op_type for node in self._nodes() if node.domain in _OWN}

    def inline_own_functions(self) -> None:
        if self.model.functions:
            count = len(self.model.functions)
            self.model = inlined(self.model, ())
            self.applied.append(f"{count} function{'s' if count > 1 else ''} of the model written out")

    def raise_to(self, opset: int) -> None:
        before = self.opset
        if before >= opset or not before:
            return
        self.model.CopyFrom(self._converted(opset))
        try:
            say_old_defaults(self.model, before, known_of(self.model))
        except CannotSpellOut as error:
            raise NotAvailable(
                f"the model cannot be brought from opset {before} to {opset}: {error}",
                expected="operators that mean the same in the newer opset",
                fix="export the model again from its source with a newer opset",
            ) from error
        self.applied.append(f"opset {before} -> {opset}")

    def fix_sizes(self, shapes: Mapping[str, list[int]]) -> None:
        try:
            changed = write_sizes(self.model, shapes)
        except onnx.shape_inference.InferenceError as error:
            raise NotAvailable(
                f"the model does not fit these sizes: {_first_line(error)}",
                expected="sizes that the model's own fixed shapes allow",
                fix="--axis with other sizes",
            ) from error
        if changed:
            shown = "; ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
            self.applied.append(f"sizes fixed: {shown}")
        self.fold()

    def fold(self) -> None:
        fold(self.model, self.shelf)

    def spell_out(self, lacking: frozenset[str], newest: int) -> None:
        """Apply our rules and ONNX's own definitions until no operator is left that the engine or its opset lacks."""
        counted: Counter[str] = Counter()
        for _ in range(_MAX_ROUNDS):
            wanted = {op for op in self.ops() if op in lacking or self._is_too_new(op, newest)}
            if not wanted:
                break
            ours = wanted & RULES.keys()
            counted.update(node.op_type for node in self._nodes() if node.op_type in wanted)
            if ours:
                known = known_of(self.model)
                self._each_node(lambda draft: RULES[draft.node.op_type](draft), known, ours)
            else:
                self._require_bodies(wanted, newest)
                self.raise_to(max(body_opset(op, self.opset) for op in wanted))  # lowered again at the end
                self._inline(wanted)
        self.applied += [f"{op} spelt out ({count})" for op, count in sorted(counted.items())]

    def _inline(self, ops: Collection[str]) -> None:
        for op in sorted(ops):
            try:
                self.model = inlined(self.model, (op,))
            except CannotSpellOut as error:
                raise _refused(op, self.opset, str(error)) from error

    def lower_to(self, opset: int) -> None:
        self.fold()  # definitions of ONNX compute what are constants, and older operators want those as constants
        before = self.opset
        floor = max(opset, lower.LOWEST)
        known = known_of(self.model)
        changed = {op for op in self.ops() if _since(op, before) != _since(op, floor)}
        self._each_node(lambda draft: lower.lower_node(draft, floor), known, changed)
        own = next(item for item in self.model.opset_import if item.domain in _OWN)
        own.version = floor
        if opset < floor:
            self.model.CopyFrom(self._converted(opset))
        self.model.ir_version = min(
            self.model.ir_version, helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
        )
        self.applied.append(f"opset {before} -> {opset}")

    def limit_ir(self, newest: int | None) -> None:
        if newest is not None and self.model.ir_version > newest:
            self.applied.append(f"IR version {self.model.ir_version} -> {newest}")
            self.model.ir_version = newest

    def check(self, limits: Mapping[str, int]) -> None:
        """The rewritten skeleton must be a sound model; anything else is our mistake, and said so."""
        del self.model.graph.value_info[:]
        if not self._outputs_have_ranks():
            return  # the checker takes no output of unknown rank, though runtimes do
        try:
            onnx.checker.check_model(self.model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise NotAvailable(
                f"rewriting the model for opset {limits['lowest']} to {limits['newest']} gave no sound model: "
                f"{_first_line(error)}",
                expected="a model that ONNX's checker accepts",
                fix=_ELSEWHERE,
            ) from error

    def _outputs_have_ranks(self) -> bool:
        """Give the outputs of which the file says no shape the inferred one; whether all have one then."""
        known = known_of(self.model)
        for item in self.model.graph.output:
            tensor = item.type.tensor_type
            if item.type.HasField("tensor_type") and not tensor.HasField("shape"):
                if item.name not in known.shapes:
                    return False
                tensor.shape.SetInParent()
                for size in known.shapes[item.name]:
                    axis = tensor.shape.dim.add()
                    if size is not None:
                        axis.dim_value = size
        return True

    def _nodes(self) -> list[onnx.NodeProto]:
        return [node for graph in graphs_of(self.model.graph) for node in graph.node]

    def _is_too_new(self, op: str, newest: int) -> bool:
        return self.opset > newest and not lower.exists(op, max(newest, lower.LOWEST)) and not lower.has_rule(op)

    def _each_node(self, rule: Rule, known: Known, ops: Collection[str]) -> None:
        for graph in reversed(list(graphs_of(self.model.graph))):  # bodies first: their graphs are copied along
            nodes: list[onnx.NodeProto] = []
            for node in graph.node:
                nodes += self._replaced(node, rule, known) if node.domain in _OWN and node.op_type in ops else [node]
            replace(graph.node, nodes)

    def _replaced(self, node: onnx.NodeProto, rule: Rule, known: Known) -> list[onnx.NodeProto]:
        draft = Draft(node, known)
        try:
            rule(draft)
        except CannotSpellOut as error:
            raise _refused(node.op_type, self.opset, str(error), node.name) from error
        return draft.nodes

    def _require_bodies(self, ops: Collection[str], newest: int) -> None:
        for op in sorted(ops):
            if not has_body(op, self.opset):
                lack = (
                    f"opset {newest}, the newest of this engine, has no {op}"
                    if self._is_too_new(op, newest)
                    else (f"this engine has no {op}")
                )
                raise _refused(op, self.opset, f"{lack}, and nothing spells it out")

    def _converted(self, opset: int) -> onnx.ModelProto:
        try:
            return version_converter.convert_version(self.model, opset)
        except (RuntimeError, version_converter.ConvertError) as error:
            raise NotAvailable(
                f"the model cannot be brought from opset {self.opset} to {opset}: {_first_line(error)}",
                expected="operators that the newer opset has as well",
                fix="export the model again from its source with a newer opset",
            ) from error


def _refused(op: str, opset: int, reason: str, node: str = "") -> NotAvailable:
    where = f" (node {node!r})" if node else ""
    return NotAvailable(
        f"{op} of opset {opset}{where} cannot be written for this engine: {reason}",
        expected="operators that the engine has, or that can be spelt out in those",
        fix=_ELSEWHERE,
    )


def _since(op: str, opset: int) -> int:
    return int(defs.get_schema(op, opset).since_version) if lower.exists(op, opset) else 0


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rpartition("failed: ")[2] if lines else type(error).__name__
