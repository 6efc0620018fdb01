"""A bundle whose network answers 255 - input: small enough to run in milliseconds, and exact to the pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avsdk.bundle import Artifact, Manifest, write_manifest
from avsdk.parity import Parity
from avsdk.spec import AxisRange, GraphSpec, ModelSpec, Step, TensorSpec

MakeBundle = Callable[..., Path]
SHAPE = ("batch", 3, "height", "width")
PREPROCESS = (Step("image_rgb"), Step("pad_to_multiple", {"multiple": 4}), Step("to_nchw_float"))
POSTPROCESS = (Step("from_nchw_float"), Step("crop_to_input"), Step("clip_uint8"))


def inverting_network() -> onnx.ModelProto:
    """styled = 255 - image, float32, every axis but the channels dynamic."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("image", "styled")]
    white = numpy_helper.from_array(np.float32(255).reshape(1), "white")
    graph = helper.make_graph(
        [helper.make_node("Sub", ["white", "image"], ["styled"])], "transform", values[:1], values[1:], [white]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def inverting_graph(least: int = 16, most: int = 512) -> GraphSpec:
    axes = {
        "batch": AxisRange(1, 16),
        "height": AxisRange(least, most, 4, 64),
        "width": AxisRange(least, most, 4, 64),
    }
    return GraphSpec(
        "transform", (TensorSpec("image", "float32", SHAPE),), (TensorSpec("styled", "float32", SHAPE),), axes
    )


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """``make_bundle("name", shapes=[None], precision="fp32", predictor=..., postprocess=...)`` -> its folder."""

    def make(
        name: str = "bundle",
        *,
        shapes: Sequence[Mapping[str, int] | None] = (None,),
        precision: str = "fp32",
        device: str = "cpu",
        predictor: str = "style_transfer",
        preprocess: Sequence[Step] = PREPROCESS,
        postprocess: Sequence[Step] = POSTPROCESS,
        graph: GraphSpec | None = None,
    ) -> Path:
        folder = tmp_path / name
        (folder / "model").mkdir(parents=True)
        (folder / "golden").mkdir()
        onnx.save(inverting_network(), folder / "model" / "transform.onnx")
        image = np.random.default_rng(1).uniform(0, 255, (1, 3, 64, 64)).astype(np.float32)
        np.savez(folder / "golden" / "transform.npz", **{"in.0.image": image, "out.0.styled": 255 - image})
        spec = ModelSpec("tiny/invert", predictor, (graph or inverting_graph(),), tuple(preprocess), tuple(postprocess))
        artifacts = [
            Artifact("transform", "onnxruntime", device, precision, ("model/transform.onnx",), size) for size in shapes
        ]
        manifest = Manifest(
            avsdk="0.1.0",
            spec=spec,
            target="onnxruntime",
            engine="onnxruntime",
            device=device,
            precision=precision,
            effective_precision=precision,
            source={"kind": "test", "name": "invert"},
            artifacts=tuple(artifacts),
            golden={"transform": "golden/transform.npz"},
            built_with={"onnx": onnx.__version__},
            parity=Parity.not_run("made by hand"),
            model={"transform": "model/transform.onnx"},
        )
        write_manifest(folder, manifest)
        return folder

    return make
