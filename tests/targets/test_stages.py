from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import avsdk
from avsdk import media
from avsdk.bands import BandedGraph, plan_memory
from avsdk.bundle import open_bundle, write_manifest
from avsdk.cli import main
from avsdk.errors import BundleRefused, Refused, UsageError
from avsdk.predictor import predictor_for
from avsdk.session import Artifact, LoadedGraph, session_class
from avsdk.spec import AxisRange, GraphSpec, ModelSpec, Step, TensorSpec
from avsdk.stages import Stages
from avsdk_targets.stages import write_stages

SHAPE = ("batch", 3, "height", "width")
AXES = {"batch": AxisRange(1, 8), "height": AxisRange(16, 256, 4, 64), "width": AxisRange(16, 256, 4, 64)}
GRAPH = GraphSpec(
    "transform", (TensorSpec("image", "float32", SHAPE),), (TensorSpec("styled", "float32", SHAPE),), AXES
)
STEPS = (Step("image_rgb"), Step("pad_to_multiple", {"multiple": 4}), Step("to_nchw_float"))
BACK = (Step("from_nchw_float"), Step("crop_to_input"), Step("clip_uint8"))


class Drawing:
    """Builds a small network of the kind that style transfer uses, with seeded weights."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, **said: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **said))
        return name

    def constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def convolved(self, x: str, into: int, out: int, size: int, stride: int = 1) -> str:
        half = size // 2
        padded = self.node("Pad", x, self.constant(np.array([0, 0, half, half] * 2)), mode="reflect")
        weight = self.random.normal(0, (size * size * into) ** -0.5, (out, into, size, size)).astype(np.float32)
        bias = self.random.normal(0, 0.1, out).astype(np.float32)
        return self.node("Conv", padded, self.constant(weight), self.constant(bias), strides=[stride, stride])

    def normed(self, x: str, channels: int) -> str:
        scale, bias = (self.random.normal(mean, 0.1, channels).astype(np.float32) for mean in (1, 0))
        return self.node("InstanceNormalization", x, self.constant(scale), self.constant(bias), epsilon=1e-5)

    def enlarged(self, x: str, **said: Any) -> str:
        options = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric", **said}
        return self.node("Resize", x, "", self.constant(np.array([1, 1, 2, 2], np.float32)), **options)

    def saved(self, path: Path, answer: str) -> Path:
        self.nodes.append(helper.make_node("Identity", [answer], ["styled"]))
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("image", "styled")]
        body = helper.make_graph(self.nodes, "transform", values[:1], values[1:], self.constants)
        model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
        return path


def style_network(path: Path) -> Path:
    """Two halvings, a residual block, two doublings, kernels of 9 and 3: the paper's network in small."""
    draw = Drawing()
    x = draw.node("Relu", draw.normed(draw.convolved("image", 3, 4, 9), 4))
    x = draw.node("Relu", draw.normed(draw.convolved(x, 4, 6, 3, 2), 6))
    x = draw.node("Relu", draw.normed(draw.convolved(x, 6, 8, 3, 2), 8))
    hidden = draw.node("Relu", draw.normed(draw.convolved(x, 8, 8, 3), 8))
    x = draw.node("Add", x, draw.normed(draw.convolved(hidden, 8, 8, 3), 8))
    x = draw.node("Relu", draw.normed(draw.convolved(draw.enlarged(x), 8, 6, 3), 6))
    x = draw.node("Relu", draw.normed(draw.convolved(draw.enlarged(x), 6, 4, 3), 4))
    x = draw.node("Mul", draw.convolved(x, 4, 3, 9), draw.constant(np.array(60, np.float32)))
    return draw.saved(path, draw.node("Add", x, draw.constant(np.array(128, np.float32))))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network, exported for ONNX Runtime."""
    folder = tmp_path_factory.mktemp("stages")
    model = style_network(folder / "net.onnx")
    spec = ModelSpec("tiny/net", "style_transfer", (GRAPH,), STEPS, BACK)
    proto = onnx.load(model)
    proto.metadata_props.add(key="avsdk.spec", value=json.dumps(spec.to_json()))
    proto.metadata_props.add(key="avsdk.graph", value="transform")
    onnx.save(proto, model)
    with pytest.raises(SystemExit) as left:
        main(["export", str(model), "--target", "onnxruntime", "--out", str(folder / "out")])
    assert not left.value.code
    return next((folder / "out").iterdir())


def picture(height: int, width: int, count: int | None = None) -> np.ndarray:
    shape = (height, width, 3) if count is None else (count, height, width, 3)
    smooth = np.linspace(0, 200, width)[:, None] + np.random.default_rng(1).uniform(0, 55, shape)
    return smooth.astype(np.uint8)


def test_the_export_cuts_at_every_norm_and_proves_the_bands(bundle: Path) -> None:
    opened = open_bundle(bundle)
    stages = opened.manifest.stages["transform"]
    assert len(stages.norms) == 7
    assert len(stages.stages) == 8
    assert stages.multiple_of == 4
    assert set(stages.files()) <= set(opened.manifest.files)
    proven = {item.graph: item for item in opened.manifest.parity.outputs}
    assert proven["transform in bands"].snr_db > 100


def test_the_bytes_of_a_pixel_are_those_of_the_maps(bundle: Path) -> None:
    """The most is held at the last convolution but one or the last: all maps of 4 bytes, by hand."""
    stages = open_bundle(bundle).manifest.stages["transform"]
    doubled, padded = 4 * 6, 4 * 6  # the last enlargement's map and its padded copy, in full size
    assert stages.bytes_per_pixel == doubled + padded + 4 * 3  # and the picture, held to the end
    kept = stages.kept_bytes(64, 128)
    assert kept == 64 * 128 * 4 * (4 + 3)  # the last stage's map in and the answer, in full size


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("way", ["bands", "bands on disk"])
@pytest.mark.parametrize(("size", "rows"), [((64, 48), 4), ((96, 64), 36), ((72, 96), 72), ((68, 64), 64)])
def test_bands_equal_the_uncut_graph(bundle: Path, engine: str, way: str, size: tuple[int, int], rows: int) -> None:
    if not session_class(engine).availability("cpu").ok:
        pytest.skip(session_class(engine).availability("cpu").reason)
    stages = open_bundle(bundle).manifest.stages["transform"]
    artifact = Artifact("transform", engine, "cpu", "fp32", ("model/transform.onnx",))
    image = picture(*size).transpose(2, 0, 1)[np.newaxis].astype(np.float32)
    banded = BandedGraph(bundle, stages, artifact, 1)
    plan = replace(banded.narrowest(), way=way, rows=(rows,) * len(stages.stages))
    found = banded.run(image, plan, contextlib.nullcontext)
    graph = LoadedGraph(bundle, GRAPH, [artifact], 1)
    wanted = graph.run({"image": image})["styled"]
    graph.close()
    assert np.ptp(wanted) > 100
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2.55e-3)  # 1e-5 of the range of a picture
    assert banded.describe() == {
        "graph": "transform", "engine": engine, "device": "cpu", "effective_precision": "fp32",
    }  # fmt: skip


def test_moments_of_one_band_alone_would_give_another_picture(bundle: Path) -> None:
    """What tiling without the whole picture's moments does: the test above would fail."""
    image = picture(96, 64).transpose(2, 0, 1)[np.newaxis].astype(np.float32)
    graph = open_bundle(bundle).load_graphs(1)["transform"]
    whole = graph.run({"image": image})["styled"]
    part = graph.run({"image": image[:, :, :64]})["styled"]
    graph.close()
    assert np.abs(whole[:, :, :40] - part[:, :, :40]).max() > 1


def plan(stages: Stages, limit_mb: int, **said: Any) -> Any:
    return plan_memory(
        stages, Artifact("transform", "onnxruntime", "cpu", "fp32", ("x",)), 2160, 3840, limit_mb, **said
    )


def test_the_limit_decides_and_the_least_that_would_do_is_said(bundle: Path) -> None:
    stages = open_bundle(bundle).manifest.stages["transform"]
    ways = [plan(stages, limit) for limit in (4000, 1300, 1000)]
    assert [item.way for item in ways] == ["whole", "bands", "bands on disk"]
    assert all(item.expected_mb <= item.limit_mb for item in ways)
    assert ways[0].frames == (4000 - 350) // (ways[0].whole_mb - 350)
    with pytest.raises(UsageError, match="3840x2160 pixels does not fit into 500 MB") as caught:
        plan(stages, 500)
    least = int(caught.value.expected.split()[-2])
    assert caught.value.exit_code == 2
    assert plan(stages, least).way == "bands on disk"
    with pytest.raises(UsageError):
        plan(stages, least - 1)


def test_what_the_uncut_graph_does_not_take_runs_in_bands(bundle: Path) -> None:
    stages = open_bundle(bundle).manifest.stages["transform"]
    assert plan(stages, 10_000, admits=False).way == "bands"
    with predictor_for(open_bundle(bundle), threads=1, settings={"max_memory_mb": "2000"}) as predictor:
        shown = picture(260, 40)
        assert predictor.accepts(shown)
        assert predictor(shown).shape == shown.shape
        assert predictor.extra["memory"]["way"] == "bands"
        assert predictor.executed()[0]["graph"] == "transform"


@pytest.mark.parametrize("count", [1, 3])
def test_answers_do_not_depend_on_the_batch(bundle: Path, count: int) -> None:
    shown = picture(24, 32, 4)
    with predictor_for(open_bundle(bundle), threads=1, settings={"batch": str(count)}) as predictor:
        together = predictor(shown)
        apart = np.stack([predictor(frame) for frame in shown])
    assert np.abs(together.astype(int) - apart).max() <= 1
    assert (together != apart).mean() < 1e-3


def test_the_command_says_what_it_did(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    media.write_image(tmp_path / "tall.png", picture(300, 33))
    words = ["run", str(bundle), str(tmp_path / "tall.png"), "--out", str(tmp_path / "out.png"), "--threads", "1"]
    with pytest.raises(SystemExit) as left:
        main([*words, "--max-memory-mb", "600", "--json"])
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert not left.value.code
    assert document["files"][0]["memory"]["limit_mb"] == 600
    assert "ran in bands of" in said.err
    assert media.read_image(tmp_path / "out.png").shape == (300, 33, 3)
    with pytest.raises(SystemExit) as left:
        main([*words, "--max-memory-mb", "100"])
    assert left.value.code == 2
    assert "a limit of at least" in capsys.readouterr().err


def test_a_bundle_without_stages_refuses_a_limit(bundle: Path, tmp_path: Path) -> None:
    opened = open_bundle(bundle)
    without = replace(opened, manifest=replace(opened.manifest, stages={}))
    with pytest.raises(UsageError, match="does not say what a picture takes in memory"):
        predictor_for(without, threads=1, settings={"max_memory_mb": "600"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multiple_of": 0}, "sizes out of range"),
        ({"multiple_of": 2}, "a row for every 4 of the picture"),
        ({"rows": {}}, "a row for every 0 of the picture"),
        ({"norms": ()}, "a row for every 0 of the picture"),
        ({"stages": ()}, "it has no stages"),
        ({"bytes_per_pixel": 5e-324}, "sizes out of range"),
        ({"parameters": "elsewhere.npz"}, "uses 'elsewhere.npz'"),
    ],
)
def test_stages_that_mean_nothing_are_refused(
    bundle: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    manifest = open_bundle(bundle).manifest
    write_manifest(
        tmp_path / "b", replace(manifest, stages={"transform": replace(manifest.stages["transform"], **change)})
    )
    with pytest.raises(BundleRefused, match=message):
        open_bundle(tmp_path / "b")


def test_stages_that_make_something_else_are_refused(bundle: Path) -> None:
    stages = open_bundle(bundle).manifest.stages["transform"]
    last, first = stages.stages[-1], stages.stages[0]

    def problem(*changed: Any, whole: GraphSpec = GRAPH, **more: Any) -> str:
        return replace(stages, stages=changed or stages.stages, **more).problem(whole)

    assert problem() == ""
    two = replace(last, graph=replace(last.graph, outputs=(*last.graph.outputs, *first.graph.outputs)))
    assert "which is there already" in problem(*stages.stages[:-1], two)
    assert "not 'styled' alone" in problem(*stages.stages[:-1])
    assert "the tensors are" in problem(whole=replace(GRAPH, inputs=()))
    second = replace(GRAPH.inputs[0], name="mask")
    assert "2 inputs and 1 outputs" in problem(whole=replace(GRAPH, inputs=(*GRAPH.inputs, second)))
    zero = tuple(replace(norm, epsilon=0.0) for norm in stages.norms)
    assert "epsilons [0.0]" in problem(norms=zero)
    whole = tuple(replace(item, dtype="int8") for item in first.graph.outputs)
    assert "a row for every" in problem(replace(first, graph=replace(first.graph, outputs=whole)), *stages.stages[1:])


def test_stages_are_for_engines_that_run_them_as_they_are(bundle: Path) -> None:
    opened = open_bundle(bundle)
    artifact = opened.manifest.artifacts[0]
    for changed in (
        replace(artifact, engine="litert"),
        replace(artifact, precision="int8"),
        replace(artifact, shapes={"height": 64, "width": 64}),
    ):
        with pytest.raises(BundleRefused, match="the manifest has stages for"):
            BandedGraph(bundle, opened.manifest.stages["transform"], changed, 1)


def test_a_halving_and_doubling_without_a_norm_reaches_one_row_further(tmp_path: Path) -> None:
    draw = Drawing()
    x = draw.convolved(draw.enlarged(draw.convolved("image", 3, 4, 3, 2)), 4, 4, 3)
    model = draw.saved(tmp_path / "transform.onnx", draw.convolved(draw.normed(x, 4), 4, 3, 3))
    stages = write_stages(model, GRAPH, tmp_path)
    assert stages is not None
    assert stages.stages[0].halo == 4  # 3 rows: 1 of each convolution, 1 of the doubling; in multiples of 2
    artifact = Artifact("transform", "onnxruntime", "cpu", "fp32", ("transform.onnx",))
    banded = BandedGraph(tmp_path, stages, artifact, 1)
    image = picture(32, 24).transpose(2, 0, 1)[np.newaxis].astype(np.float32)
    found = banded.run(image, banded.narrowest(), contextlib.nullcontext)
    graph = LoadedGraph(tmp_path, GRAPH, [artifact], 1)
    wanted = graph.run({"image": image})["styled"]
    graph.close()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    with pytest.raises(UsageError, match="sides that are multiples of 2"):
        banded.run(image[:, :, :31], banded.narrowest(), contextlib.nullcontext)


def even_kernel(draw: Drawing) -> str:
    weight = draw.constant(np.ones((3, 3, 2, 2), np.float32))
    return draw.node("Conv", "image", weight, pads=[0, 0, 1, 1])


def smooth_enlargement(draw: Drawing) -> str:
    return draw.enlarged(draw.convolved("image", 3, 3, 3, 2), mode="linear")


def pooled(draw: Drawing) -> str:
    return draw.node("Mul", "image", draw.node("GlobalAveragePool", "image"))


def uneven_padding(draw: Drawing) -> str:
    padded = draw.node("Pad", "image", draw.constant(np.array([0, 0, 2, 2, 0, 0, 0, 0])), mode="reflect")
    return draw.node("Conv", padded, draw.constant(np.ones((3, 3, 3, 3), np.float32)))


def norm_of_the_picture(draw: Drawing) -> str:
    return draw.convolved(draw.normed("image", 3), 3, 3, 3)


def norm_of_a_norm(draw: Drawing) -> str:
    return draw.convolved(draw.normed(draw.normed(draw.convolved("image", 3, 3, 3), 3), 3), 3, 3, 3)


@pytest.mark.parametrize(
    "make", [even_kernel, smooth_enlargement, pooled, uneven_padding, norm_of_the_picture, norm_of_a_norm]
)
def test_what_is_not_understood_stays_whole(tmp_path: Path, make: Any) -> None:
    draw = Drawing()
    model = draw.saved(tmp_path / "net.onnx", make(draw))
    assert write_stages(model, GRAPH, tmp_path) is None
    assert not (tmp_path / "stages").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "is absent"),
        ({"scale": np.ones(3, np.float32)}, r"is float32 \[3\]"),
        ({"scale": np.array(["a"] * 4)}, r"is <U1 \[4\]"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    bundle: Path, tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    graph = open_bundle(bundle).load_graphs(1)["transform"]
    assert graph.stages is not None
    first = graph.stages.norms[0].result
    shutil.copytree(bundle, tmp_path / "b")
    named = {f"{first}.{name}": array for name, array in arrays.items()}
    np.savez(tmp_path / "b" / graph.stages.parameters, **named)  # type: ignore[arg-type]
    banded = BandedGraph(tmp_path / "b", graph.stages, graph.artifacts[0], 1)
    with pytest.raises(BundleRefused, match=message):
        banded.open_all()


def test_every_stage_is_opened_in_a_child_before_it_runs_here(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    manifest = open_bundle(bundle).manifest
    (tmp_path / "b" / manifest.stages["transform"].stages[3].file).write_bytes(b"\x08\x0anot a model")
    write_manifest(tmp_path / "b", manifest)
    media.write_image(tmp_path / "a.png", picture(32, 32))
    words = ["run", str(tmp_path / "b"), str(tmp_path / "a.png"), "--out", str(tmp_path / "o.png")]
    for limit, code in (([], 0), (["--max-memory-mb", "2000"], 5)):
        with pytest.raises(SystemExit) as left:
            main([*words, *limit])
        assert (left.value.code or 0) == code
    assert "03.onnx" in capsys.readouterr().err
    with pytest.raises(Refused):  # before it returns: no picture is needed to find out
        avsdk.load(tmp_path / "b", max_memory_mb="2000")
    avsdk.load(tmp_path / "b").close()
