"""Put a run into the zoo: fp16 weights, hashes, a model card with its settings, loss curve and an example."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avsdk.errors import UsageError
from avsdk.files import atomic_folder, sha256_file, write_atomic
from avsdk.media import read_image, write_image
from avsdk.schema import SCHEMA, encode
from avsdk_train import zoo
from avsdk_train.curve import curve_from_series
from avsdk_train.data import resized_short_side
from avsdk_train.family import Family
from avsdk_train.recipe import Recipe, toml_from_recipe
from avsdk_train.run import METRICS, RECIPE, WEIGHTS, asset_files, weights_file, write_spec
from avsdk_train.trained import recipe_from_file, trained_from_run
from avsdk_train.watch import read_log
from avsdk_train.weights import read_weights, write_weights
from avsdk_train.zoo import ENTRY, ZooFile, ZooModel, load_zoo

_NAME = re.compile(r"[a-z0-9_]+/[a-z0-9-]+")
_EXAMPLE_PX = 384
_NOT_LOSSES = frozenset({"step", "learning_rate"})


def publish(
    run: Path, name: str, *, summary: str, about_data: str, example: Path, licence: str = "Apache-2.0"
) -> ZooModel:
    """Write the zoo entry ``family/name`` from a run, whole or not at all, and read it back with its hashes checked."""
    family, recipe = recipe_from_file(run / RECIPE)
    if not _NAME.fullmatch(name) or name.partition("/")[0] != family.name:
        raise UsageError(
            f"{name!r} is no name for this model", expected=f"{family.name}/NAME, small letters and hyphens"
        )
    folder = zoo.ZOO / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    recipe = _without_places(recipe)
    weights = weights_file(run)
    with atomic_folder(folder) as new:
        write_weights(new / WEIGHTS, {key: value.to(torch.float16) for key, value in read_weights(weights).items()})
        for file in asset_files(run).values():
            shutil.copyfile(file, new / file.name)
        write_spec(new, family.spec(name.partition("/")[2], recipe))
        write_atomic(new / RECIPE, toml_from_recipe(recipe))
        losses = read_log(run / METRICS)
        write_image(new / "loss.png", curve_from_series(_series(losses)))
        shown = _write_example(new, family, example)
        write_atomic(new / "card.md", _card(name, summary, shown, about_data, licence, recipe, losses))
        files = {file.name: sha256_file(file) for file in sorted(new.iterdir())}
        content = ZooFile(summary=summary, licence=licence, data=about_data, files=files)
        write_atomic(new / ENTRY, json.dumps({"schema": SCHEMA, **encode(content)}, indent=1) + "\n")
    return load_zoo(name)


def _without_places(recipe: Recipe) -> Recipe:
    """The recipe with file names where it had paths: the maker's folders are nobody's business."""
    settings = recipe.settings
    names = {
        field.name: Path(value).name
        for field in dataclasses.fields(settings)
        if isinstance(value := getattr(settings, field.name), str) and "/" in value
    }
    init = recipe.init if recipe.init.startswith("zoo:") else Path(recipe.init).name
    return dataclasses.replace(recipe, init=init, settings=dataclasses.replace(settings, **names))


def _write_example(folder: Path, family: Family, example: Path) -> str:
    # What is shown is what ships: the fp16 weights.
    network = trained_from_run(folder).network
    shown = family.write_example(network, example, folder)
    if shown:
        return shown
    apply = family.apply(network)
    photo = resized_short_side(read_image(example), _EXAMPLE_PX)
    write_image(folder / "example.jpg", np.concatenate([photo, apply(photo)], axis=1))
    return "![photograph and result](example.jpg)"


def _series(losses: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    names = [name for name in dict.fromkeys(key for line in losses for key in line) if name not in _NOT_LOSSES]
    return {name: [(line["step"], line[name]) for line in losses if name in line] for name in names}


def _card(
    name: str, summary: str, shown: str, about_data: str, licence: str, recipe: Recipe, losses: list[dict[str, Any]]
) -> str:
    last = losses[-100:]
    rows = [
        f"| {key} | {np.mean([line[key] for line in last if key in line]):.4g} |"
        for key in (last[-1] if last else {})
        if key not in _NOT_LOSSES
    ]
    return "\n".join([
        f"# zoo:{name}", "", summary, "",
        shown, "",
        f"    avsdk export zoo:{name} --target openvino:cpu", "",
        "## Data and licence", "", about_data, "",
        f"The weights are under {licence}.", "",
        "## Training", "", f"Mean losses of the last {len(last)} logged steps:", "",
        "| loss | value |", "|---|---|", *rows, "",
        "![loss curve](loss.png)", "",
        "Weights are stored in fp16 and computed in fp32. The recipe, whole:", "",
        "```toml", toml_from_recipe(recipe).rstrip(), "```", "",
    ])  # fmt: skip
