"""One suite over every family: what its recipes, networks and spec owe to the loop, the exporter and the device."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from avsdk import plugins
from avsdk.ops import pipelines_for
from avsdk.spec import ModelSpec
from avsdk_export.golden import Reference
from avsdk_export.program import tracing_sizes
from avsdk_train.family import Family, list_families, load_family
from avsdk_train.options import options_from
from avsdk_train.recipe import Recipe
from avsdk_train.trained import recipe_from_file

_FAMILIES = pytest.mark.parametrize(
    "family", [load_family(name) for name in list_families()], ids=lambda item: item.name
)


def recipe_of(family: Family, variant: str = "") -> Recipe:
    _, recipe = recipe_from_file(family.recipes() / "small.toml")
    return replace(recipe, variant=variant or recipe.variant)


def spec_of(family: Family, variant: str = "") -> ModelSpec:
    return family.spec("contract", recipe_of(family, variant))


@_FAMILIES
@pytest.mark.parametrize("name", ["small", "paper"])
def test_both_recipes_are_of_the_family_and_one_of_its_variants(family: Family, name: str) -> None:
    found, recipe = recipe_from_file(family.recipes() / f"{name}.toml")
    assert found.name == family.name
    assert recipe.variant in family.variants
    assert isinstance(recipe.settings, family.settings)


@_FAMILIES
def test_the_spec_is_whole_and_survives_json(family: Family) -> None:
    spec = spec_of(family)
    assert spec.model == f"{family.name}/contract"
    assert spec.predictor == family.predictor
    assert spec.predictor in plugins.list_names("predictors")
    assert ModelSpec.from_json(spec.to_json(), where="contract") == spec
    media = "audio" if spec.preprocess[0].op == "sound_mono" else "image"
    pipelines_for(media, spec.preprocess, spec.postprocess)  # every step is one that the device knows
    for graph in spec.graphs:
        named = {axis for tensor in graph.inputs for axis in tensor.shape if isinstance(axis, str)}
        assert named <= set(graph.axes)
        assert not graph.problem()
        assert all(axis.admits(axis.default) for axis in graph.axes.values())


@_FAMILIES
def test_every_variant_has_the_graphs_of_its_spec_at_their_shapes(family: Family) -> None:
    for variant in family.variants:
        spec = spec_of(family, variant)
        torch.manual_seed(0)
        graphs = family.graphs(family.network(variant).eval())
        assert set(graphs) == {graph.name for graph in spec.graphs}
        for graph in spec.graphs:
            sizes = tracing_sizes(graph)
            feeds = {tensor.name: np.ones(tensor.sized(sizes), tensor.dtype) for tensor in graph.inputs}
            feeds |= family.examples(recipe_of(family, variant), graph, sizes)
            answer = Reference(graphs[graph.name], graph)(feeds)  # raises where a shape is not the spec's
            assert {tensor.name: tensor.dtype for tensor in graph.outputs} == {
                name: str(array.dtype) for name, array in answer.items()
            }


@_FAMILIES
def test_weights_go_out_and_in_again(family: Family) -> None:
    for variant in family.variants:
        first, second = family.network(variant), family.network(variant)
        family.load_weights(second, first.state_dict())
        assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


@_FAMILIES
def test_every_experiment_is_declared_whole(family: Family) -> None:
    experiments = family.experiments()
    names = [experiment.name for experiment in experiments]
    assert len(set(names)) == len(names)
    for experiment in experiments:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", experiment.name)
        assert experiment.summary.endswith(".")
        assert "\n" not in experiment.summary
        whole = experiment.settings()  # one command needs nothing but --out: every setting has a default
        small = options_from(experiment.settings, [], what=experiment.name, preset=experiment.small)
        assert experiment.small
        assert set(experiment.selects) <= set(vars(whole))
        assert small != whole
