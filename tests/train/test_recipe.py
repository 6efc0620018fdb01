"""Recipes: every wrong key and value is named, with what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from avsdk.errors import AvsdkError, UsageError
from avsdk_train.families.style_transfer.settings import StyleSettings
from avsdk_train.family import list_families, load_family
from avsdk_train.recipe import Recipe, changed_keys, recipe_from_document, toml_from_recipe
from avsdk_train.trained import recipe_from_file

MINIMAL = 'schema = 1\nfamily = "style_transfer"\n'


def recipe_of(tmp_path: Path, text: str = MINIMAL, *overrides: str) -> Recipe:
    (tmp_path / "r.toml").write_text(text)
    return recipe_from_file(tmp_path / "r.toml", overrides)[1]


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (MINIMAL + "stepps = 3\n", (), r"unknown key in .*r.toml: 'stepps'(.|\n)*did you mean 'steps'"),
        (MINIMAL + "[settings]\nstyle_wieght = 1.0\n", (), r"\[settings\]: 'style_wieght'(.|\n)*style_weight"),
        (MINIMAL + 'steps = "many"\n', (), r"steps is 'many'(.|\n)*type int"),
        (MINIMAL + "steps = 0\n", (), r"the recipe's steps is 0(.|\n)*at least 1"),
        (MINIMAL + 'mixed_precision = "fp8"\n', (), r"mixed_precision is 'fp8'(.|\n)*'bf16'"),
        (MINIMAL + "[settings]\ncrop_px = 8\n", (), r"crop_px is 8(.|\n)*32..4096"),
        (MINIMAL + "settings = 3\n", (), r"\[settings\] is 3"),
        (MINIMAL.replace("1", "2"), (), r"schema 2(.|\n)*upgrade avsdk"),
        (MINIMAL.replace("style_transfer", "style_transfr"), (), r"family 'style_transfr'(.|\n)*style_transfer"),
        ("schema = 1\n", (), r"names no family"),
        ("schema =", (), r"is not TOML"),
        (MINIMAL, ("steps",), r"'steps' has no '='"),
        (MINIMAL, ("step=3",), r"unknown recipe key 'step'(.|\n)*did you mean 'steps'"),
        (MINIMAL, ("steps=3.5",), r"--set steps=3.5(.|\n)*a whole number"),
        (MINIMAL, ("learning_rate=fast",), r"--set learning_rate=fast(.|\n)*a number"),
        (MINIMAL, ("learning_rate=nan",), r"--set learning_rate=nan(.|\n)*finite"),
        (MINIMAL, ("learning_rate=-1",), r"learning_rate is -1.0(.|\n)*more than 0"),
        (MINIMAL, ("schedule=step",), r"--set schedule=step(.|\n)*constant, cosine"),
        (MINIMAL, ("family=other",), r"unknown recipe key 'family'"),
        (MINIMAL, ("variant=huge",), r"no variant 'huge'(.|\n)*base"),
    ],
)  # fmt: skip
def test_wrong_recipes_say_what_is_wrong(tmp_path: Path, text: str, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(AvsdkError, match=message) as caught:
        recipe_of(tmp_path, text, *overrides)
    assert caught.value.exit_code == 2


def test_an_absent_recipe_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a file"):
        recipe_from_file(tmp_path / "no.toml")


def test_overrides_take_the_type_of_their_key(tmp_path: Path) -> None:
    found = recipe_of(
        tmp_path,
        MINIMAL,
        "steps=7",
        "learning_rate=2e-3",
        "style_layers=relu1_1, relu2_1",
        "features=a=b",
        "schedule=constant",
    )
    assert (found.steps, found.learning_rate, found.schedule) == (7, 2e-3, "constant")
    assert (found.settings.style_layers, found.settings.features) == (("relu1_1", "relu2_1"), "a=b")


def test_a_written_recipe_reads_back_equal(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, MINIMAL, 'style=odd "name"\\é.png', "style_layers=a,b", "seed=5")
    assert recipe_of(tmp_path, toml_from_recipe(recipe)) == recipe


def test_the_hash_covers_what_is_computed_and_nothing_else(tmp_path: Path) -> None:
    begun = recipe_of(tmp_path)
    elsewhere = recipe_of(tmp_path, MINIMAL, "features=other.safetensors", "checkpoint_every=7", "threads=1")
    longer = recipe_of(tmp_path, MINIMAL, "steps=7", "style_weight=3")
    assert begun.sha256() == elsewhere.sha256()
    assert begun.sha256() != longer.sha256()
    assert changed_keys(begun, longer) == ["steps", "style_weight"]


def test_the_cosine_falls_from_the_rate_to_its_share() -> None:
    recipe = recipe_from_document({"family": "style_transfer", "steps": 100}, StyleSettings, where="here")
    rates = [recipe.learning_rate_at(step) for step in (0, 50, 100)]
    assert rates == pytest.approx([1e-3, 1e-3 * 0.525, 5e-5])


@pytest.mark.parametrize("family", list_families())
def test_every_family_has_recipes_that_load_and_keys_that_do_not_clash(family: str) -> None:
    found = load_family(family)
    recipes = {path.stem: recipe_from_file(path)[1] for path in found.recipes().glob("*.toml")}
    assert {"paper", "small"} <= set(recipes)
    general = {key for key in vars(recipes["small"]) if key != "settings"}
    assert not general & set(vars(recipes["small"].settings)), "--set could not tell them apart"
