"""Quantisation on real samples within a budget, from a folder of files to a bundle that says what runs in what."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.targets import quantising

from avsdk import plugins
from avsdk.errors import BudgetNotMet, NotAvailable, UsageError
from avsdk.metric import measure_metric
from avsdk.parity import Parity
from avsdk.verify import Verified, verify_bundle
from avsdk_targets import accurate
from avsdk_targets.build import Exported, Exporter, ExportOptions
from avsdk_targets.calibration import Calibration
from avsdk_targets.limits import Limits
from avsdk_targets.target import resolve

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantising.network(tmp_path_factory.mktemp("model") / "small.onnx")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory, photograph: Path) -> Path:
    return quantising.samples(tmp_path_factory.mktemp("samples") / "pieces", photograph)


def export(
    model: Path, out: Path, folder: Path, engine: str = "onnxruntime", **options: Any
) -> tuple[Exported, list[str]]:
    said: list[str] = []
    given = {"precision": "int8", "compare_speed": False, "calibration": Calibration(folder), **options}
    with Exporter(str(model), ExportOptions(out, **given), said.append) as exporter:
        return exporter.export(resolve(engine)), said


def layers_of(done: Exported) -> dict[str, str]:
    found: dict[str, str] = done.bundle.manifest.artifacts[0].options["layers"]
    return found


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_int8_is_made_of_a_plain_model_and_the_manifest_says_how(
    engine: str, model: Path, photographs: Path, tmp_path: Path
) -> None:
    pytest.importorskip("nncf" if engine == "openvino" else "onnxruntime")
    done, _ = export(model, tmp_path, photographs, engine, limits=Limits(min_snr_db=5.0))
    manifest = done.bundle.manifest
    assert done.bundle.path.name == f"small-{engine}-int8"
    assert set(layers_of(done).values()) == {"int8"}
    assert list(layers_of(done))[:2] == ["first", "second"]
    assert manifest.effective_precision.startswith("int8")
    facts = manifest.measured["calibration"]
    assert (facts["files"], facts["held_back"], facts["unreadable"]["count"]) == (18, 2, 0)
    assert len(facts["sha256"]) == 64
    covered = facts["coverage"]["model"]["inputs"]["x"]
    assert covered["shapes"] == [[1, 3, 32, 32]]
    assert 0.0 <= covered["min"] < covered["mean"] < covered["max"] <= 1.0
    assert done.snr_db is not None
    assert done.snr_db > 5.0
    assert done.drop is None
    assert manifest.parity.verdict == "pass"
    assert verify_bundle(done.bundle.path).parity.verdict == "pass", "it can be verified where it ships"


def test_limits_that_nothing_here_can_measure_are_not_held_to_be_met(
    model: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a build for a device that is not here: it was made, and nothing ran it."""
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path / "home"))  # so that no earlier build is taken from the cache
    absent = Verified(Parity.not_run("the device is not here"), {}, {})
    monkeypatch.setattr(accurate, "verify_draft", lambda folder, plan, samples: absent)
    with pytest.raises(NotAvailable, match="an SNR of at least 5 dB cannot be measured here: the device is not here"):
        export(model, tmp_path, photographs, limits=Limits(min_snr_db=5.0))
    assert not list(tmp_path.glob("small-*"))
    said: list[str] = []
    trial = accurate.Trial(tmp_path, None, None, absent.parity)  # type: ignore[arg-type]
    accurate._unmeasured(trial, accurate.Budget(calibration=Calibration(photographs)), said.append)
    assert said[0].startswith("the accuracy was not measured: the device is not here")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_over_budget_the_most_sensitive_layer_stays_in_fp32(
    engine: str, model: Path, photographs: Path, tmp_path: Path
) -> None:
    pytest.importorskip("nncf" if engine == "openvino" else "onnxruntime")
    plain, _ = export(model, tmp_path, photographs, engine, limits=Limits(min_snr_db=3.0))
    assert plain.snr_db is not None
    done, said = export(model, tmp_path, photographs, engine, limits=Limits(min_snr_db=plain.snr_db + 2.0))
    assert done.bundle.path.name == f"small-{engine}-int8+fp32"
    assert layers_of(done)["first"] == "fp32"
    assert "int8" in layers_of(done).values()
    assert done.snr_db is not None
    assert done.snr_db >= plain.snr_db + 2.0
    assert done.bundle.manifest.measured["sensitivity"][0]["layer"] == "first"
    assert any("layers in fp32" in text for text in said)
    assert "fp32" in done.bundle.manifest.effective_precision


def test_a_budget_that_cannot_be_met_shows_the_ranking(model: Path, photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetNotMet, match=r"onnxruntime:cpu at int8 cannot meet an SNR of at least 110 dB") as caught:
        export(model, tmp_path, photographs, limits=Limits(min_snr_db=110.0))
    assert caught.value.exit_code == 4
    assert "first" in caught.value.chart.splitlines()[1]
    assert caught.value.chart in str(caught.value)
    assert not list(tmp_path.iterdir()), "nothing ships"


def test_the_familys_metric_decides_where_there_is_one(
    model: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_child = accurate.call_in_child

    def here(function: Any, **arguments: Any) -> Any:  # a child imports what is installed, which this test is not
        if function is not measure_metric:
            return in_child(function, **arguments)
        kept = measure_metric.__code__.co_varnames[:4]
        return measure_metric(**{name: arguments[name] for name in kept})

    monkeypatch.setattr(accurate, "call_in_child", here)
    with offered("tensor", "tests.targets.quantising:brightness"):
        done, _ = export(model, tmp_path, photographs, limits=Limits(max_drop=0.5))
        accuracy = done.bundle.manifest.measured["accuracy"]
        assert (accuracy["metric"], done.drop) == ("brightness", accuracy["drop"])
        assert accuracy["drop"] == pytest.approx(1.0 - accuracy["value"] / accuracy["fp32"])
    with offered("tensor", "tests.targets.quantising:worse"), pytest.raises(BudgetNotMet, match="share drops by 50"):
        export(model, tmp_path, photographs, limits=Limits(max_drop=0.1))


class offered:  # noqa: N801  (reads as a statement)
    """A metric that an installed package would offer."""

    def __init__(self, family: str, value: str) -> None:
        self._family, self._value = family, value

    def __enter__(self) -> None:
        plugins.lend({"metrics": {self._family: self._value}})

    def __exit__(self, *_: object) -> None:
        plugins._entries("metrics").pop(self._family)


def test_a_drop_needs_a_metric(model: Path, photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="small has no metric that could drop"):
        export(model, tmp_path, photographs, limits=Limits(max_drop=0.01))


def test_limits_need_something_to_be_measured_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is nothing to measure on"):
        ExportOptions(tmp_path, "int8", limits=Limits(min_snr_db=20.0))


def test_unreadable_files_are_named_and_passed_over(model: Path, photographs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    shutil.copytree(photographs, folder)
    (folder / "empty.npz").touch()
    (folder / "text.npz").write_text("no archive")
    np.savez(folder / "other.npz", z=np.zeros(3, np.float32))
    np.savez(folder / "endless.npz", x=np.full((1, 3, 32, 32), np.inf, np.float32))
    done, said = export(model, tmp_path / "out", folder, limits=Limits(min_snr_db=3.0))
    unreadable = done.bundle.manifest.measured["calibration"]["unreadable"]
    assert unreadable["count"] == 4
    assert set(unreadable["names"]) == {"empty.npz", "text.npz", "other.npz", "endless.npz"}
    assert any("passed over empty.npz" in text for text in said)


def test_a_folder_of_which_nothing_can_be_read(model: Path, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.npz").write_text(name)
    with pytest.raises(UsageError, match="none of 3 files can be read") as caught:
        export(model, tmp_path / "out", tmp_path)
    assert caught.value.exit_code == 2


def test_random_numbers_calibrate_nothing(model: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for index in range(6):
        np.savez(tmp_path / f"{index}.npz", x=random.standard_normal((1, 3, 32, 32)).astype(np.float32))
    with pytest.raises(UsageError, match="holds random numbers"):
        export(model, tmp_path / "out", tmp_path)


def test_without_calibration_int8_is_still_refused(model: Path, tmp_path: Path) -> None:
    options = ExportOptions(tmp_path, "int8")
    with (
        Exporter(str(model), options, lambda text: None) as exporter,
        pytest.raises(NotAvailable, match="carries no quantisation") as caught,
    ):
        exporter.export(resolve("onnxruntime"))
    assert "--calibration" in caught.value.fix


def test_the_cache_knows_the_folder_and_the_limits(model: Path, photographs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    shutil.copytree(photographs, folder)
    limits = Limits(min_snr_db=3.5)
    assert not export(model, tmp_path / "out", folder, limits=limits)[0].cached
    assert export(model, tmp_path / "out", folder, limits=limits)[0].cached
    assert not export(model, tmp_path / "out", folder, limits=Limits(min_snr_db=4.0))[0].cached
    (folder / "piece00.npz").unlink()
    assert not export(model, tmp_path / "out", folder, limits=limits)[0].cached


def test_fp32_is_measured_too(model: Path, photographs: Path, tmp_path: Path) -> None:
    done, _ = export(model, tmp_path, photographs, precision="fp32", limits=Limits(min_snr_db=100.0))
    assert done.snr_db is not None
    assert done.snr_db > 100.0
    assert "calibration" not in done.bundle.manifest.measured
