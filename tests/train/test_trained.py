"""From a name to networks: runs, functions, and what is no model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from avsdk.errors import AvsdkError, CheckpointRefused, UsageError
from avsdk_train.family import claims, load_family, load_trained, model_files
from avsdk_train.run import RECIPE, WEIGHTS, read_run_file, read_spec, weights_file, write_spec
from avsdk_train.trained import recipe_from_file, state_from_model
from avsdk_train.weights import write_weights

MODULE = """
import torch

def network():
    return torch.nn.Linear(4, 2), (torch.zeros(3, 4),)

def two():
    class Two(torch.nn.Module):
        def forward(self, left, right):
            return {"sum": left + right, "product": left * right}
    return Two(), {"left": torch.ones(2), "right": torch.ones(2)}

def nothing():
    return 3

def no_inputs():
    return torch.nn.Linear(1, 1), ()

answer = 42
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "their_model.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "their_model", raising=False)
    return "their_model"


def test_a_function_gives_a_model_with_a_spec_from_its_examples(module: str, tmp_path: Path) -> None:
    name = f"{module}:network"
    assert claims(name)
    assert model_files(name) == [tmp_path / "their_model.py"]
    model = load_trained(name)
    (graph,) = model.spec.graphs
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in (*graph.inputs, *graph.outputs)] == [
        ("input", "float32", (3, 4)), ("output", "float32", (3, 2)),
    ]  # fmt: skip
    assert model.origin["kind"] == "module"
    assert not model.networks[graph.name].training
    assert set(model.examples[graph.name]) == {"input"}


def test_several_inputs_and_named_outputs(module: str) -> None:
    (graph,) = load_trained(f"{module}:two").spec.graphs
    assert [tensor.name for tensor in graph.inputs] == ["left", "right"]
    assert [tensor.name for tensor in graph.outputs] == ["sum", "product"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", r"returned int(.|\n)*torch.nn.Module, example inputs"),
        ("no_inputs", r"returned example inputs of type tuple"),
        ("netwrok", r"has no function 'netwrok'(.|\n)*network"),
        ("answer", r"has no function 'answer'"),
    ],
)
def test_functions_that_give_no_model(module: str, function: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_trained(f"{module}:{function}")


@pytest.mark.parametrize("name", ["no/such/run", "model.onnx", "no_such_module_xyz:f", "no_such.deep.module:f"])
def test_what_is_no_model_is_a_usage_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for act in (load_trained, model_files):
        with pytest.raises(UsageError):
            act(name)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run as the loop leaves it, without the training."""
    family = load_family("style_transfer")
    small = family.recipes() / "small.toml"
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / RECIPE).write_text(small.read_text())
    write_spec(folder, family.spec("run", recipe_from_file(small)[1]))
    write_weights(folder / WEIGHTS, family.network("base").state_dict())
    return folder


def test_the_spec_of_style_transfer_is_as_the_other_packages_expect(run: Path) -> None:
    spec = read_spec(run)
    graph = spec.graph("transform")
    assert (spec.model, spec.predictor) == ("style_transfer/run", "style_transfer")
    assert [tensor.name for tensor in (*graph.inputs, *graph.outputs)] == ["image", "styled"]
    assert graph.default_sizes() == {"batch": 1, "height": 256, "width": 256}
    assert str(graph.axes["height"]) == "64..4096, a multiple of 4"
    assert [step.op for step in (*spec.preprocess, *spec.postprocess)] == [
        "image_rgb", "pad_to_multiple", "to_nchw_float", "from_nchw_float", "crop_to_input", "clip_uint8",
    ]  # fmt: skip


def test_a_run_loads_from_its_final_weights_or_its_latest_checkpoint(run: Path) -> None:
    assert load_trained(str(run)).origin["name"] == "run"
    latest = run / "checkpoints" / "step-00000002"
    latest.mkdir(parents=True)
    (run / WEIGHTS).rename(latest / WEIGHTS)
    with pytest.raises(UsageError, match=r"has no weights yet(.|\n)*--resume"):
        load_trained(str(run))
    (run / "checkpoints" / "latest").write_text("step-00000002\n")
    assert weights_file(run) == latest / WEIGHTS
    load_trained(str(run))


@pytest.mark.parametrize(
    ("file", "content", "kind"),
    [
        (WEIGHTS, b"cut off", CheckpointRefused),
        ("spec.json", b"{", CheckpointRefused),
        ("spec.json", b'{"schema": 9}', CheckpointRefused),
        ("spec.json", b'{"schema": 1, "model": "x", "colour": 1}', CheckpointRefused),
        (RECIPE, b"steps =", UsageError),
    ],
)
def test_damaged_files_of_a_run_are_refused(run: Path, file: str, content: bytes, kind: type[AvsdkError]) -> None:
    (run / file).write_bytes(content)
    with pytest.raises(kind):
        load_trained(str(run))


def test_a_pickle_named_weights_never_runs(run: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"w": Bomb()}, run / WEIGHTS)
    with pytest.raises(CheckpointRefused, match=r"no safetensors file(.|\n)*can run code"):
        load_trained(str(run))
    with pytest.raises(CheckpointRefused):
        state_from_model(str(run / WEIGHTS))
    assert not (tmp_path / "ran").exists()


def test_a_run_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match=r"run.json is missing"):
        read_run_file(tmp_path)


def test_an_unknown_family_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown family 'style_trasnfer'(.|\n)*'style_transfer'"):
        load_family("style_trasnfer")
