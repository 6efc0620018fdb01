"""Evaluation of runs, zoo models and bundles: keys, intervals, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import avsdk
from avsdk.errors import CheckpointRefused, UsageError
from avsdk_train import commands
from avsdk_train.metrics.interval import mean_interval

KEYS = {"content_loss", "style_loss", "style_loss_unstyled"}


@pytest.fixture(scope="module")
def run(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    out = tmp_path_factory.mktemp("evaluate") / "run"
    commands.train_new("style_transfer", [tiny.data], out, "", "", tiny.settings(steps=2))
    return out


def options(tiny: Any, **changes: str) -> dict[str, str]:
    return {"features": str(tiny.features), "short_px": "64", **changes}


def test_a_run_is_measured_over_every_picture(tiny: Any, run: Path) -> None:
    answer = commands.evaluate(str(run), [tiny.data], "", options(tiny))
    assert answer["n"] == 4
    assert answer["split"] == "all"
    metrics = answer["metrics"]
    assert set(metrics) == KEYS | {f"{key}_ci" for key in KEYS}
    assert all(metrics[f"{key}_ci"][0] <= metrics[key] <= metrics[f"{key}_ci"][1] for key in KEYS)
    assert answer == commands.evaluate(str(run), [tiny.data], "", options(tiny))


def bundle(monkeypatch: pytest.MonkeyPatch, source: dict[str, str], model: str = "style_transfer/x") -> None:
    """Stand in for a bundle whose predictor returns the photograph itself."""
    manifest = SimpleNamespace(spec=SimpleNamespace(model=model), source=source)
    monkeypatch.setattr(commands, "is_bundle", lambda path: True)
    monkeypatch.setattr(commands, "open_bundle", lambda path: SimpleNamespace(manifest=manifest))
    monkeypatch.setattr(avsdk, "load", lambda path: lambda photo: np.array(photo))


def test_a_bundle_is_measured_through_its_predictor(
    tiny: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle(monkeypatch, {"kind": "run", "name": "not looked up"})
    (tmp_path / "assets").mkdir()
    shutil.copy(run / "targets.safetensors", tmp_path / "assets")
    metrics = commands.evaluate(str(tmp_path), [tiny.data], "", options(tiny))["metrics"]
    assert metrics["content_loss"] == 0
    assert metrics["style_loss"] == metrics["style_loss_unstyled"] > 0


def test_a_bundle_whose_targets_are_nowhere_is_refused(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle(monkeypatch, {"kind": "zoo", "name": "style_transfer/gone"})
    with pytest.raises(CheckpointRefused, match="carries no assets"):
        commands.evaluate(str(tmp_path), [tiny.data], "", options(tiny))


@pytest.mark.parametrize("kind", ["run", "zoo", "module"])
def test_a_manifest_chooses_no_code_and_no_folder_of_this_machine(
    tiny: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "planted.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    monkeypatch.chdir(tmp_path)
    for name in ("planted:network", str(run)):
        bundle(monkeypatch, {"kind": kind, "name": name})
        with pytest.raises(CheckpointRefused, match="carries no"):
            commands.evaluate(str(tmp_path), [tiny.data], "", options(tiny))
    assert not (tmp_path / "ran").exists()


def test_a_model_of_no_family_cannot_be_measured(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(monkeypatch, {}, model="resnet")
    with pytest.raises(UsageError, match="'resnet' belongs to no family"):
        commands.evaluate(str(tmp_path), [tiny.data], "", options(tiny))


def test_what_is_wrong_is_said(tiny: Any, run: Path) -> None:
    with pytest.raises(UsageError, match="no data was given"):
        commands.evaluate(str(run), [], "", {})
    with pytest.raises(UsageError, match="no split 'test'"):
        commands.evaluate(str(run), [tiny.data], "test", {})
    with pytest.raises(UsageError, match=r"needs a feature network(.|\n)*--set features=FILE"):
        commands.evaluate(str(run), [tiny.data], "", {})
    with pytest.raises(UsageError, match=r"no setting 'feature'(.|\n)*features, short_px"):
        commands.evaluate(str(run), [tiny.data], "", {"feature": "x"})
    with pytest.raises(UsageError, match="short_px=9"):
        commands.evaluate(str(run), [tiny.data], "", options(tiny, short_px="9"))
    with pytest.raises(UsageError, match="is no trained model"):
        commands.evaluate("no/such/run", [tiny.data], "", {})


def test_the_interval_covers_the_mean_and_needs_two_values() -> None:
    assert mean_interval([1.0]) is None
    values = list(np.random.default_rng(0).normal(5, 1, 200))
    low, high = mean_interval(values) or (0, 0)
    assert low < np.mean(values) < high
    # The bootstrap of a mean over normal values agrees with 1.96 standard errors.
    assert high - low == pytest.approx(2 * 1.96 * np.std(values) / np.sqrt(200), rel=0.1)
