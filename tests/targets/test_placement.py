"""Several graphs of one bundle, each on its own target."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import avsdk
from avsdk.bundle import Artifact, Manifest, open_bundle, write_manifest
from avsdk.errors import UnknownName, UsageError
from avsdk.parity import Parity
from avsdk.spec import AxisRange, GraphSpec, ModelSpec, TensorSpec
from avsdk_targets.build import Exporter, ExportOptions
from avsdk_targets.placement import placed, targets_by_graph
from avsdk_targets.target import resolve

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture
def two_graphs(tmp_path: Path) -> Path:
    """A bundle of an encoder (x -> 2 x) and a decoder (x -> 3 x)."""
    folder, graphs, artifacts, golden, models = tmp_path / "two", [], [], {}, {}
    for name, factor in (("encoder", 2.0), ("decoder", 3.0)):
        values = [helper.make_tensor_value_info(item, TensorProto.FLOAT, ["n", 4]) for item in ("x", "y")]
        graph = helper.make_graph(
            [helper.make_node("Mul", ["x", "factor"], ["y"])], name, values[:1], values[1:],
            [numpy_helper.from_array(np.array(factor, np.float32), "factor")],
        )  # fmt: skip
        (folder / "model").mkdir(parents=True, exist_ok=True)
        (folder / "golden").mkdir(exist_ok=True)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, folder / f"model/{name}.onnx")
        x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
        np.savez(folder / f"golden/{name}.npz", **{"in.0.x": x, "out.0.y": x * np.float32(factor)})
        tensors = [(TensorSpec(item, "float32", ("n", 4)),) for item in ("x", "y")]
        graphs.append(GraphSpec(name, *tensors, {"n": AxisRange(1, 8, 1, 3)}))
        artifacts.append(Artifact(name, "onnxruntime", "cpu", "fp32", (f"model/{name}.onnx",)))
        golden[name], models[name] = f"golden/{name}.npz", f"model/{name}.onnx"
    manifest = Manifest(
        avsdk="0", spec=ModelSpec("two", "tensor", tuple(graphs)), target="onnxruntime", engine="onnxruntime",
        device="cpu", precision="fp32", effective_precision="fp32", source={"kind": "onnx"},
        artifacts=tuple(artifacts), golden=golden, built_with={}, parity=Parity.not_run("a test"), model=models,
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from avsdk.cli import main; main()", *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def test_each_graph_runs_on_its_own_engine(two_graphs: Path, tmp_path: Path) -> None:
    placement = "encoder=openvino:cpu,decoder=onnxruntime"
    done = cli("export", str(two_graphs), "--target", placement, "--out", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    (made,) = json.loads(done.stdout)["bundles"]
    assert [(item["graph"], item["engine"]) for item in made["graphs"]] == [
        ("encoder", "openvino"),
        ("decoder", "onnxruntime"),
    ]
    assert made["target"] == placement
    assert made["parity"]["verdict"] == "pass"
    bundle = tmp_path / "out" / "two-encoder-openvino-cpu-decoder-onnxruntime-fp32"
    assert {item.graph: item.engine for item in open_bundle(bundle).manifest.artifacts} == {
        "encoder": "openvino",
        "decoder": "onnxruntime",
    }
    predictor = avsdk.load(bundle)
    x = np.ones((2, 4), np.float32)
    answer = predictor({"encoder.x": x, "decoder.x": x})
    assert (answer["encoder.y"] == 2).all()
    assert (answer["decoder.y"] == 3).all()
    assert [item["engine"] for item in predictor.executed()] == ["openvino", "onnxruntime"]
    predictor.close()


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("encoder=openvino", UsageError, "places encoder and not 'decoder'"),
        ("encoder=openvino,decodr=openvino,decoder=openvino", UnknownName, "unknown graph 'decodr'"),
    ],
)
def test_every_graph_and_no_other_is_placed(
    two_graphs: Path, tmp_path: Path, text: str, kind: type[UsageError], message: str
) -> None:
    exporter = Exporter(str(two_graphs), ExportOptions(tmp_path / "out"), lambda line: None)
    with exporter, pytest.raises(kind, match=message):
        exporter.export_placed(targets_by_graph(text))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("text", ["encoder=openvino,litert", "=openvino", "a=openvino,a=litert", "encoder=all"])
def test_what_is_no_placement_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="is no placement of graphs"):
        targets_by_graph(text)


def test_targets_of_the_whole_model_are_no_placement() -> None:
    assert targets_by_graph("openvino,litert") == {}
    with pytest.raises(UnknownName, match="unknown target 'openvimo'"):
        targets_by_graph("encoder=openvimo")


def test_one_bundle_has_one_precision() -> None:
    targets = {"encoder": resolve("onnxruntime"), "decoder": resolve("movidius")}
    try:
        with pytest.raises(UsageError, match="is built at fp32 and movidius at fp16"):
            placed(targets, None)
    except avsdk.errors.NotAvailable as error:  # without the toolchain there is no plan to compare
        pytest.skip(error.failed)
