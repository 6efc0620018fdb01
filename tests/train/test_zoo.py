"""The zoo: published from a run, listed without torch, loaded only with the right hashes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from avsdk.errors import CheckpointRefused, UnknownName, UsageError
from avsdk_train import commands, zoo
from avsdk_train.families.style_transfer import version_one
from avsdk_train.family import list_families, load_family, load_trained, model_files
from avsdk_train.trained import recipe_from_file
from avsdk_train.zoo import list_zoo, load_zoo
from avsdk_train.zoo.measure import measure
from avsdk_train.zoo.publish import publish

WORDS = {"summary": "A test.", "about_data": "Noise, made by the test."}


@pytest.fixture(scope="module")
def run_and_zoo(tiny: Any, tmp_path_factory: pytest.TempPathFactory, photograph: Path) -> tuple[Path, Path]:
    """A short training, published once for all tests of this module."""
    AcceleratorState._reset_state(True)
    folder = tmp_path_factory.mktemp("publish")
    commands.train_new("style_transfer", [tiny.data], folder / "run", "", "", tiny.settings(steps=2))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(zoo, "ZOO", folder / "zoo")
        model = publish(folder / "run", "style_transfer/noise", example=photograph, **WORDS)
    assert model.name == "style_transfer/noise"
    return folder / "run", folder / "zoo"


@pytest.fixture
def published(run_and_zoo: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the published model in a zoo of its own, free to be damaged."""
    shutil.copytree(run_and_zoo[1], tmp_path / "zoo")
    monkeypatch.setattr(zoo, "ZOO", tmp_path / "zoo")
    return tmp_path / "zoo" / "style_transfer" / "noise"


def test_a_published_model_is_whole_and_names_no_folder_of_its_maker(published: Path, tiny: Any) -> None:
    assert sorted(path.name for path in published.iterdir()) == [
        "card.md", "example.jpg", "loss.png", "recipe.toml", "spec.json", "targets.safetensors", "weights.safetensors",
        "zoo.json",
    ]  # fmt: skip
    assert {value.dtype for value in load_file(published / "weights.safetensors").values()} == {torch.float16}
    recipe = (published / "recipe.toml").read_text()
    assert 'style = "style.png"' in recipe
    assert str(tiny.folder) not in recipe
    card = (published / "card.md").read_text()
    assert all(
        text in card for text in ("A test.", "Noise, made by the test.", "Apache-2.0", "loss.png", "example.jpg")
    )
    assert list_zoo()[0].to_json()["name"] == "style_transfer/noise"


def test_a_zoo_model_loads_as_float32_with_its_targets(published: Path, run_and_zoo: tuple[Path, Path]) -> None:
    model = load_trained("zoo:style_transfer/noise")
    assert model.spec.model == "style_transfer/noise"
    assert model.origin["kind"] == "zoo"
    assert set(model.assets) == {"targets"}
    network = model.networks["transform"]
    assert not network.training
    assert {value.dtype for value in network.parameters()} == {torch.float32}
    first = load_file(run_and_zoo[0] / "weights.safetensors")["conv1.conv2d.weight"]
    torch.testing.assert_close(network.state_dict()["conv1.conv2d.weight"], first, atol=1e-3, rtol=1e-2)
    assert published / "weights.safetensors" in model_files("zoo:style_transfer/noise")


def test_a_model_is_measured_beside_version_one_and_its_card_says_so(
    published: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_one, "CALLS", 3)
    before = (published / "card.md").read_text()
    options = {"features": str(tiny.features), "short_px": "64"}
    measure("zoo:style_transfer/noise", [tiny.data], about_data="Noise.", options=options)
    card = (published / "card.md").read_text()
    rows = [[cell.split()[0] for cell in line.split("|")[2:5]] for line in card.splitlines() if "] |" in line]
    assert "Means over 4 items: Noise." in card
    assert "| this model |" in card
    assert "| version 1, 3 calls |" in card
    assert "| | content loss | style loss | style loss unstyled |" in card
    assert rows[0][2] == rows[1][2], "both are compared with the same photographs"
    assert card.index("## Measured") < card.index("## Training")
    measure("zoo:style_transfer/noise", [tiny.data], about_data="Noise again.", options=options)
    again = (published / "card.md").read_text()
    assert again == card.replace("Noise.", "Noise again."), "the section is replaced, the rest stays"
    assert again.replace(again[again.index("## Measured") : again.index("## Training")], "") == before


def test_version_one_is_weighed_as_the_model_was_and_lowers_its_loss(
    published: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_one, "CALLS", 30)
    family, recipe = recipe_from_file(published / "recipe.toml", ("style_weight=1000",))
    assets = load_trained("zoo:style_transfer/noise").assets
    options = {"features": str(tiny.features)}
    (apply,) = family.comparisons(recipe, assets, options).values()
    found = family.score(apply, [tiny.data], assets, {**options, "short_px": "64"}).metrics
    assert found["style_loss"] < found["style_loss_unstyled"] / 2


@pytest.mark.parametrize("name", ["weights.safetensors", "spec.json", "targets.safetensors"])
def test_a_changed_file_is_refused(published: Path, name: str) -> None:
    data = (published / name).read_bytes()
    (published / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointRefused, match=rf"{name} of zoo:style_transfer/noise has SHA-256"):
        load_zoo("zoo:style_transfer/noise")


@pytest.mark.parametrize("change", [{"schema": 2}, {"colour": 1}, {"files": {"../../x": "0"}}])
def test_a_bad_entry_is_refused(published: Path, change: dict[str, object]) -> None:
    document = json.loads((published / "zoo.json").read_text())
    (published / "zoo.json").write_text(json.dumps({**document, **change}))
    with pytest.raises(CheckpointRefused):
        load_zoo("style_transfer/noise")


def test_a_misspelt_name_gets_the_nearest(published: Path) -> None:
    with pytest.raises(UnknownName, match=r"unknown zoo model 'style_transfer/nois'(.|\n)*'style_transfer/noise'"):
        load_zoo("zoo:style_transfer/nois")


@pytest.mark.parametrize("name", ["noise", "other/noise", "style_transfer/No Ise", "style_transfer/../x"])
def test_a_wrong_name_is_not_published(run_and_zoo: tuple[Path, Path], photograph: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name for this model"):
        publish(run_and_zoo[0], name, example=photograph, **WORDS)


def test_listing_imports_no_torch(child_environment: dict[str, str]) -> None:
    code = (
        "import sys, avsdk_train.cli as cli\n"
        "assert not {'torch', 'cv2', 'rich', 'accelerate'} & set(sys.modules), 'the command line imports too much'\n"
        "cli.app(['zoo', 'list', '--json'], standalone_mode=False)\n"
        "from avsdk_train.family import model_files, claims\n"
        "assert claims('zoo:style_transfer/wave') and not claims('no/such/folder')\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    families = {model["name"].partition("/")[0] for model in json.loads(done.stdout)["models"]}
    assert {"style_transfer", "unit_discovery"} <= families <= set(list_families())


def of_family(name: str) -> Any:
    """A parameter for each model of that family that ships."""
    return pytest.mark.parametrize(
        "model", [model for model in list_zoo() if model.name.startswith(f"{name}/")], ids=lambda model: model.name
    )


def test_every_family_of_the_zoo_is_tested_here() -> None:
    assert {model.name.partition("/")[0] for model in list_zoo()} == {"style_transfer", "unit_discovery"}


@of_family("unit_discovery")
def test_every_model_of_units_is_whole_and_tells_sounds_apart(model: Any) -> None:
    trained = load_trained(f"zoo:{model.name}")
    apply = load_family("unit_discovery").apply(trained.network)
    seconds = np.arange(32_000) / 16_000
    tones = [np.sin(2 * np.pi * hz * seconds) * np.sin(np.pi * 4 * seconds) for hz in (150.0, 2500.0)]
    low, high = (apply((0.3 * tone).astype(np.float32)).codes for tone in tones)
    assert abs(len(low) - 50) <= 1, "25 units a second"
    assert len(low) == len(high)
    assert (low != high).mean() > 0.5


@of_family("style_transfer")
def test_every_style_that_ships_is_whole_and_runs(model: Any, photograph: Path) -> None:
    from avsdk.media import read_image
    from avsdk_train.data import resized_short_side

    trained = load_trained(f"zoo:{model.name}")
    family = load_family(model.name.partition("/")[0])
    photo = resized_short_side(read_image(photograph), 101)
    styled = family.apply(trained.network)(photo)
    assert styled.shape == photo.shape
    assert styled.std() > 20, "the answer is a flat picture"
    assert abs(styled.astype(int) - photo).mean() > 15, "the answer is the photograph itself"


@pytest.mark.shared_data
@of_family("style_transfer")
def test_real_photographs_come_close_to_the_painting(
    model: Any, shared_data: Path, child_environment: dict[str, str]
) -> None:
    features = shared_data / "weights" / "vgg19_normalised_to_conv3_1.safetensors"
    words = ["evaluate", f"zoo:{model.name}", "--data", str(shared_data / "photos"), "--set", f"features={features}"]
    done = subprocess.run(
        [sys.executable, "-c", "from avsdk.cli import main; main()", *words, "--json"],
        env=child_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    assert metrics["style_loss"] < metrics["style_loss_unstyled"] / 10
