"""What the compilers of TensorRT and of TensorRT for RTX share: an ONNX file, parsed and built into an engine file.

The vendor's module comes as a parameter. The network is strongly typed: the precision is what the model says, so the
cast to fp16 or bf16 is ours, and int8 is the model's own Q/DQ. Runs in a compiler's child.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from avsdk.errors import NotAvailable, UsageError
from avsdk.precision import check_executed
from avsdk.tensorrt_execution import recording_logger
from avsdk_targets.quantised import require_plain, require_quantised

PRECISIONS = ("fp16", "fp32", "bf16", "int8")
SETTINGS: Mapping[str, str] = {
    "cuda_graph": "on (default): from a size's second run on its work is one CUDA graph; off: it is queued each time",
}
LACKING = frozenset(
    "Attention CenterCropPad CumProd NegativeLogLikelihoodLoss QLinearConv QLinearMatMul SequenceMap "
    "SoftmaxCrossEntropyLoss SwiGLU".split()
)
"""Operators that the parser of TensorRT for RTX 1.7.1 says it lacks and that others can spell out; and Attention, which
it says it has: it died on the 3-D form (signal 11)."""


@dataclass(frozen=True)
class Vendor:
    """The vendor's module, its name in texts, and its engine's name here."""

    module: Any
    title: str
    engine: str


class EngineBuild:
    """One build: made with the model parsed and ``config`` ready for the vendor's own settings, then ``finish``ed.

    ``folder`` is for what is written on the way; it must last until the end.
    """

    def __init__(self, vendor: Vendor, request: Mapping[str, Any], folder: str) -> None:
        self.vendor, self.request, self._folder = vendor, request, Path(folder)
        self.profile = profile_of(request["graph"], request["sizes"], request["options"])
        trt = vendor.module
        self._logger = recording_logger(trt)
        self._model = self._prepared()
        self._shares = self._checked()
        self._builder = trt.Builder(self._logger)
        self._parse()
        self.config = self._builder.create_builder_config()
        if hasattr(trt.BuilderFlag, "TF32"):  # on by default: it would compute an fp32 graph in less
            self.config.clear_flag(trt.BuilderFlag.TF32)
        self._add_profile()

    def finish(self, requires: Mapping[str, str], session: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Build, write the engine file, and say what it needs of the machine that loads it."""
        plan = self._builder.build_serialized_network(self._network, self.config)
        if plan is None:
            raise NotAvailable(
                f"{self.vendor.title} refused to build the graph for {self.request['arch']}: {self._why()}",
                expected="a graph that this GPU generation can run",
                fix="choose another precision or target: avsdk devices",
            )
        content = bytes(plan)
        name = f"{self.request['graph']['name']}.{self.request['arch']}.engine"
        Path(self.request["out"], name).write_bytes(content)
        version = str(self.vendor.module.__version__)
        graphs = choice_setting(self.request["options"], "cuda_graph", ("on", "off"))
        return {
            "files": [name],
            "options": {
                "requires": {"engine": self.vendor.engine, **requires},
                "session": {"cuda_graph": graphs, **(session or {})},
                "profile": self.profile,
                "sha256": hashlib.sha256(content).hexdigest(),
                "precision_shares": self._shares,
            },
            "built_with": {self.vendor.engine.replace("_", "-"): version, "onnx": metadata.version("onnx")},
        }

    def _prepared(self) -> Path:
        """The model as it came, or cast to what was asked for."""
        given = Path(self.request["onnx"])
        if self.request["precision"] not in {"fp16", "bf16"}:
            return given
        import onnx

        from avsdk_targets.half_onnx import half_from_full, save_onnx

        require_plain(given, self.request["precision"])
        cast = half_from_full(onnx.load(given), self.request["precision"])
        written = self._folder / "cast.onnx"
        save_onnx(cast, written)
        return written

    def _checked(self) -> dict[str, float]:
        """Refuse what this vendor would refuse, in our words and sooner; returns the shares of precisions."""
        from avsdk_targets.typed_onnx import TypedGraph, without_weights

        usual = {name: shapes["opt"] for name, shapes in self.profile.items()}
        graph = TypedGraph(without_weights(self._model), usual)
        precision, title = self.request["precision"], self.vendor.title
        if precision == "fp32":
            require_plain(self._model, precision)
        if precision == "int8":
            require_quantised(self._model)
        skewed = graph.asymmetric()
        if skewed:
            raise NotAvailable(
                f"{title} takes symmetric quantisation only: {skewed} has a zero point that is not 0",
                expected="int8 with zero points of 0",
                fix="quantise the model again, symmetrically",
            )
        products = list(graph.full_products()) if self.request["arch"] == "sm75" else []
        if products:
            raise self._no_turing_kernel(products, precision)
        shares = graph.shares()
        if shares:
            check_executed(precision, shares, where=f"graph {self.request['graph']['name']!r}, built by {title},")
        return shares

    def _no_turing_kernel(self, products: list[tuple[str, str]], precision: str) -> NotAvailable:
        names = ", ".join(f"{operator} ({name})" for operator, name in products[:3])
        more = f" and {len(products) - 3} more" if len(products) > 3 else ""
        asked = precision == "fp32"
        return NotAvailable(
            f"{self.vendor.title} has no fp32 kernels on Turing (sm75) for matrix products, recurrent layers and 3-D "
            f"convolutions, and {'the graph has' if asked else 'these stay in fp32'}: {names}{more}",
            expected="these in fp16" if asked else "weights that fp16 can hold, and Q/DQ on convolutions only",
            fix="--precision fp16" if asked else "another target, as rtx-3090, or onnxruntime:cuda",
        )

    def _parse(self) -> None:
        trt = self.vendor.module
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # since TensorRT 11 without a flag
        self._network = self._builder.create_network(0 if typed is None else 1 << int(typed))
        self._parser = trt.OnnxParser(self._network, self._logger)
        if not self._parser.parse_from_file(str(self._model)):
            errors = [self._parser.get_error(index) for index in range(self._parser.num_errors)]
            reasons = "; ".join(f"{error.node_operator()} ({error.node_name()}): {error.desc()}" for error in errors)
            raise NotAvailable(
                f"{self.vendor.title} cannot read the graph: {reasons or self._why()}",
                expected="operators and attributes that its parser knows",
                fix="choose another target: avsdk devices",
            )

    def _add_profile(self) -> None:
        if not self.profile:
            return
        shapes = self._builder.create_optimization_profile()
        for index in range(self._network.num_inputs):
            tensor = self._network.get_input(index)
            if tensor.is_shape_tensor:
                raise NotAvailable(
                    f"the input {tensor.name!r} decides a shape by its values, and their range is not known",
                    expected="sizes as axes of the inputs",
                    fix="export the model with the size fixed, or for another target",
                )
        for name, sizes in self.profile.items():
            shapes.set_shape(name, sizes["min"], sizes["opt"], sizes["max"])
        self.config.add_optimization_profile(shapes)

    def _why(self) -> str:
        return "; ".join(dict.fromkeys(self._logger.errors)) or "it gave no reason"


def profile_of(
    graph: Mapping[str, Any], sizes: Mapping[str, int] | None, options: Mapping[str, Any]
) -> dict[str, dict[str, list[int]]]:
    """The smallest, usual and largest shape of every input with a dynamic axis; fixed sizes make all three equal.

    ``options["max_sizes"]`` lowers the largest sizes of the axes that it names.
    """
    axes = graph["axes"]
    largest = {name: axis["max"] for name, axis in axes.items()}
    largest.update(options.get("max_sizes", {}))
    ends = {
        "min": dict(sizes or {name: axis["min"] for name, axis in axes.items()}),
        "opt": dict(sizes or {name: axis["default"] for name, axis in axes.items()}),
        "max": dict(sizes or largest),
    }
    return {
        item["name"]: {
            end: [axis if isinstance(axis, int) else known[axis] for axis in item["shape"]]
            for end, known in ends.items()
        }
        for item in graph["inputs"]
        if any(isinstance(axis, str) for axis in item["shape"])
    }


def number_setting(options: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    """A setting that is a whole number; None where it is not set. Raises ``UsageError`` for another value."""
    text = str(options.get(name, ""))
    if not text:
        return None
    if not text.isdigit() or not least <= int(text) <= most:
        raise UsageError(f"the setting {name} is {text!r}", expected=f"a whole number from {least} to {most}")
    return int(text)


def choice_setting(options: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str:
    """A setting that is one of a few words, the first by default. Raises ``UsageError`` for another word."""
    text = str(options.get(name, choices[0]))
    if text not in choices:
        raise UsageError(f"the setting {name} is {text!r}", expected=f"one of: {', '.join(choices)}")
    return text
