"""ONNX files and bundles as sources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avsdk.bundle import Artifact, Manifest, open_bundle, write_manifest
from avsdk.errors import BundleRefused, ModelRefused, NotAvailable, UnknownName, UsageError
from avsdk.parity import Parity
from avsdk.source import SourceFiles
from avsdk.spec import AxisRange, GraphSpec, ModelSpec, Step, TensorSpec
from avsdk_targets.sources import BundleSource, OnnxSource

pytest.importorskip("onnxruntime")

AXES = {"batch": AxisRange(1, 8), "height": AxisRange(2, 64, 2, 8), "width": AxisRange(2, 64, 2, 8)}
SHAPE = ("batch", 3, "height", "width")


def picture_spec() -> ModelSpec:
    graph = GraphSpec(
        "invert", (TensorSpec("image", "float32", SHAPE),), (TensorSpec("inverted", "float32", SHAPE),), AXES
    )
    before = (Step("image_rgb"), Step("pad_to_multiple", {"multiple": 2}), Step("to_nchw_float", {"scale": 1.0}))
    after = (Step("from_nchw_float"), Step("crop_to_input"), Step("clip_uint8"))
    return ModelSpec("tests/invert", "image", (graph,), before, after)


def invert(*, spec: ModelSpec | None = None, output: tuple[object, ...] = SHAPE) -> onnx.ModelProto:
    """255 - image."""
    graph = helper.make_graph(
        [helper.make_node("Sub", ["white", "image"], ["inverted"])],
        "invert",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("inverted", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(np.array(255, np.float32), "white")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if spec is not None:
        model.metadata_props.add(key="avsdk.graph", value="invert")
        model.metadata_props.add(key="avsdk.spec", value=json.dumps(spec.to_json()))
    return model


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def golden_shapes(path: Path, name: str) -> list[tuple[int, ...]]:
    with np.load(path) as stored:
        return [stored[key].shape for key in stored.files if key.startswith("in.") and key.endswith(name)]


def test_claims(tmp_path: Path) -> None:
    assert OnnxSource().claims("some/model.onnx")
    assert not OnnxSource().claims("zoo:style_transfer/wave")
    assert not BundleSource().claims(str(tmp_path))
    (tmp_path / "manifest.json").write_text("{}")
    assert BundleSource().claims(str(tmp_path))


def test_an_onnx_file_with_its_spec(tmp_path: Path) -> None:
    path = save(invert(spec=picture_spec()), tmp_path / "in" / "model.onnx")
    files = OnnxSource().materialise(str(path), tmp_path / "out", {"sizes": '[{"height": 16, "width": 20}]'})
    assert files.spec == picture_spec()
    assert files.origin["kind"] == "onnx"
    assert files.onnx["invert"].read_bytes() == path.read_bytes()
    assert files.onnx["invert"].is_relative_to(tmp_path / "out")
    assert not files.programs
    assert golden_shapes(files.golden["invert"], "image")[:2] == [(1, 3, 16, 20), (1, 3, 8, 8)]
    with np.load(files.golden["invert"]) as stored:
        image = stored["in.0.image"]
        assert image.max() > 200  # pictures, not normal noise
        np.testing.assert_array_equal(stored["out.0.inverted"], 255 - image)


def test_an_onnx_file_from_anywhere(tmp_path: Path) -> None:
    path = save(invert(), tmp_path / "my net (2).onnx")
    files = OnnxSource().materialise(str(path), tmp_path / "out", {})
    (graph,) = files.spec.graphs
    assert (files.spec.model, files.spec.predictor) == ("my_net_2", "tensor")
    assert graph.inputs[0] == TensorSpec("image", "float32", SHAPE)
    assert {name: axis.default for name, axis in graph.axes.items()} == {"batch": 1, "height": 256, "width": 256}
    assert str(graph.axes["height"]) == "1..4096"


def test_unnamed_axes_and_wrongly_named_outputs(tmp_path: Path) -> None:
    model = invert(output=("batch", 3, "width", "height"))
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    files = OnnxSource().materialise(
        str(save(model, tmp_path / "m.onnx")), tmp_path / "out", {"sizes": '[{"height": 4, "width": 6}]'}
    )
    (graph,) = files.spec.graphs
    assert graph.inputs[0].shape == ("image_0", 3, "height", "width")
    assert graph.outputs[0].shape == ("batch", 3, "inverted_2", "inverted_3")


def test_external_data_travels_along(tmp_path: Path) -> None:
    model = invert(spec=picture_spec())
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "data/white.bin")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "white.bin").write_bytes(np.array(255, np.float32).tobytes())
    model.graph.initializer[0].ClearField("raw_data")
    path = save(model, tmp_path / "m.onnx")
    source = OnnxSource()
    before = source.fingerprint(str(path), {})
    files = source.materialise(str(path), tmp_path / "out", {})
    assert (files.onnx["invert"].parent / "data" / "white.bin").is_file()
    (tmp_path / "data" / "white.bin").write_bytes(np.array(1, np.float32).tobytes())
    assert source.fingerprint(str(path), {}) != before


def test_external_data_outside_its_folder(tmp_path: Path) -> None:
    model = invert()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "../white.bin")
    model.graph.initializer[0].ClearField("raw_data")
    (tmp_path / "white.bin").write_bytes(np.array(255, np.float32).tobytes())
    path = save(model, tmp_path / "in" / "m.onnx")
    for act in (lambda: OnnxSource().fingerprint(str(path), {}),
                lambda: OnnxSource().materialise(str(path), tmp_path / "out", {})):  # fmt: skip
        with pytest.raises(ModelRefused, match="'../white.bin' leaves its folder"):
            act()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model": "../../evil"}, "has the names"),
        ({"graphs": []}, "has the names"),
        ({"predictor": 3}, "spec"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"schema": 2}, "has schema 2"),
    ],
)
def test_a_damaged_spec_inside(tmp_path: Path, change: dict[str, object], text: str) -> None:
    model = invert(spec=picture_spec())
    model.metadata_props[1].value = json.dumps({**picture_spec().to_json(), **change})
    with pytest.raises(ModelRefused) as caught:
        OnnxSource().materialise(str(save(model, tmp_path / "m.onnx")), tmp_path / "out", {})
    assert text in str(caught.value)


def test_a_spec_of_another_model(tmp_path: Path) -> None:
    model = invert(spec=picture_spec())
    model.graph.output[0].name = model.graph.node[0].output[0] = "other"
    with pytest.raises(ModelRefused, match="does not describe its inputs and outputs"):
        OnnxSource().materialise(str(save(model, tmp_path / "m.onnx")), tmp_path / "out", {})


def test_what_onnx_runtime_cannot_load(tmp_path: Path) -> None:
    unknown, malformed = invert(), invert()
    unknown.graph.node[0].op_type = "Subtract2"
    malformed.graph.node[0].input[1] = "nowhere"
    for model, kinds in ((unknown, (ModelRefused, NotAvailable)), (malformed, (ModelRefused, NotAvailable))):
        with pytest.raises(kinds, match=r"m\.onnx"):
            OnnxSource().materialise(str(save(model, tmp_path / "m.onnx")), tmp_path / "out", {})


def test_sizes_that_the_model_does_not_take(tmp_path: Path) -> None:
    model = invert()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((3, 5, 7), np.float32), "white"))
    path = str(save(model, tmp_path / "m.onnx"))
    with pytest.raises(UsageError, match="does not run at") as caught:
        OnnxSource().materialise(path, tmp_path / "out", {})
    assert "--axis batch=SIZE,height=SIZE,width=SIZE" in caught.value.fix
    with pytest.raises(UsageError, match="does not run at .*'height': 6"):
        OnnxSource().materialise(path, tmp_path / "out", {"sizes": '[{"height": 6, "width": 7}]'})
    files = OnnxSource().materialise(path, tmp_path / "out", {"sizes": '[{"height": 5, "width": 7}]'})
    assert golden_shapes(files.golden["model"], "image")[0] == (1, 3, 5, 7)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    save(invert(spec=picture_spec()), folder / "model" / "invert.onnx")
    (folder / "golden").mkdir()
    image = np.random.default_rng(1).integers(0, 256, (1, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "golden" / "invert.npz", **{"in.0.image": image, "out.0.inverted": 255 - image})
    picture = image[0].transpose(1, 2, 0).astype(np.uint8)
    np.savez(folder / "golden" / "pipeline.npz", **{"in.0.media": picture, "out.0.answer": 255 - picture})
    write_manifest(
        folder,
        Manifest(
            avsdk="0.1.0", spec=picture_spec(), target="onnxruntime", engine="onnxruntime", device="cpu",
            precision="fp32", effective_precision="fp32", source={"kind": "zoo", "name": "invert"},
            artifacts=(Artifact("invert", "onnxruntime", "cpu", "fp32", ("model/invert.onnx",)),),
            golden={"invert": "golden/invert.npz", "pipeline": "golden/pipeline.npz"}, built_with={},
            parity=Parity.not_run("a test"), model={"invert": "model/invert.onnx"},
        ),
    )  # fmt: skip
    return folder


def test_a_bundle_is_built_again_from_what_it_carries(bundle: Path, tmp_path: Path) -> None:
    files = BundleSource().materialise(str(bundle), tmp_path / "out", {})
    assert files.spec == picture_spec()
    assert files.origin == {"kind": "zoo", "name": "invert"}
    assert files.onnx["invert"].read_bytes() == (bundle / "model" / "invert.onnx").read_bytes()
    assert golden_shapes(files.golden["invert"], "image") == [(1, 3, 8, 8)]
    assert all(file.is_relative_to(tmp_path / "out") for file in (*files.onnx.values(), *files.golden.values()))


def test_a_new_size_gets_golden_samples(bundle: Path, tmp_path: Path) -> None:
    options = {"sizes": '[{"height": 12, "width": 6}, {"height": 8, "width": 8}]'}
    files = BundleSource().materialise(str(bundle), tmp_path / "out", options)
    assert golden_shapes(files.golden["invert"], "image") == [(1, 3, 8, 8), (1, 3, 12, 6)]
    assert golden_shapes(files.golden["pipeline"], "media") == [(8, 8, 3), (12, 6, 3)]
    with np.load(files.golden["pipeline"]) as stored:
        np.testing.assert_array_equal(stored["out.1.answer"], 255 - stored["in.1.media"])


def test_a_changed_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    source = BundleSource()
    assert source.fingerprint(str(bundle), {}) == source.fingerprint(str(bundle), {})
    assert source.fingerprint(str(bundle), {}) != source.fingerprint(str(bundle), {"sizes": "[]"})
    (bundle / "model" / "invert.onnx").write_bytes(b"other")
    with pytest.raises(BundleRefused, match=r"model/invert\.onnx .* has SHA-256"):
        source.materialise(str(bundle), tmp_path / "out", {})


class Zoo:
    """Stands for the source of trained models: it has one named invert, with these weights."""

    def __init__(self, sha256: str) -> None:
        self.sha256 = sha256

    def fingerprint(self, model: str, options: Mapping[str, str]) -> str:
        if model != "zoo:invert":
            raise UnknownName.among("model", model, ["zoo:invert"])
        return self.sha256

    def materialise(self, model: str, out: Path, options: Mapping[str, str]) -> SourceFiles:
        program = save(invert(spec=picture_spec()), out / "invert.pt2")
        return SourceFiles(
            picture_spec(), {}, {}, programs={"invert": program}, origin={"kind": "zoo", "sha256": self.sha256}
        )


@pytest.mark.parametrize(("here", "programs"), [("a" * 64, {"invert"}), ("b" * 64, set())])
def test_a_bundle_of_a_zoo_model_is_built_from_it_where_it_is_unchanged(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str, programs: set[str]
) -> None:
    manifest = open_bundle(bundle).manifest
    write_manifest(bundle, replace(manifest, source={"kind": "zoo", "name": "invert", "sha256": "a" * 64}))
    monkeypatch.setattr("avsdk_targets.sources._zoo_source", lambda: Zoo(here))
    files = BundleSource().materialise(str(bundle), tmp_path / "out", {})
    assert set(files.programs) == programs
    assert files.spec == picture_spec()


def test_only_the_zoo_is_looked_up_by_what_a_manifest_says(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = open_bundle(bundle).manifest
    monkeypatch.setattr("avsdk_targets.sources._zoo_source", lambda: pytest.fail("code of this machine was looked up"))
    write_manifest(bundle, replace(manifest, source={"kind": "module", "name": "os:system", "sha256": "a" * 64}))
    assert BundleSource().fingerprint(str(bundle), {})


@pytest.mark.parametrize("listed", [5, "width", [{}], {"width": 1}])
def test_a_manifest_whose_source_means_nothing_is_refused(bundle: Path, tmp_path: Path, listed: object) -> None:
    manifest = open_bundle(bundle).manifest
    write_manifest(bundle, replace(manifest, source={**manifest.source, "guessed_axes": listed}))
    with pytest.raises(BundleRefused, match=r"source\.guessed_axes"):
        BundleSource().materialise(str(bundle), tmp_path / "out", {})


def test_a_manifest_that_names_a_graph_like_a_path_writes_nothing_outside(bundle: Path, tmp_path: Path) -> None:
    document = json.loads((bundle / "manifest.json").read_text())
    document["golden"]["../../../outside"] = next(iter(document["golden"].values()))
    (bundle / "manifest.json").write_text(json.dumps(document))
    out = tmp_path / "a" / "b" / "out"
    with pytest.raises(BundleRefused, match="golden has the name"):
        BundleSource().materialise(str(bundle), out, {})
    assert not list(tmp_path.rglob("outside*"))
