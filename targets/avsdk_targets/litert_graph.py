"""What surrounds a conversion to .tflite: samples to run it on, tensors matched to the graph's, and the comparison.

Runs in the toolchains, whose packages are not imported here: the interpreter is handed in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import NotAvailable, ParityFailed

LEAST_SNR_DB = 20.0
"""Far below every tolerance of the parity record that follows: it only tells a wrong file from a right one."""

_PLAIN = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_./-]*")

Array = NDArray[Any]
Graph = Mapping[str, Any]
"""A ``GraphSpec`` as JSON."""


def file_name(graph: Graph, sizes: Mapping[str, int]) -> str:
    """The name of the file of a graph at these sizes."""
    return "-".join([graph["name"], *(f"{axis}{size}" for axis, size in sizes.items())]) + ".tflite"


def sample_feeds(graph: Graph, sizes: Mapping[str, int], golden: str | None) -> dict[str, Array]:
    """A golden sample of these sizes if there is one, else seeded noise."""
    fitting = golden_feeds(graph, sizes, golden)
    if fitting:
        return fitting[0]
    generator = np.random.default_rng(0)
    dtypes = {item["name"]: np.dtype(item["dtype"]) for item in graph["inputs"]}
    return {
        name: generator.random(shape).astype(dtypes[name])
        if dtypes[name].kind == "f"
        else np.zeros(shape, dtypes[name])
        for name, shape in _shapes(graph["inputs"], sizes).items()
    }


def golden_feeds(graph: Graph, sizes: Mapping[str, int], golden: str | None) -> list[dict[str, Array]]:
    """The inputs of every golden sample of these sizes."""
    if golden is None:
        return []
    shapes = _shapes(graph["inputs"], sizes)
    with np.load(golden, allow_pickle=False) as stored:
        numbers = sorted({int(key.split(".")[1]) for key in stored.files if key.startswith("in.")})
        samples = [{name: stored[f"in.{number}.{name}"] for name in shapes} for number in numbers]
    return [feeds for feeds in samples if all(feeds[name].shape == shape for name, shape in shapes.items())]


def names_of_compared(
    interpreter: Any,
    graph: Graph,
    feeds: Mapping[str, Array],
    reference: Mapping[str, Array],
    *,
    by_name: bool,
) -> dict[str, dict[str, str]]:
    """Run a loaded file once on ``feeds``; returns the names that it gives to the graph's inputs and outputs.

    Raises ``ParityFailed`` for another number of tensors, another layout, or other values than ``reference``.
    """
    inputs = matched(interpreter.get_input_details(), graph["inputs"], by_name=by_name)
    outputs = matched(interpreter.get_output_details(), graph["outputs"], by_name=by_name)
    for name, detail in inputs.items():
        if list(detail["shape"]) != list(feeds[name].shape):
            raise _differs(name, list(detail["shape"]), list(feeds[name].shape), "takes")
        interpreter.set_tensor(detail["index"], feeds[name])
    interpreter.invoke()
    for name, detail in outputs.items():
        found = interpreter.get_tensor(detail["index"])
        if found.shape != reference[name].shape:
            raise _differs(name, list(found.shape), list(reference[name].shape), "gives")
        snr = snr_db(reference[name], found)
        if snr < LEAST_SNR_DB:
            raise ParityFailed(
                f"the converted file gives {name!r} {list(found.shape)} at {snr:.1f} dB from the reference",
                expected=f"{LEAST_SNR_DB:g} dB or better",
                fix="choose another target: the converter does not know this network well",
            )
    return {
        "inputs": {name: detail["name"] for name, detail in inputs.items()},
        "outputs": {name: detail["name"] for name, detail in outputs.items()},
    }


def matched(
    details: Sequence[Mapping[str, Any]], tensors: Sequence[Mapping[str, Any]], *, by_name: bool
) -> dict[str, Mapping[str, Any]]:
    """Match the file's tensors to the graph's: onnx2tf keeps the names, litert-torch numbers them (``..._args_0``)."""
    named = {detail["name"]: detail for detail in details}
    wanted = [item["name"] for item in tensors]
    if len(details) != len(tensors) or (by_name and set(named) != set(wanted)):
        raise ParityFailed(f"the converted file has {len(details)} tensors: {list(named)}", expected=str(wanted))
    if by_name:
        return {name: named[name] for name in wanted}

    def number(detail: Mapping[str, Any]) -> int:
        found = re.findall(r"\d+", detail["name"].partition(":")[0])
        return int(found[-1]) if found else 0

    return dict(zip(wanted, sorted(details, key=number)))


def snr_db(reference: Array, found: Array) -> float:
    """Signal over error, in dB; minus infinity where either is not finite or the reference is all zero."""
    noise = float(np.sum((reference.astype(np.float64) - found) ** 2))
    signal = float(np.sum(reference.astype(np.float64) ** 2))
    if noise == 0:
        return float("inf")
    return 10 * float(np.log10(signal / noise)) if np.isfinite(noise) and signal > 0 else float("-inf")


def plain_names(graph: Graph) -> dict[str, str]:
    """The graph's tensors -> names that onnx2tf keeps: their own, or a number where one has other characters.

    TensorFlow's ``image:0`` comes back as ``image__0``.
    """
    names = [item["name"] for side in ("inputs", "outputs") for item in graph[side]]
    if all(_PLAIN.fullmatch(name) for name in names):
        return {name: name for name in names}
    return {name: f"tensor_{number}" for number, name in enumerate(names)}


def renamed_graph(graph: Graph, names: Mapping[str, str]) -> dict[str, Any]:
    """The graph with its tensors called otherwise."""
    sides = {side: [{**item, "name": names[item["name"]]} for item in graph[side]] for side in ("inputs", "outputs")}
    return {**graph, **sides}


def renamed_onnx(source: str, target: Path, names: Mapping[str, str]) -> str:
    """Write the model with its inputs and outputs called otherwise; the file as it is where nothing changes."""
    import onnx

    from avsdk_targets.rewrites.draft import graphs_of

    if all(name == other for name, other in names.items()):
        return source
    model = onnx.load(source)
    nodes = [node for body in graphs_of(model.graph) for node in body.node]
    used = {name for node in nodes for name in (*node.input, *node.output)}
    mine = {**{other: f"{other}/inner" for other in names.values() if other in used}, **names}
    for node in nodes:
        node.input[:] = [mine.get(name, name) for name in node.input]
        node.output[:] = [mine.get(name, name) for name in node.output]
    for body in graphs_of(model.graph):
        del body.value_info[:]
        for item in (*body.input, *body.output, *body.initializer):
            item.name = mine.get(item.name, item.name)
    onnx.save(model, target)
    return str(target)


def hold_outputs(source: str, target: Path, shapes: Mapping[str, Sequence[int]]) -> Path:
    """Write the ONNX model with a reshape to one axis and back behind each output of three axes and more.

    A converter to channels-last knows no layout beyond the first reshape, so the outputs keep the one of ``shapes``.
    """
    import onnx

    model = onnx.load(source)
    held = {name: shape for name, shape in shapes.items() if len(shape) > 2}
    for node in model.graph.node:
        node.input[:] = [f"{name}/held" if name in held else name for name in node.input]
        node.output[:] = [f"{name}/held" if name in held else name for name in node.output]
    for name, shape in held.items():
        for part, values in (("flat", [-1]), ("shape", list(shape))):
            constant = onnx.numpy_helper.from_array(np.array(values, np.int64), f"{name}/{part}_axes")
            model.graph.initializer.append(constant)
        model.graph.node.append(
            onnx.helper.make_node("Reshape", [f"{name}/held", f"{name}/flat_axes"], [f"{name}/flat"])
        )
        model.graph.node.append(onnx.helper.make_node("Reshape", [f"{name}/flat", f"{name}/shape_axes"], [name]))
    onnx.save(model, target)
    return target


def _shapes(tensors: Sequence[Mapping[str, Any]], sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    return {
        item["name"]: tuple(axis if isinstance(axis, int) else sizes[axis] for axis in item["shape"])
        for item in tensors
    }


def _differs(name: str, found: list[int], wanted: list[int], verb: str) -> ParityFailed:
    return ParityFailed(
        f"the converted file {verb} {name!r} as {[int(size) for size in found]}",
        expected=f"{wanted}, the layout of the graph",
        fix="choose another target: the converter does not know this network well",
    )


def onnx_answers(onnx: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What ONNX Runtime answers; raises ``NotAvailable`` where it does not."""
    from avsdk.engines.onnxruntime import reference_outputs

    (answer,) = reference_outputs(onnx, [dict(feeds)])
    if "failed" in answer:
        raise NotAvailable(
            f"ONNX Runtime does not run the model at the asked sizes: {answer['failed'].splitlines()[0]}",
            expected="a model that answers, since the answer is what the converted file is compared with",
        )
    return answer
