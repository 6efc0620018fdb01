"""A bundle small enough to be measured in milliseconds, made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.bench.made_up import made_up_report

from avsdk.bundle import Artifact, Manifest, write_manifest
from avsdk.parity import Parity
from avsdk.spec import AxisRange, GraphSpec, ModelSpec, Step, TensorSpec
from avsdk_bench.report import Report

MakeBundle = Callable[..., Path]


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """``make_bundle("a", engine=, device=, precision=, shapes=)`` -> the folder of a bundle."""

    def make(
        name: str,
        *,
        engine: str = "onnxruntime",
        device: str = "cpu",
        precision: str = "fp32",
        shapes: dict[str, int] | None = None,
        target: str = "",
    ) -> Path:
        folder = tmp_path / name
        (folder / "model").mkdir(parents=True)
        (folder / "golden").mkdir()
        onnx.save(_network(), folder / "model" / "net.onnx")
        image = np.random.default_rng(1).uniform(0, 255, (1, 3, 16, 20)).astype(np.float32)
        np.savez(folder / "golden" / "net.npz", **{"in.0.image": image, "out.0.answer": image})
        manifest = Manifest(
            avsdk="0.1.0",
            spec=_spec(),
            target=target or f"{engine}:{device}",
            engine=engine,
            device=device,
            precision=precision,
            effective_precision=precision,
            source={"kind": "test"},
            artifacts=(Artifact("net", engine, device, precision, ("model/net.onnx",), shapes),),
            golden={"net": "golden/net.npz"},
            built_with={},
            parity=Parity.not_run("made by hand"),
            model={"net": "model/net.onnx"},
        )
        write_manifest(folder, manifest)
        return folder

    return make


def _spec() -> ModelSpec:
    shape = ("batch", 3, "height", "width")
    axes = {
        "batch": AxisRange(1, 4, 1, 1),
        "height": AxisRange(8, 256, 4, 16),
        "width": AxisRange(8, 256, 4, 16),
    }
    tensors = TensorSpec("image", "float32", shape), TensorSpec("answer", "float32", shape)
    return ModelSpec(
        model="tiny",
        predictor="image",
        graphs=(GraphSpec("net", tensors[:1], tensors[1:], axes),),
        preprocess=(Step("image_rgb"), Step("to_nchw_float", {"scale": 1.0})),
        postprocess=(Step("from_nchw_float"), Step("clip_uint8")),
    )


def _network() -> onnx.ModelProto:
    weights = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32) / 9
    shape = ["batch", 3, "height", "width"]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["answer"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


@pytest.fixture
def report() -> Report:
    """A report of two rows whose samples were made up, seeded."""
    return made_up_report()
