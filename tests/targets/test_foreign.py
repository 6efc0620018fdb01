"""Models that are not ours, from the command line to a bundle that runs: several inputs, ranges, steps of one's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import avsdk
from avsdk import plugins
from avsdk.bundle import open_bundle
from avsdk.errors import NotAvailable, SizeNotBuilt, UsageError
from avsdk.spec import AxisRange
from avsdk.spec_request import AskedRange
from avsdk_targets.build import Exported, Exporter, ExportOptions
from avsdk_targets.compilers.openvino import OpenVinoCompiler
from avsdk_targets.prepared import Prepared
from avsdk_targets.target import resolve

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
RANDOM = np.random.default_rng(0)


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RANDOM.standard_normal(shape).astype(np.float32), name)


def saved(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any]) -> Path:
    values = [[helper.make_tensor_value_info(*item) for item in side] for side in (inputs, outputs)]
    graph = helper.make_graph([helper.make_node(*node[:3], **node[3]) for node in nodes], "net", *values, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Frames of floats and a speaker's number -> scores per frame."""
    return saved(
        tmp_path / "speech.onnx",
        [
            ("MatMul", ["frames", "w"], ["h"], {}), ("Gather", ["table", "speaker"], ["e"], {}),
            ("Unsqueeze", ["e", "one"], ["f"], {}), ("Add", ["h", "f"], ["scores"], {}),
        ],
        [("frames", FLOAT, ["batch", "time", 8]), ("speaker", INT64, ["batch"])],
        [("scores", FLOAT, ["batch", "time", 4])],
        [weight("w", 8, 4), weight("table", 3, 4), numpy_helper.from_array(np.array([1]), "one")],
    )  # fmt: skip


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """A picture -> scores of four classes."""
    return saved(
        tmp_path / "animals.onnx",
        [
            ("Conv", ["image", "k"], ["c"], {"strides": [2, 2]}), ("GlobalAveragePool", ["c"], ["p"], {}),
            ("Flatten", ["p"], ["f"], {}), ("Gemm", ["f", "w"], ["scores"], {}),
        ],
        [("image", FLOAT, ["N", 3, "H", "W"])], [("scores", FLOAT, ["N", 4])],
        [weight("k", 6, 3, 3, 3), weight("w", 6, 4)],
    )  # fmt: skip


def export(model: Path, out: Path, target: str = "onnxruntime", **options: Any) -> Exported:
    with Exporter(str(model), ExportOptions(out, **options), lambda text: None) as exporter:
        return exporter.export(resolve(target))


def test_several_inputs_and_a_range_from_the_file_to_the_answer(speech: Path, tmp_path: Path) -> None:
    done = export(speech, tmp_path / "out", "openvino", ranges={"time": AskedRange(5, 60)})
    manifest = done.bundle.manifest
    assert manifest.parity.verdict == "pass"
    assert manifest.spec.graphs[0].axes["time"] == AxisRange(5, 60, 1, 60)
    assert manifest.source["guessed_axes"] == ["batch"]
    feeds = {"frames": np.ones((2, 7, 8), np.float32), "speaker": np.array([2, 0])}
    np.savez(tmp_path / "in.npz", **feeds)
    done_ = cli("run", str(done.bundle.path), str(tmp_path / "in.npz"), "--out", str(tmp_path / "out.npz"))
    assert done_.returncode == 0, done_.stderr
    with np.load(tmp_path / "out.npz") as answer:
        assert answer["scores"].shape == (2, 7, 4)
    predictor = avsdk.load(done.bundle.path)
    with pytest.raises(SizeNotBuilt, match="axis 'time' of graph 'model' cannot be 61") as caught:
        predictor({"frames": np.ones((1, 61, 8), np.float32), "speaker": np.array([1])})
    assert caught.value.expected == "5..60"
    predictor.close()


def test_the_least_size_of_a_range_is_among_the_samples(speech: Path, tmp_path: Path) -> None:
    bundle = export(speech, tmp_path / "out", ranges={"time": AskedRange(5, 60)}).bundle
    with np.load(bundle.file(bundle.manifest.golden["model"])) as golden:
        assert (1, 5, 8) in {golden[name].shape for name in golden.files if name.endswith("frames")}


def test_labels_of_a_picture(animals: Path, tmp_path: Path, photograph: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\nfox\nbear\n")
    spec = tmp_path / "animals.toml"
    spec.write_text(ANIMALS)
    done = cli(
        "export", str(animals), "--spec", str(spec), "--target", "onnxruntime,openvino", "--out", str(tmp_path / "out"),
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    answers = []
    for name in ("onnxruntime", "openvino"):
        bundle = tmp_path / "out" / f"animals-{name}-fp32"
        assert (bundle / "assets" / "labels.txt").read_text().startswith("cat")
        predictor = avsdk.load(bundle)
        predictor.run_file(photograph, tmp_path / f"{name}.json")
        predictor.close()
        answers.append(json.loads((tmp_path / f"{name}.json").read_text()))
    assert [item["label"] for item in answers[0]] == [item["label"] for item in answers[1]]
    assert len(answers[0]) == 2
    assert np.allclose([item["score"] for item in answers[0]], [item["score"] for item in answers[1]], atol=1e-4)


ANIMALS = """\
schema = 1
model = "animals"
predictor = "image"
[inputs.image]
shape = ["batch", 3, 32, 32]
[axes.batch]
min = 1
max = 4
[assets]
"labels.txt" = "labels.txt"
[[preprocess]]
op = "image_rgb"
[[preprocess]]
op = "resize"
height = 32
width = 32
[[preprocess]]
op = "to_nchw_float"
scale = 0.003921
[[preprocess]]
op = "normalise"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
[[postprocess]]
op = "softmax"
[[postprocess]]
op = "top_k"
k = 2
labels = "labels.txt"
"""


def test_labels_that_are_not_as_many_as_the_scores_are_refused(animals: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "animals.toml").write_text(ANIMALS)
    with pytest.raises(UsageError, match="has 2 lines, the output 'scores' has 4 scores"):
        export(animals, tmp_path / "out", spec=tmp_path / "animals.toml")


def test_a_changed_asset_is_another_bundle(animals: Path, tmp_path: Path) -> None:
    (tmp_path / "animals.toml").write_text(ANIMALS)
    for content in ("cat\ndog\nfox\nbear\n", "cat\ndog\nfox\nwolf\n"):
        (tmp_path / "labels.txt").write_text(content)
        bundle = export(animals, tmp_path / "out", spec=tmp_path / "animals.toml").bundle
        assert (bundle.path / "assets" / "labels.txt").read_text() == content


class FixedCompiler(OpenVinoCompiler):
    """Builds at fixed sizes only."""

    dynamic_axes = False

    def keeps_axes(self, device: str) -> bool:
        return False


class ProfileCompiler(OpenVinoCompiler):
    """Keeps axes dynamic within ranges that somebody gave."""

    needs_ranges = True


class PreparingCompiler(OpenVinoCompiler):
    """Has no compiler for the device here."""

    def compile(self, job: Any) -> Any:
        raise Prepared("the device's compiler is not here", fix="run it there", report={"command.txt": "compile it\n"})


def use_compiler(monkeypatch: pytest.MonkeyPatch, compiler: type) -> None:
    load = plugins.load
    monkeypatch.setattr(plugins, "load", lambda group, name: compiler if group == "compilers" else load(group, name))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path / "home"))


def test_fixed_sizes_need_sizes_and_the_batch_is_one(
    speech: Path, tmp_path: Path, own_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_compiler(monkeypatch, FixedCompiler)
    with pytest.raises(UsageError, match="openvino needs the sizes of the axis 'time'") as caught:
        export(speech, tmp_path / "out", "openvino")
    assert caught.value.fix == "--axis time=SIZE"
    done = export(speech, tmp_path / "out", "openvino", sizes=({"time": 9}, {"time": 12, "batch": 2}))
    assert [dict(item.shapes or {}) for item in done.bundle.manifest.artifacts] == [
        {"batch": 1, "time": 9},
        {"batch": 2, "time": 12},
    ]
    ranged = export(speech, tmp_path / "out", "openvino", ranges={"time": AskedRange(5, 60)})
    assert [dict(item.shapes or {}) for item in ranged.bundle.manifest.artifacts] == [{"batch": 1, "time": 60}]


def test_a_profile_needs_ranges_of_all_axes(
    speech: Path, tmp_path: Path, own_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_compiler(monkeypatch, ProfileCompiler)
    with pytest.raises(UsageError, match="needs the sizes of the axes batch, time") as caught:
        export(speech, tmp_path / "out", "openvino")
    assert caught.value.fix == "--axis batch=MIN:MAX,time=MIN:MAX"
    ranges = {"time": AskedRange(5, 60), "batch": AskedRange(1, 4)}
    assert export(speech, tmp_path / "out", "openvino", ranges=ranges).bundle.manifest.parity.verdict == "pass"


def test_a_bundle_of_a_foreign_model_is_rebuilt_from_the_onnx_it_carries(speech: Path, tmp_path: Path) -> None:
    first = export(speech, tmp_path / "out", "openvino", ranges={"time": AskedRange(5, 60)}).bundle
    speech.unlink()
    done = cli("export", str(first.path), "--target", "onnxruntime", "--axis", "time=10:20", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    again = open_bundle(tmp_path / "speech-onnxruntime-fp32").manifest
    assert again.parity.verdict == "pass"
    assert again.spec.graphs[0].axes["time"] == AxisRange(10, 20, 1, 20)
    assert again.model.keys() == first.manifest.model.keys()
    with pytest.raises(UsageError, match="axis 'time' .* was asked for as 1..90"):
        export(first.path, tmp_path / "out", ranges={"time": AskedRange(1, 90)})


# -- where nothing here can compile ------------------------------------------------------------------------------------


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from avsdk.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_withdrawn_device_gets_the_onnx_and_exit_3(speech: Path, tmp_path: Path) -> None:
    done = cli("export", str(speech), "--target", "nervana-nnp-i", "--out", str(tmp_path / "out"), "--json")
    assert done.returncode == 3
    (failed,) = json.loads(done.stdout)["failed"]
    place = tmp_path / "out" / "speech-nervana-nnp-i-onnx"
    assert failed["path"] == str(place)
    assert f"the exported ONNX lies in {place}" in failed["fix"]
    assert (place / "model.onnx").read_bytes() == speech.read_bytes()


def test_what_a_compiler_can_only_prepare_is_left_with_its_report(
    speech: Path, tmp_path: Path, own_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_compiler(monkeypatch, PreparingCompiler)
    for _ in range(2):  # its own folder is replaced
        with Exporter(str(speech), ExportOptions(tmp_path / "out"), lambda text: None) as exporter:
            with pytest.raises(Prepared) as caught:
                exporter.export(resolve("openvino"))
            left = exporter.with_onnx_left(resolve("openvino"), caught.value)
    assert isinstance(left, Prepared)
    assert left.exit_code == 3
    assert left.path == tmp_path / "out" / "speech-openvino-onnx"
    assert (left.path / "command.txt").read_text() == "compile it\n"
    assert "with command.txt" in left.fix


def test_no_foreign_folder_is_replaced_by_prepared_onnx(speech: Path, tmp_path: Path) -> None:
    place = tmp_path / "out" / "speech-nervana-nnp-i-onnx"
    place.mkdir(parents=True)
    (place / "thesis.tex").write_text("years of work")
    done = cli("export", str(speech), "--target", "nervana-nnp-i", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "is no folder of exported ONNX" in done.stderr
    assert (place / "thesis.tex").read_text() == "years of work"


def test_another_reason_leaves_nothing(speech: Path, tmp_path: Path) -> None:
    with Exporter(str(speech), ExportOptions(tmp_path / "out"), lambda text: None) as exporter:
        error = NotAvailable("the toolchain is not installed")
        assert exporter.with_onnx_left(resolve("openvino"), error) is error
    assert not list((tmp_path / "out").iterdir())
