"""ONNX Runtime's quantiser: types by instruction set, norms in fp32, symmetric Q/DQ for engines that obey them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.targets import quantising

from avsdk.golden import write_golden
from avsdk.schema import encode
from avsdk.spec import GraphSpec, TensorSpec
from avsdk_targets.compiler import CompileJob, Quantisation
from avsdk_targets.compilers.onnxruntime import build, quantise, rank_layers
from avsdk_targets.compilers.tensorrt_rtx import TensorRtRtxCompiler
from avsdk_targets.typed_onnx import TypedGraph

pytest.importorskip("onnxruntime")
SHAPE = (1, 3, 32, 32)
SPEC = GraphSpec("small", (TensorSpec("x", "float32", SHAPE),), (TensorSpec("y", "float32", SHAPE),))


@pytest.fixture
def request_(tmp_path: Path) -> dict[str, Any]:
    quantising.network(tmp_path / "small.onnx")
    waves = [np.sin(np.linspace(0, 9, 32) * (1 + place) + np.linspace(0, 2, 32)[:, None]) for place in range(3)]
    feeds = [{"x": np.broadcast_to(wave, SHAPE).astype(np.float32)} for wave in waves]
    write_golden(tmp_path / "samples.npz", [(item, {"y": item["x"]}) for item in feeds])
    (tmp_path / "out").mkdir()
    quantisation = {"samples": str(tmp_path / "samples.npz"), "cache": str(tmp_path / "cache"), "kept": [], "isa": []}
    return {"onnx": str(tmp_path / "small.onnx"), "graph": encode(SPEC), "arch": "host", "device": "cpu",
            "precision": "int8", "sizes": None, "options": {}, "out": str(tmp_path / "out"),
            "quantisation": quantisation}  # fmt: skip


def built(request: dict[str, Any], **changes: Any) -> tuple[dict[str, Any], onnx.ModelProto]:
    request["quantisation"].update(changes)
    answer = build(request)
    return answer, onnx.load(Path(request["out"]) / answer["files"][0])


def kinds(model: onnx.ModelProto) -> tuple[str, set[str], int]:
    """The type of activations, the types of weights, and the largest of them."""
    held = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    (activations,) = {held[node.input[2]].dtype.name for node in model.graph.node if node.op_type == "QuantizeLinear"}
    weights = [array for array in held.values() if array.ndim == 4 and array.dtype.itemsize == 1]
    return (
        activations,
        {item.dtype.name for item in weights},
        max(int(np.abs(item.astype(int)).max()) for item in weights),
    )


@pytest.mark.parametrize(
    ("isa", "arch", "wanted"),
    [
        (["avx2"], "host", ("uint8", {"int8"}, 64)),
        (["avx2", "avx512_vnni"], "host", ("uint8", {"int8"}, 127)),
        (["avx_vnni"], "x86_64", ("uint8", {"int8"}, 127)),
        (["asimddp"], "host", ("int8", {"int8"}, 127)),
        ([], "cortex-a76", ("int8", {"int8"}, 127)),
    ],
)
def test_the_types_are_those_of_the_instruction_set(
    isa: list[str], arch: str, wanted: tuple[str, set[str], int], request_: dict[str, Any]
) -> None:
    _, model = built({**request_, "arch": arch}, isa=isa)
    activations, weights, largest = kinds(model)
    assert (activations, weights) == wanted[:2]
    assert largest <= wanted[2]
    assert largest > wanted[2] - 3, "the range is used"


def test_layers_that_are_kept_and_norms_stay_in_fp32(request_: dict[str, Any]) -> None:
    answer, model = built(request_, kept=["first"])
    assert answer["options"]["layers"] == {"first": "fp32", "second": "int8", "Conv_5": "int8"}
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    reads = {node.name: made.get(node.input[0], "") for node in model.graph.node}
    assert (reads["first"], reads["second"]) == ("", "DequantizeLinear")
    (norm,) = [node for node in model.graph.node if node.op_type == "InstanceNormalization"]
    assert made[norm.input[0]] == "Conv", "its input is not rounded"
    assert answer["options"]["products"] == {"first": 27, "second": 72, "Conv_5": 72}


def test_an_engine_that_obeys_qdq_gets_them_symmetric(request_: dict[str, Any]) -> None:
    request = {**request_, "device": "rtx-3090", "arch": "sm86"}
    answer = quantise(request)
    model = onnx.load(Path(request["out"]) / answer["files"][0])
    graph = TypedGraph(model, {"x": SHAPE})
    assert graph.asymmetric() == ""
    assert graph.shares()["int8"] > 0.9
    assert set(answer["layers"].values()) == {"int8"}
    assert kinds(model)[0] == "int8"


def test_tensorrt_for_rtx_takes_it(request_: dict[str, Any], tmp_path: Path) -> None:
    compiler = TensorRtRtxCompiler()
    verdict = compiler.check("rtx-3090", "sm86", "int8")
    if not verdict.ok:
        pytest.skip(verdict.reason)
    quantisation = Quantisation(Path(request_["quantisation"]["samples"]), tmp_path / "cache", ("first",))
    job = CompileJob(
        Path(request_["onnx"]), SPEC, "rtx-3090", "sm86", "int8", tmp_path / "out", quantisation=quantisation
    )
    artifact = compiler.compile(job).artifact
    assert artifact.options["layers"] == {"first": "fp32", "second": "int8", "Conv_5": "int8"}
    assert artifact.options["precision_shares"]["int8"] > 0.5


def test_the_ranking_finds_the_layer_with_the_outlier(request_: dict[str, Any], tmp_path: Path) -> None:
    from avsdk.engines.onnxruntime import reference_outputs
    from avsdk.golden import read_golden

    samples = [feeds for feeds, _ in read_golden(tmp_path / "samples.npz")]
    answers = reference_outputs(request_["onnx"], samples)
    write_golden(tmp_path / "held.npz", list(zip(samples, answers, strict=True)))
    ranked = rank_layers(
        request_["onnx"], str(tmp_path / "samples.npz"), str(tmp_path / "held.npz"), str(tmp_path / "cache")
    )
    assert {item["layer"] for item in ranked} == {"first", "second", "Conv_5"}
    worst = min(ranked, key=lambda item: item["snr_db"])
    assert worst["layer"] == "first"
    assert sorted(item["snr_db"] for item in ranked)[1] > worst["snr_db"] + 10.0
