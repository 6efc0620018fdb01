"""From a name to networks with weights: the part of ``avsdk_train.family`` that needs torch."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avsdk.errors import UsageError
from avsdk.files import sha256_file
from avsdk.spec import GraphSpec, ModelSpec, TensorSpec
from avsdk_train.family import Family, TrainedModel, load_family, with_current_folder
from avsdk_train.recipe import Recipe, read_recipe_document, recipe_from_document
from avsdk_train.run import RECIPE, asset_files, is_run, read_spec, weights_file
from avsdk_train.weights import read_weights
from avsdk_train.zoo import load_zoo


def recipe_from_file(path: Path, overrides: tuple[str, ...] = ()) -> tuple[Family, Recipe]:
    """Read a recipe, with its family."""
    document = read_recipe_document(path)
    if not isinstance(document.get("family"), str):
        raise UsageError(f"{path} names no family", expected='family = "style_transfer", or another one')
    family = load_family(document["family"])
    recipe = recipe_from_document(document, family.settings, where=str(path), overrides=overrides)
    if recipe.variant not in family.variants:
        raise UsageError(
            f"{family.name} has no variant {recipe.variant!r}", expected=f"one of: {', '.join(family.variants)}"
        )
    return family, recipe


def state_from_model(model: str) -> dict[str, Tensor]:
    """The weights that ``init`` names: a file, a run folder or ``zoo:NAME``."""
    if model.startswith("zoo:"):
        return read_weights(load_zoo(model).folder / "weights.safetensors")
    path = Path(model)
    return read_weights(weights_file(path) if path.is_dir() else path)


def trained_from_run(folder: Path) -> TrainedModel:
    """The finished model of a run, else its latest checkpoint."""
    if not is_run(folder):
        raise UsageError(f"{folder} is no training run", expected="a folder with recipe.toml and spec.json")
    return _trained_from_folder(folder, "run", folder.resolve().name)


def trained_from_zoo(model: str) -> TrainedModel:
    """A model of the zoo; its hashes are checked first."""
    entry = load_zoo(model)
    return _trained_from_folder(entry.folder, "zoo", entry.name)


def _trained_from_folder(folder: Path, kind: str, name: str) -> TrainedModel:
    family, recipe = recipe_from_file(folder / RECIPE)
    weights = weights_file(folder)
    network = family.network(recipe.variant)
    family.load_weights(network, read_weights(weights))
    network.eval().requires_grad_(False)
    return TrainedModel(
        spec=read_spec(folder),
        networks=family.graphs(network),
        origin={"kind": kind, "name": name, "sha256": sha256_file(weights)},
        assets=asset_files(folder),
        samples=partial(family.examples, recipe),
        whole=network,
    )


def trained_from_function(model: str) -> TrainedModel:
    """Call ``package.module:function``: it returns a module and example inputs, and perhaps a ``ModelSpec``.

    The inputs are a tuple, or a dict by name; without a spec every axis is fixed at the examples' sizes.
    """
    with_current_folder()
    module_name, _, function_name = model.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(f"no module {error.name!r}", expected="package.module:function") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [name for name, item in vars(module).items() if callable(item) and not name.startswith("_")]
        raise UsageError(
            f"{module_name} has no function {function_name!r}", expected=f"one of: {', '.join(known[:20])}"
        )
    network, examples, spec = _checked_answer(model, function())
    network = network.float().cpu().eval().requires_grad_(False)
    spec = spec or _spec_from_examples(model, network, examples)
    origin = {"kind": "module", "name": model, "sha256": sha256_file(Path(inspect.getfile(module)))}
    graph = spec.graphs[0].name
    return TrainedModel(spec=spec, networks={graph: network}, origin=origin, examples={graph: examples})


def _checked_answer(model: str, answer: Any) -> tuple[nn.Module, dict[str, Tensor], ModelSpec | None]:
    expected = "(torch.nn.Module, example inputs as a tuple or dict of tensors) or the same with a ModelSpec as third"
    fits = isinstance(answer, tuple) and len(answer) in (2, 3) and isinstance(answer[0], nn.Module)
    if not fits:
        raise UsageError(f"{model} returned {type(answer).__name__}", expected=expected)
    network, given = answer[0], answer[1]
    if isinstance(given, Tensor):
        given = (given,)
    if isinstance(given, (tuple, list)):
        names = list(inspect.signature(network.forward).parameters)
        given = {names[i] if i < len(names) else f"input_{i}": value for i, value in enumerate(given)}
    if not isinstance(given, Mapping) or not all(isinstance(value, Tensor) for value in given.values()) or not given:
        raise UsageError(f"{model} returned example inputs of type {type(answer[1]).__name__}", expected=expected)
    spec = answer[2] if len(answer) == 3 else None
    if spec is not None and not isinstance(spec, ModelSpec):
        raise UsageError(f"{model} returned a {type(spec).__name__} as third", expected=expected)
    return network, dict(given), spec


def _spec_from_examples(model: str, network: nn.Module, examples: Mapping[str, Tensor]) -> ModelSpec:
    with torch.no_grad():
        answer = network(*examples.values())
    outputs = {"output": answer} if isinstance(answer, Tensor) else _named_outputs(answer)
    graph = GraphSpec(
        name="model",
        inputs=tuple(_tensor_spec(name, value) for name, value in examples.items()),
        outputs=tuple(_tensor_spec(name, value) for name, value in outputs.items()),
    )
    return ModelSpec(model=model.replace(":", "."), predictor="tensor", graphs=(graph,))


def _named_outputs(answer: Any) -> dict[str, Tensor]:
    if isinstance(answer, Mapping):
        return dict(answer)
    return {f"output_{i}": value for i, value in enumerate(answer)}


def _tensor_spec(name: str, value: Tensor) -> TensorSpec:
    return TensorSpec(name, str(value.dtype).removeprefix("torch."), tuple(value.shape))
