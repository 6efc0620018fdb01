"""A small network, real samples for it, and a metric, for the tests of quantisation."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from avsdk.metric import Metric
from avsdk.predictor import Predictor

SIZE = 32


def network(path: Path) -> Path:
    """Three convolutions around an instance norm and a last one; ``first`` has one channel far above the others.

    Its activations are quantised by one scale, which that channel takes for itself: it is the most sensitive layer.
    """
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype("f4"), name)

    first = numpy_helper.to_array(weight("w0", 8, 3, 3, 3)).copy()
    first[0] *= 200.0
    weights = [
        numpy_helper.from_array(first, "w0"), weight("w1", 8, 8, 3, 3), weight("w2", 3, 8, 3, 3),
        numpy_helper.from_array(np.ones(8, np.float32), "scale"), numpy_helper.from_array(np.zeros(8, "f4"), "bias"),
    ]  # fmt: skip
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first", **pads),
        helper.make_node("InstanceNormalization", ["a", "scale", "bias"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Conv", ["r", "w1"], ["c"], name="second", **pads),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "w2"], ["y"], **pads),
    ]
    shape = [1, 3, SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def samples(folder: Path, photograph: Path, count: int = 20) -> Path:
    """Pieces of a photograph as .npz files."""
    folder.mkdir(exist_ok=True)
    picture = cv2.imread(str(photograph))[:, :, ::-1].astype(np.float32) / 255.0
    for index in range(count):
        top, left = (index * 37) % (picture.shape[0] - SIZE), (index * 91) % (picture.shape[1] - SIZE)
        piece = picture[top : top + SIZE, left : left + SIZE].transpose(2, 0, 1)[None]
        np.savez(folder / f"piece{index:02}.npz", x=np.ascontiguousarray(piece))
    return folder


def brightness(family: str, predictor: Predictor, data: Path) -> Metric:
    """A metric: how much the answers deviate from zero on average, which quantisation moves a little."""
    found = []
    for file in sorted(data.rglob("*.npz")):
        with np.load(file) as sample:
            found.append(float(np.abs(predictor({"x": sample["x"]})["y"]).mean()))
    return Metric("brightness", float(np.mean(found)), len(found))


def worse(family: str, predictor: Predictor, data: Path) -> Metric:
    """A metric that anything but fp32 halves: no budget holds."""
    plain = predictor.spec.model and all(item.artifacts[0].precision == "fp32" for item in predictor.graphs.values())
    return Metric("share", 1.0 if plain else 0.5, 1)
