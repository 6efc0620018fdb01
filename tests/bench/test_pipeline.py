"""Rows of whole pipelines: media decoded from a file each time, every stage timed."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from avsdk.bundle import Artifact, Manifest, open_bundle, write_manifest
from avsdk.errors import NotAvailable
from avsdk.parity import Parity
from avsdk.spec import AxisRange, GraphSpec, ModelSpec, Step, TensorSpec
from avsdk_bench import cell, inputs
from avsdk_bench.bench import run_bench
from avsdk_bench.plan import plans_for
from avsdk_bench.rounds import Settings

RATE_HZ = 8000


@pytest.fixture
def audio_bundle(tmp_path: Path) -> Path:
    """A bundle that halves a sound of 80 to 8000 samples."""
    folder = tmp_path / "audio"
    (folder / "model").mkdir(parents=True)
    shape = [1, "samples"]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["sound", "half"], ["answer"])],
        "net",
        [helper.make_tensor_value_info("sound", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, shape)],
        [helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model" / "net.onnx")
    tensors = (TensorSpec("sound", "float32", (1, "samples")), TensorSpec("answer", "float32", (1, "samples")))
    spec = ModelSpec(
        model="halved",
        predictor="audio",
        graphs=(GraphSpec("net", tensors[:1], tensors[1:], {"samples": AxisRange(80, 8000, 80, 800)}),),
        preprocess=(Step("sound_mono", {"sample_rate_hz": RATE_HZ}), Step("batch")),
        postprocess=(Step("sound_out"),),
    )
    manifest = Manifest(
        avsdk="0.1.0", spec=spec, target="onnxruntime:cpu", engine="onnxruntime", device="cpu", precision="fp32",
        effective_precision="fp32", source={"kind": "test"}, built_with={}, golden={},
        artifacts=(Artifact("net", "onnxruntime", "cpu", "fp32", ("model/net.onnx",), None),),
        parity=Parity.not_run("made by hand"), model={"net": "model/net.onnx"},
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder


def test_a_sound_pipeline_has_a_row_with_its_stages(audio_bundle: Path) -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'avsdk[onnxruntime]'")
    pytest.importorskip("soundfile", reason="pip install 'avsdk[media]'")
    plans = plans_for(open_bundle(audio_bundle), [{"samples": 1600}], 1)
    assert [plan.graph for plan in plans] == ["net", "pipeline"]
    assert plans[1].natural_period_ms == 200.0
    report, errors = run_bench(plans, Settings(budget_s=1.0))
    assert not errors
    row = report.rows[1]
    assert row.input == "random -0.5..0.5, seed 0, as WAV"
    assert row.stages_ms is not None
    assert set(row.stages_ms) == {"decode", "preprocess", "infer", "postprocess"}
    assert all(value > 0 for value in row.stages_ms.values())


def test_a_file_holds_the_media_that_was_made(make_bundle, audio_bundle: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from avsdk.predictor import predictor_for

    for path, sizes, within in ((make_bundle("a"), {"height": 24, "width": 28}, 0), (audio_bundle, {}, 1e-4)):
        bundle = open_bundle(path)
        made = inputs.media_for(bundle, sizes, 3)
        with predictor_for(bundle) as predictor:
            media = inputs.media_file_for(predictor, bundle.manifest.spec, made, tmp_path)
            assert media.decode is not None
            assert np.abs(media.decode().astype(np.float64) - made[0]).max() <= within


def test_without_a_codec_the_media_stay_in_memory_and_the_row_says_so(  # type: ignore[no-untyped-def]
    make_bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(path: Path, image: object) -> None:
        raise NotAvailable("OpenCV is not installed")

    monkeypatch.setattr("avsdk.media.write_image", absent)
    bundle = open_bundle(make_bundle("a"))
    made = inputs.media_for(bundle, {"height": 16, "width": 20}, 3)
    media = inputs.media_file_for(None, bundle.manifest.spec, made, tmp_path)
    assert (media.decode, media.source) == (None, "golden sample 0, in memory: OpenCV is not installed")


@pytest.mark.parametrize("module", ["cell", "inputs", "loops", "loadgen", "memory"])
def test_what_runs_in_a_cell_is_clean_for_python_3_9(module: str) -> None:
    source = Path(cell.__file__).with_name(f"{module}.py").read_text()
    tree = ast.parse(source, feature_version=(3, 9))
    strict = [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg in ("strict", "slots")]
    assert not strict, "zip(strict=) and slots are of Python 3.10"
