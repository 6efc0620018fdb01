"""Trained models and user modules as sources: claims, fingerprints without torch, files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.export.models import style_spec

from avsdk.errors import UnknownName, UsageError
from avsdk.onnx_check import check_onnx
from avsdk_export.source import ModuleSource, TrainedSource, requested_sizes
from avsdk_train.families.style_transfer.network import TransformerNet

RECIPE = 'schema = 1\nfamily = "style_transfer"\n'


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    torch.manual_seed(1)
    save_file(TransformerNet().half().state_dict(), folder / "weights.safetensors")
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "spec.json").write_text(json.dumps(style_spec().to_json()))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder that modules can be imported from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def module(folder: Path, name: str, body: str) -> None:
    imports = "import torch\nfrom torch import nn\nfrom avsdk.spec import AxisRange, GraphSpec, ModelSpec, TensorSpec\n"
    (folder / f"{name}.py").write_text(imports + body)


def test_claims(run_folder: Path, here: Path) -> None:
    trained, own = TrainedSource(), ModuleSource()
    assert trained.claims(str(run_folder))
    assert trained.claims("zoo:style_transfer/wave")
    assert trained.claims("zoo:wave")
    assert not trained.claims(str(here))
    assert not trained.claims("package.module:function")
    assert own.claims("package.module:function")
    for name in ("zoo:wave", "zoo:style_transfer/wave", "model.onnx", "C:/model.onnx", "folder", "a.b:", ":f", "a:b:c"):
        assert not own.claims(name)


def test_fingerprint_follows_weights_recipe_and_options(run_folder: Path) -> None:
    source = TrainedSource()
    seen = [source.fingerprint(str(run_folder), {})]
    assert source.fingerprint(str(run_folder), {}) == seen[0]
    seen.append(source.fingerprint(str(run_folder), {"sizes": '[{"height": 64}]'}))
    state = TransformerNet().half().state_dict()
    save_file(state, run_folder / "weights.safetensors")
    seen.append(source.fingerprint(str(run_folder), {}))
    (run_folder / "recipe.toml").write_text(RECIPE + "# changed\n")
    seen.append(source.fingerprint(str(run_folder), {}))
    assert len(set(seen)) == len(seen)


def test_fingerprint_needs_no_torch(run_folder: Path, here: Path) -> None:
    (here / "mine.py").write_text("raise SystemExit('imported')\n")
    code = (
        "import sys; from avsdk_export.source import ModuleSource, TrainedSource\n"
        f"print(TrainedSource().fingerprint({str(run_folder)!r}, {{}}))\n"
        "print(ModuleSource().fingerprint('mine:make', {}))\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'sklearn'} & set(sys.modules), 'heavy import'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [len(line) for line in done.stdout.split()] == [64, 64]


def test_unknown_zoo_name_and_missing_module(here: Path) -> None:
    with pytest.raises(UnknownName, match="zoo model 'style_transfer/wafe'"):
        TrainedSource().fingerprint("zoo:style_transfer/wafe", {})
    with pytest.raises(UsageError, match="no module 'absent_module'"):
        ModuleSource().fingerprint("absent_module:make", {})


def test_a_run_becomes_files(run_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "out"
    files = TrainedSource().materialise(str(run_folder), out, {"sizes": '[{"height": 64, "width": 96}]'})
    assert files.spec == style_spec()
    assert files.origin["kind"] == "run"
    assert files.origin["reference"] == "PyTorch fp32"
    everything = [*files.onnx.values(), *files.programs.values(), *files.golden.values()]
    assert sorted(file.name for file in everything) == [
        "pipeline.npz", "transform.npz", "transform.onnx", "transform.pt2",
    ]  # fmt: skip
    assert all(file.is_file() and file.is_relative_to(out) for file in everything)
    assert check_onnx(files.onnx["transform"]).opset == 20
    assert sum(file.stat().st_size for file in files.golden.values()) < 3_000_000
    with np.load(files.golden["transform"]) as stored:
        assert (1, 3, 64, 96) in [stored[key].shape for key in stored.files if key.startswith("in.")]
    with np.load(files.golden["pipeline"]) as stored:
        assert (64, 96, 3) in [stored[key].shape for key in stored.files if key.endswith("media")]
        assert stored["out.0.answer"].dtype == np.uint8


def test_a_module_with_examples(here: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    module(here, "fixed_sizes", "def make():\n    return nn.Linear(4, 2), (torch.randn(3, 4),)\n")
    files = ModuleSource().materialise("fixed_sizes:make", tmp_path / "out", {})
    (graph,) = files.spec.graphs
    assert files.spec.predictor == "tensor"
    assert (graph.inputs[0].shape, graph.outputs[0].shape, graph.axes) == ((3, 4), (3, 2), {})
    assert check_onnx(files.onnx[graph.name]).inputs[0].shape == (3, 4)


def test_a_module_with_a_spec(here: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    module(
        here,
        "dynamic_sizes",
        "def make():\n"
        "    graph = GraphSpec('net', (TensorSpec('x', 'float32', ('batch', 4)),),\n"
        "                      (TensorSpec('y', 'float32', ('batch', 2)),), {'batch': AxisRange(1, 16)})\n"
        "    return nn.Linear(4, 2), (torch.randn(3, 4),), ModelSpec('mine', 'tensor', (graph,))\n",
    )
    files = ModuleSource().materialise("dynamic_sizes:make", tmp_path / "out", {})
    assert check_onnx(files.onnx["net"]).inputs[0].shape == ("batch", 4)


def test_a_module_fingerprint_follows_the_files_beside_it(here: Path) -> None:
    (here / "pack").mkdir()
    for name in ("__init__", "net", "layers"):
        (here / "pack" / f"{name}.py").write_text("")
    source = ModuleSource()
    before = source.fingerprint("pack.net:make", {})
    assert source.fingerprint("pack.net:make", {}) == before
    (here / "pack" / "layers.py").write_text("WIDTH = 3\n")
    after = source.fingerprint("pack.net:make", {})
    assert len({before, after, source.fingerprint("pack.net:other", {})}) == 3


@pytest.mark.parametrize(
    ("name", "body", "text"),
    [
        ("no_function", "def make_it(): ...\n", "no_function has no function 'make'"),
        ("returns_nothing", "def make(): ...\n", "returned NoneType"),
        ("raises", "def make():\n    raise KeyError('weights')\n", "raises:make raised KeyError: 'weights'"),
        ("does_not_parse", "def make(:\n", "raised SyntaxError"),
        (
            "branches",
            "class N(nn.Module):\n    def forward(self, x):\n        return x if x.sum() > 0 else -x\n"
            "def make():\n    return N(), (torch.randn(3, 4),)\n",
            "torch.export cannot export",
        ),
    ],
)
def test_modules_that_cannot_be_exported(here: Path, tmp_path: Path, name: str, body: str, text: str) -> None:
    module(here, name, body)
    with pytest.raises(UsageError) as caught:
        ModuleSource().materialise(f"{name}:make", tmp_path / "out", {})
    assert text in str(caught.value)
    assert caught.value.exit_code == 2


def test_requested_sizes() -> None:
    assert requested_sizes({}) == []
    assert requested_sizes({"sizes": '[{"height": 64}]'}) == [{"height": 64}]
    for text in ("{}", "[1]", "[", '[{"height": "64"}]', '[{"height": true}]'):
        with pytest.raises(UsageError, match="the sizes are"):
            requested_sizes({"sizes": text})
