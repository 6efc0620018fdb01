"""Experiments as commands: declared, run small on tiny inputs, resumed, and refused with the reason."""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from avsdk.errors import UnknownName, UsageError
from avsdk.media import read_image, write_image
from avsdk_train.cli import app
from avsdk_train.experiment_report import markdown_from_results, without_folders
from avsdk_train.experiments import list_experiments, run_experiment
from avsdk_train.families.style_transfer.experiments import losses, speed
from avsdk_train.families.style_transfer.features import NormalisedVgg19
from avsdk_train.metrics.interval import median_interval
from avsdk_train.sheet import labelled_sheet

RUNNER = CliRunner()
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers that respond to a picture with some force."""
    torch.manual_seed(3)
    network = NormalisedVgg19(["conv1_1", "conv2_1"])
    with torch.no_grad():
        network.preprocess.weight.mul_(4)
    file = tmp_path_factory.mktemp("features") / "two.safetensors"
    save_file(network.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def trained(tiny: Any, features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps, with all its checkpoints and its final weights."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    out = tmp_path_factory.mktemp("experiments") / "run"
    words = tiny.arguments(out, steps=3, checkpoint_every=1, features=features, keep="all")
    assert RUNNER.invoke(app, words, catch_exceptions=False).exit_code == 0
    AcceleratorState._reset_state(True)
    return out


@pytest.fixture
def common(tiny: Any, features: Path) -> dict[str, object]:
    return {"features": features, "photo": tiny.data / "a.png", "threads": 1}


def run(name: str, out: Path, **settings: object) -> dict[str, Any]:
    pairs = [f"{key}={value}" for key, value in settings.items()]
    return run_experiment(f"style_transfer.{name}", out, small=True, overrides=pairs)


def table(answer: dict[str, Any], title: str = "") -> list[dict[str, Any]]:
    (found,) = (block for block in answer["blocks"] if block["kind"] == "table" and block["title"].startswith(title))
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def whole(answer: dict[str, Any], out: Path) -> None:
    """What every experiment leaves behind."""
    document = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert document == {key: value for key, value in answer.items() if key not in ("results", "report")}
    assert document["schema"] == 1
    assert document["machine"]["cpu"]
    assert {"avsdk", "python", "torch"} <= set(document["versions"])
    assert document["command"].startswith(f"avsdk experiment {document['experiment']} --small --set ")
    page = (out / "report.md").read_text(encoding="utf-8")
    for block in document["blocks"]:
        if block["kind"] == "picture":
            assert f"(pictures/{block['name']}.png)" in page
            assert read_image(out / "pictures" / f"{block['name']}.png").size


def test_four_losses(tiny: Any, tmp_path: Path, common: dict[str, Any]) -> None:
    answer = run("losses", tmp_path, **common, style=tiny.style, size_px=32, calls=4, delta=0.5)
    whole(answer, tmp_path)
    rows = table(answer)
    assert [row["loss"] for row in rows] == ["the photograph", *losses.NAMES]
    assert rows[0]["content (mse)"] == 0
    assert all(row["style (mse)"] < rows[0]["style (mse)"] for row in rows[1:])
    assert all(row["at last, over the first"] < 1 for row in rows[1:])
    assert "the weights reach relu2_1" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_three_optimisers(tiny: Any, tmp_path: Path, common: dict[str, Any]) -> None:
    answer = run("optimisers", tmp_path, **common, style=tiny.style, size_px=32, calls=12)
    whole(answer, tmp_path)
    rows = table(answer)
    assert [row["optimiser"] for row in rows] == ["lbfgs", "adam", "sgd"]
    assert len({row["at first"] for row in rows}) == 1
    assert all(row["best of 12 calls"] <= row["best of 10 calls"] < row["at first"] for row in rows)


def test_backbones_are_timed_at_full_depth_and_paint_with_what_is_given(
    tiny: Any, tmp_path: Path, common: dict[str, Any]
) -> None:
    settings = {**common, "style": tiny.style, "size_px": 32, "calls": 3, "timed_px": 48, "rounds": 2}
    answer = run("backbones", tmp_path, **settings)
    whole(answer, tmp_path)
    timed = {row["backbone"]: row["parameters, M"] for row in table(answer, "One call")}
    assert timed == pytest.approx({"vgg16": 14.71, "vgg19": 20.02, "alexnet": 2.47}, abs=0.01)
    assert all(len(cell["seconds"]) == 2 for cell in answer["cells"]["timing"].values())
    (picture,) = table(answer, "Pictures")
    assert picture["network"] == "vgg19 (normalised) to relu2_1"
    assert "random weights" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_speed_says_what_was_extrapolated(tiny: Any, tmp_path: Path, common: dict[str, Any]) -> None:
    settings = {**common, "style": tiny.style, "networks": "features,alexnet", "sizes": "64,80", "calls": 6,
                "sampled_calls": 3, "repeats": 1}  # fmt: skip
    answer = run("speed", tmp_path, **settings)
    whole(answer, tmp_path)
    rows = table(answer)
    assert [row["picture"] for row in rows] == ["64 x 64", "64 x 64", "80 x 80", "80 x 80"]
    assert ["extrapolated from 3 calls" in row["version 1, s"] for row in rows] == [False, False, True, True]
    assert "(6 calls)" in rows[0]["version 1, s"]
    cell = answer["cells"]["round-0-80-features-3-calls"]
    assert (cell["measured_calls"], len(cell["version_two_seconds"])) == (3, 2)
    assert cell["seconds"] > cell["measured_seconds"]
    assert answer["cells"]["round-0-64-features-6-calls"]["measured_calls"] == 6
    kept = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cells").glob("*.json")}
    fewer = run("speed", tmp_path, **{**settings, "networks": "features"})  # which are shown; nothing is timed again
    assert fewer["cells"] == {key: cell for key, cell in answer["cells"].items() if "features" in key}
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cells").glob("*.json")} == kept
    assert speed._paper(512, "vgg19, random weights") == [78.8, 0.070, "1126 x"]
    assert speed._paper(1024, "alexnet, random weights")[2] == "299 x"


def test_versions_at_equal_weights(tiny: Any, trained: Path, tmp_path: Path, common: dict[str, Any]) -> None:
    answer = run("versions", tmp_path, **common, models=trained, size_px=32, calls=8)
    whole(answer, tmp_path)
    photo, one, two = table(answer)
    assert [row["picture"] for row in (photo, one, two)] == ["the photograph", "version 1", "version 2"]
    weight = photo["style weight"]
    for row in (photo, one, two):
        assert row["total at equal weights"] == pytest.approx(row["content"] + weight * row["style"], rel=1e-5)
    assert one["total at equal weights"] < photo["total at equal weights"]


def test_checkpoints_as_an_experiment_and_as_a_sheet(tiny: Any, trained: Path, tmp_path: Path, features: Path) -> None:
    settings = {"features": features, "photo": tiny.data / "a.png", "run": trained, "size_px": 32}
    answer = run("checkpoints", tmp_path / "experiment", **settings)
    whole(answer, tmp_path / "experiment")
    labels = [row["checkpoint"] for row in table(answer)]
    assert [label.partition(",")[0] for label in labels] == ["step 1", "step 2", "step 3"]
    assert sorted(", ".join(labels).split(", ")) == ["best", "final", "step 1", "step 2", "step 3"]
    assert labels[2].endswith("final")  # the same weights stand once
    assert len({row["style"] for row in table(answer)}) == 3
    out = tmp_path / "sheet.png"
    words = ["sheet", str(trained), str(tiny.data / "a.png"), "--out", str(out), "--size", "64", "--columns", "2"]
    done = RUNNER.invoke(app, [*words, "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["checkpoints"] == labels
    assert read_image(out).shape == (2 * (64 + 28), 2 * (80 + 4), 3)
    with pytest.raises(UsageError, match="is no training run"):
        RUNNER.invoke(app, ["sheet", str(tmp_path), str(tiny.style), "--out", "x.png"], catch_exceptions=False)
    with pytest.raises(UsageError, match="no run was given"):
        run("checkpoints", tmp_path / "none")


def test_a_second_run_goes_on_where_the_first_was_killed(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, common: dict[str, Any]
) -> None:
    settings = {**common, "style": tiny.style, "size_px": 32, "calls": 3}
    paint = losses.Studio.paint
    painted: list[str] = []

    def killed(self: Any, report: Any, name: str, **changes: Any) -> Any:
        if name == "huber" and len(painted) == 3:
            raise KeyboardInterrupt
        cell = paint(self, report, name, **changes)
        painted.append(name)
        return cell

    monkeypatch.setattr(losses.Studio, "paint", killed)
    with pytest.raises(KeyboardInterrupt):
        run("losses", tmp_path, **settings)
    assert not (tmp_path / "results.json").exists()
    monkeypatch.undo()
    kept = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cells").glob("*.json")}
    assert set(kept) == {"mse.json", "l1.json", "smooth_l1.json"}
    run("losses", tmp_path, **settings)
    now = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cells").glob("*.json")}
    assert {name: now[name] for name in kept} == kept
    run("losses", tmp_path, **{**settings, "calls": 2})  # other settings: nothing is taken over
    assert all((tmp_path / "cells" / name).stat().st_mtime_ns > kept[name] for name in kept)


def test_a_folder_of_another_making_is_left_alone(tiny: Any, tmp_path: Path, common: dict[str, Any]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="was not written by an experiment"):
        run("losses", tmp_path, **common)
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "experiment").write_text("style_transfer.speed\n")
    with pytest.raises(UsageError, match=r"holds style_transfer\.speed"):
        run("losses", tmp_path, **common)


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["style_transfer.losess", "--out", "x"], UnknownName, "did you mean 'style_transfer.losses'"),
        (["losses", "--out", "x"], UnknownName, "unknown experiment 'losses'"),
        (["style_transfer.losses"], UsageError, "got no --out"),
        (["style_transfer.losses", "--out", "x", "--set", "photos=a"], UnknownName, "did you mean 'photo'"),
        (["style_transfer.losses", "--out", "x"], UsageError, "needs a feature network"),
        (["style_transfer.versions", "--out", "x"], UsageError, "needs a feature network"),
        (["style_transfer.speed", "--out", "x", "--set", "networks=resnet"], UsageError, "one of: alexnet"),
        (["style_transfer.speed", "--out", "x", "--set", "sampled_calls=1"], UsageError, "2 up to calls"),
    ],
)
def test_what_is_wrong_is_raised_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], kind: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message):
        RUNNER.invoke(app, ["experiment", *words], catch_exceptions=False)


@pytest.mark.parametrize("words", [[], ["list"]])
def test_the_list_of_experiments(words: list[str]) -> None:
    done = RUNNER.invoke(app, ["experiment", *words, "--json"], catch_exceptions=False)
    names = [row["name"] for row in json.loads(done.stdout)["experiments"]]
    assert names == list(list_experiments())
    assert "style_transfer.speed" in names
    assert "style_transfer.speed" in RUNNER.invoke(app, ["experiment", *words], catch_exceptions=False).stdout


def test_a_page_tells_no_folders() -> None:
    command = "avsdk experiment a.b --set features=/data/w/v.safetensors --set models=zoo:f/wave,runs/me --out ../r/x/"
    assert without_folders(command) == (
        "avsdk experiment a.b --set features=v.safetensors --set models=zoo:f/wave,me --out x"
    )
    document = {
        "experiment": "a.b", "summary": "S.", "command": command, "date": "2020-01-01", "versions": {"torch": "2"},
        "machine": {"cpu": "C", "cores": 2, "memory_mb": 9, "system": "L", "load_average": 0.5},
        "blocks": [
            {"kind": "table", "title": "T", "columns": ["a|b", "c"], "rows": [[None, 1 / 3], ["x|y", 2]]},
            {"kind": "picture", "name": "p", "caption": "P"},
        ],
    }  # fmt: skip
    page = markdown_from_results(document, lambda name: f"here/{name}.jpg", level=2)
    assert page.startswith("## a.b\n")
    assert "| - | 0.3333 |\n| x\\|y | 2 |" in page
    assert "![P](here/p.jpg)" in page


def test_a_sheet_has_a_labelled_tile_for_each_picture() -> None:
    small, large = np.zeros((20, 30, 3), np.uint8), np.full((40, 50, 3), 9, np.uint8)
    sheet = labelled_sheet(
        [("first", small), ("a label far too long for its tile", large), ("third", small)], columns=2
    )
    assert sheet.shape == (2 * (40 + 28), 2 * 54, 3)
    assert (sheet[24:44, :30] == 0).all()
    assert (sheet[24:64, 54:104] == 9).all()
    assert (sheet[:24, :50] < 128).any()  # the label
    assert (sheet[68:, 54:] == 255).all()  # no fourth


def test_the_interval_of_a_median() -> None:
    assert median_interval([1.0]) is None
    low, high = median_interval([1.0, 2.0, 3.0, 4.0, 100.0]) or (0, 0)
    assert 1 <= low < 3 < high <= 100


def test_the_page_of_the_documentation_takes_new_sections_and_keeps_the_others(
    tiny: Any, common: dict[str, Any], tmp_path: Path
) -> None:
    spec = spec_from_file_location("experiment_page", ROOT / "tools" / "experiment_page.py")
    assert spec is not None
    assert spec.loader is not None
    tool = module_from_spec(spec)
    spec.loader.exec_module(tool)
    small = {**common, "style": tiny.style, "size_px": 32, "calls": 2}
    for name in ("losses", "optimisers"):
        run(name, tmp_path / name, **small)
    page = tmp_path / "page.md"
    tool.write_page([tmp_path / "optimisers"], page)
    before = page.read_text(encoding="utf-8")
    tool.write_page([tmp_path / "losses"], page)
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["style_transfer.losses", "style_transfer.optimisers"]
    assert before[before.index("## style_transfer.optimisers") :].rstrip() in text
    assert str(tmp_path) not in text
    for picture in re.findall(r"\]\(([^)]+)\)", text):
        assert (tmp_path / picture).stat().st_size <= tool.MAX_BYTES
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    write_image(tmp_path / "noise.png", noise)
    assert len(tool.small_jpeg(tmp_path / "noise.png")) <= tool.MAX_BYTES
    with pytest.raises(UsageError, match="has no results.json"):
        tool.write_page([tmp_path], page)


def test_only_the_large_sizes_are_sampled() -> None:
    largest = speed.SpeedSettings(sizes=(256, 512, 1024), sampled_calls=12)
    assert [largest.calls_at(size) for size in largest.sizes] == [500, 500, 12]
    some = speed.SpeedSettings(sizes=(256, 512, 1024), sampled_calls=12, sampled_from_px=512)
    assert [some.calls_at(size) for size in some.sizes] == [500, 12, 12]
    assert speed.SpeedSettings().calls_at(1024) == 500
