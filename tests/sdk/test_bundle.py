from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from avsdk import bundle as bundles
from avsdk.bundle import is_bundle, open_bundle
from avsdk.errors import BundleRefused, UsageError
from avsdk.files import sha256_file

MakeBundle = Callable[..., Path]


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The bundle with its manifest changed."""
    manifest = folder / "manifest.json"
    document = json.loads(manifest.read_text())
    change(document)
    manifest.write_text(json.dumps(document))
    return folder


def test_a_whole_bundle_opens(make_bundle: MakeBundle) -> None:
    opened = open_bundle(make_bundle())
    manifest = opened.manifest
    assert manifest.spec.model == "tiny/invert"
    assert sorted(manifest.files) == ["golden/transform.npz", "model/transform.onnx"]
    assert manifest.spec.graph("transform").axes["height"].multiple_of == 4
    assert opened.file("model/transform.onnx").is_file()
    model, golden = ((opened.path / name).stat().st_size for name in ("model/transform.onnx", "golden/transform.npz"))
    assert opened.size_bytes() == model + golden
    assert opened.size_bytes(artifacts_only=True) == model
    assert list(opened.load_graphs(1)) == ["transform"]


def test_a_file_that_is_not_listed_is_not_given(make_bundle: MakeBundle) -> None:
    opened = open_bundle(make_bundle())
    (opened.path / "extra").write_text("x")
    with pytest.raises(BundleRefused, match="does not list 'extra'"):
        opened.file("extra")


def test_where_there_is_no_bundle(tmp_path: Path) -> None:
    assert not is_bundle(tmp_path)
    with pytest.raises(UsageError, match="is no bundle") as caught:
        open_bundle(tmp_path)
    assert "manifest.json" in caught.value.expected
    assert caught.value.fix


def first_graph(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["spec"]["graphs"][0]
    return found


def renamed(document: dict[str, Any], name: str) -> None:
    """Give the only graph another name, wherever the manifest says it."""
    first_graph(document)["name"] = first_artifact(document)["graph"] = name
    for room in ("golden", "model"):
        document[room] = {name: document[room]["transform"]}


def first_artifact(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["artifacts"][0]
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(surprise=1), "unknown key 'surprise'"),
        (lambda d: first_artifact(d).update(run="rm"), "unknown key 'run'"),
        (lambda d: d.update(schema=2), "has schema 2"),
        (lambda d: d.update(schema="1"), "has schema '1'"),
        (lambda d: d.update(schema=True), "has schema True"),
        (lambda d: d.pop("schema"), "has schema None"),
        (lambda d: d.pop("spec"), "lacks the key 'spec'"),
        (lambda d: d.update(target=3), "manifest.json.target is 3"),
        (lambda d: d["files"].update({"model/transform.onnx": "0" * 64}), "has SHA-256"),
        (lambda d: d["files"].update({"../outside": "0" * 64}), "leaves its folder"),
        (lambda d: d["files"].update({"/etc/hostname": "0" * 64}), "leaves its folder"),
        (lambda d: d["files"].update({"model/../../x": "0" * 64}), "leaves its folder"),
        (lambda d: d["files"].update({"C:\\x": "0" * 64}), "leaves its folder"),
        (lambda d: d["files"].update({"none": "0" * 64}), "'none' is missing"),
        (lambda d: d["files"].update({"model": "0" * 64}), "is not a regular file"),
        (lambda d: first_artifact(d).update(files=["artifacts/x.bin"]), "uses 'artifacts/x.bin'"),
        (lambda d: d["golden"].update({"transform": "../x.npz"}), "uses '../x.npz'"),
        (lambda d: d["model"].update({"transform": "manifest.json"}), "uses 'manifest.json'"),
        (lambda d: d["spec"]["assets"].update({"a": "assets/a"}), "uses 'assets/a'"),
        (lambda d: d["spec"]["assets"].update({"../../a": "golden/transform.npz"}), "assets has the name '../../a'"),
        (lambda d: d["golden"].update({"../../g": "golden/transform.npz"}), "golden has the name '../../g'"),
        (lambda d: d["golden"].update({"": "golden/transform.npz"}), "golden has the name ''"),
        (lambda d: d["model"].update({"/m": "model/transform.onnx"}), "model has the name '/m'"),
        (lambda d: renamed(d, "../../evil"), "graph '../../evil': its name is not"),
        (lambda d: renamed(d, ".hidden"), "graph '.hidden': its name is not"),
        (lambda d: renamed(d, "x" * 81), "or longer than 80"),
        (lambda d: d["spec"].update(model="a\0b"), r"the model is called 'a\\x00b'"),
        (lambda d: first_graph(d)["axes"]["height"].update(max=1 << 40), "axis 'height' has the range"),
        (lambda d: first_artifact(d).update(graph="other"), "has artifacts for"),
        (lambda d: d.update(artifacts=[]), "has artifacts for"),
        (lambda d: d["spec"].update(graphs={}), "graphs is {}"),
        (lambda d: d.update(precision="fp33"), "the precision is 'fp33'"),
        (lambda d: d["spec"]["graphs"].append(d["spec"]["graphs"][0]), "the graphs are"),
        (lambda d: first_artifact(d).update(precision="fp33"), "its precision is 'fp33'"),
        (lambda d: first_artifact(d).update(files=[]), "it has no file"),
        (lambda d: first_artifact(d).update(shapes={"hight": 64}), "its sizes {'hight': 64}"),
        (
            lambda d: first_artifact(d).update(shapes={"batch": 1, "height": 63, "width": 64}),
            "its sizes .*'height': 63",
        ),
        (lambda d: first_graph(d)["axes"]["height"].update(multiple_of=0), "axis 'height' has the range"),
        (lambda d: first_graph(d)["axes"]["height"].update(min=-4), "axis 'height' has the range"),
        (lambda d: first_graph(d)["axes"]["height"].update(default=63), "the default 63"),
        (lambda d: first_graph(d)["axes"].pop("height"), "has the axis 'height', which has no range"),
        (lambda d: first_graph(d)["inputs"][0].update(dtype="float99"), "has the dtype 'float99'"),
        (lambda d: first_graph(d)["inputs"][0].update(dtype="object"), "has the dtype 'object'"),
        (lambda d: first_graph(d)["inputs"][0].update(shape=["batch", -3]), "has the shape \\['batch', -3\\]"),
        (lambda d: first_graph(d)["inputs"][0].update(name="styled"), "the tensors are"),
        (lambda d: first_graph(d).update(outputs=[]), "the tensors are"),
    ],
)
def test_a_manifest_that_was_tampered_with(
    make_bundle: MakeBundle, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(BundleRefused, match=message) as caught:
        open_bundle(edited(make_bundle(), change))
    assert caught.value.exit_code == 5
    assert caught.value.expected


def test_a_newer_schema_says_what_to_do(make_bundle: MakeBundle) -> None:
    with pytest.raises(BundleRefused) as caught:
        open_bundle(edited(make_bundle(), lambda d: d.update(schema=99)))
    assert caught.value.fix == "upgrade avsdk"


@pytest.mark.parametrize("name", ["model/transform.onnx", "golden/transform.npz"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "link", "folder"])
def test_a_file_that_was_tampered_with(make_bundle: MakeBundle, tmp_path: Path, name: str, damage: str) -> None:
    bundle = make_bundle()
    file = bundle / name
    data = file.read_bytes()
    if damage == "flip":
        file.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    elif damage == "cut":
        file.write_bytes(data[:-1])
    else:
        file.unlink()
    if damage == "link":  # the same bytes, but elsewhere
        (tmp_path / "elsewhere").write_bytes(data)
        file.symlink_to(tmp_path / "elsewhere")
    if damage == "folder":
        file.mkdir()
    with pytest.raises(BundleRefused, match=name) as caught:
        open_bundle(bundle)
    assert caught.value.expected


def test_a_folder_on_the_way_may_be_no_link(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle()
    shutil.move(bundle / "model", tmp_path / "moved")
    (bundle / "model").symlink_to(tmp_path / "moved")
    with pytest.raises(BundleRefused, match="symbolic link"):
        open_bundle(bundle)


def test_a_linked_manifest_is_refused(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle()
    shutil.move(bundle / "manifest.json", tmp_path / "manifest.json")
    (bundle / "manifest.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(BundleRefused, match="symbolic link"):
        open_bundle(bundle)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_does_not_hang(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    (bundle / "model" / "transform.onnx").unlink()
    os.mkfifo(bundle / "model" / "transform.onnx")
    with pytest.raises(BundleRefused, match="not a regular file"):
        open_bundle(bundle)


@pytest.mark.parametrize("content", [b"", b"no json", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema": 1'])
def test_a_manifest_that_is_no_manifest(make_bundle: MakeBundle, content: bytes) -> None:
    bundle = make_bundle()
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(BundleRefused):
        open_bundle(bundle)


def test_a_huge_manifest_is_not_read(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    with (bundle / "manifest.json").open("r+b") as stream:
        stream.truncate(1 << 30)  # sparse: takes no room
    with pytest.raises(BundleRefused, match="has 1073741824 bytes"):
        open_bundle(bundle)


def test_too_many_files_are_not_hashed(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "_MAX_FILES", 1)
    with pytest.raises(BundleRefused, match="lists 2 files"):
        open_bundle(make_bundle())


def test_weights_outside_the_hashes_are_refused(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    file = path / "model" / "transform.onnx"
    model = onnx.load(file)
    tensor = model.graph.initializer.add(name="far", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.data")
    (path / "model" / "weights.data").write_bytes(b"\0" * 4)
    file.write_bytes(model.SerializeToString())
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["model/transform.onnx"] = sha256_file(file)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleRefused, match=r"weights\.data"):
        open_bundle(path)
    manifest["files"]["model/weights.data"] = sha256_file(path / "model" / "weights.data")
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert open_bundle(path)
