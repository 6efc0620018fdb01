"""What ``avsdk train`` and ``avsdk evaluate`` do; ``cli`` holds only their options and prints the answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import avsdk
from avsdk.bundle import is_bundle, open_bundle
from avsdk.errors import CheckpointRefused, UsageError
from avsdk_train.distributed import Processes
from avsdk_train.family import Family, list_families, load_family, load_trained
from avsdk_train.loop import Outcome, create_run, train
from avsdk_train.recipe import Recipe, changed_keys
from avsdk_train.run import PREVIEWS, RECIPE, asset_files, is_run, read_run_file, weights_file
from avsdk_train.trained import recipe_from_file, trained_from_zoo


def train_new(
    family_name: str, folders: Sequence[Path], out: Path, recipe: str, variant: str, overrides: Sequence[str]
) -> dict[str, Any]:
    """Start a run in a new folder and train it to its end."""
    family, found = _recipe_of(family_name, recipe, variant, overrides)
    if not folders:
        raise UsageError("no data was given", expected="a folder of training files", fix="--data DIR")
    data = family.dataset(found, folders)
    processes = Processes(found)
    create_run(family, found, data, folders, out, model_name(out), processes)
    return _trained(family, found, train(family, found, data, out, processes))


def train_on(
    family_name: str, folders: Sequence[Path], out: Path, recipe: str, variant: str, overrides: Sequence[str]
) -> dict[str, Any]:
    """Go on with the run in ``out`` from its newest whole checkpoint, on the same data and recipe."""
    if not is_run(out):
        raise UsageError(
            f"{out} is no run to resume",
            expected="the --out folder of an earlier avsdk train",
            fix="leave out --resume",
        )
    _, begun = recipe_from_file(out / RECIPE)
    family, resumed = recipe_from_file(out / RECIPE, tuple(overrides))
    if family.name != family_name:
        raise UsageError(f"{out} is a run of {family.name}, not {family_name}", expected=f"avsdk train {family.name}")
    if recipe:
        _, asked = _recipe_of(family_name, recipe, variant, overrides)
        _refuse_changes(begun, asked, out)
    _refuse_changes(begun, resumed, out)
    if variant and variant != begun.variant:
        raise UsageError(f"the run {out} has the variant {begun.variant!r}", expected=f"--variant {begun.variant}")
    run_file = read_run_file(out)
    places = list(folders) or [Path(folder) for folder in run_file.data]
    data = family.dataset(resumed, places)
    if data.fingerprint() != run_file.data_sha256:
        raise UsageError(
            f"the data in {', '.join(map(str, places))} is not what {out} was begun with",
            expected="the same files, since a resumed run repeats an uninterrupted one exactly",
            fix=f"restore the files, or start a new run with --set init={out}",
        )
    processes = Processes(resumed)
    if processes.count != run_file.processes:
        raise UsageError(
            f"the run {out} was begun by {run_file.processes} processes, and goes on with {processes.count}",
            expected="as many as it began with, since they share every batch",
            fix=f"start {run_file.processes} processes, or a new run with --set init={out}",
        )
    return _trained(family, resumed, train(family, resumed, data, out, processes))


def evaluate(model: str, folders: Sequence[Path], split: str, options: Mapping[str, str]) -> dict[str, Any]:
    """The family's metrics of a run, a zoo model or a bundle on the items beneath the folders."""
    if not folders:
        raise UsageError("no data was given", expected="a folder of files to evaluate on", fix="--data DIR")
    family, apply, assets = _bundle_parts(Path(model)) if is_bundle(Path(model)) else _trained_parts(model)
    if split and split not in family.splits:
        raise UsageError(
            f"{family.name} has no split {split!r}",
            expected=f"one of: {', '.join(family.splits) or 'no --split at all'}",
        )
    scores = family.score(apply, folders, assets, {**options, "split": split} if split else options)
    return {"model": model, "metrics": dict(scores.metrics), "n": scores.n, "split": split or "all"}


def model_name(out: Path) -> str:
    """The model's name after its run's folder: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", out.resolve().name.lower()).strip("-") or "run"


def _recipe_of(family_name: str, recipe: str, variant: str, overrides: Sequence[str]) -> tuple[Family, Recipe]:
    """The recipe of a file, or one of the family's own by its bare name; ``small`` by default."""
    family = load_family(family_name)
    own = {file.stem: file for file in family.recipes().glob("*.toml")}
    path = own.get(recipe or "small", Path(recipe))
    variants = [f"variant={variant}"] if variant else []
    found_family, found = recipe_from_file(path, (*overrides, *variants))
    if found_family.name != family.name:
        raise UsageError(f"{path} is a recipe for {found_family.name}", expected=f"one for {family.name}")
    return family, found


def _refuse_changes(begun: Recipe, asked: Recipe, out: Path) -> None:
    changed = changed_keys(begun, asked)
    if changed:
        raise UsageError(
            f"the run {out} was begun with another {', '.join(changed)}",
            expected=f"the recipe that it began with: {out / RECIPE}",
            fix=f"leave the change out, or start a new run with --set init={out}",
        )


def _trained(family: Family, recipe: Recipe, outcome: Outcome) -> dict[str, Any]:
    previews = sorted((outcome.run / PREVIEWS).glob("*.*"))
    return {
        "run": str(outcome.run),
        "family": family.name,
        "finished": outcome.finished,
        "step": outcome.step,
        "steps": recipe.steps,
        "losses": outcome.losses,
        "weights": str(weights_file(outcome.run)),
        "preview": str(previews[-1]) if previews else None,
        "pace": dict(outcome.pace),
        "process": outcome.process,
    }


def _trained_parts(model: str) -> tuple[Family, Callable[[Any], Any], Mapping[str, Path]]:
    found = load_trained(model)
    family = _family_of_model(found.spec.model)
    return family, family.apply(found.network), found.assets


def _bundle_parts(path: Path) -> tuple[Family, Callable[[Any], Any], Mapping[str, Path]]:
    """The bundle's predictor, as a user has it; its assets, else those of the zoo model that it was exported from.

    Nothing but the zoo is looked up: a manifest from a stranger must not choose code or files of this machine.
    """
    bundle = open_bundle(path)
    family = _family_of_model(bundle.manifest.spec.model)
    assets = asset_files(path / "assets")
    source = bundle.manifest.source
    if not assets and source.get("kind") == "zoo":
        try:
            assets = dict(trained_from_zoo(f"zoo:{str(source.get('name', '')).removeprefix('zoo:')}").assets)
        except UsageError as error:
            raise CheckpointRefused(
                f"{path} carries no assets, and its source {source.get('name')!r} is not here",
                expected="the zoo model that it was exported from",
                fix="export it again with this avsdk",
            ) from error
    return family, avsdk.load(path), assets


def _family_of_model(model: str) -> Family:
    name = model.partition("/")[0]
    if name not in list_families():
        raise UsageError(
            f"{model!r} belongs to no family, so nothing is known to measure",
            expected=f"a model of one of: {', '.join(list_families())}",
        )
    return load_family(name)
