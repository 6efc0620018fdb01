"""``--precision auto`` takes what is fastest within the limits; an int8 bundle is told to be slower where it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.targets import quantising

from avsdk import plugins
from avsdk.bundle import open_bundle
from avsdk.errors import BudgetNotMet, NotAvailable, UsageError
from avsdk.timing import Timed
from avsdk_targets.auto import fastest
from avsdk_targets.build import Exporter, ExportOptions
from avsdk_targets.calibration import Calibration
from avsdk_targets.export_document import export_document
from avsdk_targets.limits import Limits
from avsdk_targets.target import resolve

pytest.importorskip("onnxruntime")
ASKED: list[list[str]] = []


def int8_is_slow(bundles: Sequence[Path], budget_s: float) -> tuple[Timed, ...]:
    """A timer on whose machine int8 takes twice as long."""
    names = [open_bundle(path).manifest.precision for path in bundles]
    ASKED.append(names)
    plain, slow = Timed(10.0, (9.9, 10.1)), Timed(20.0, (19.0, 21.0), 2.0, (1.9, 2.1), "slower", True)
    return tuple(plain if name == "fp32" else slow for name in names)


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    ASKED.clear()
    plugins.lend({"timers": {"a_test": "tests.targets.test_auto:int8_is_slow"}})
    yield
    plugins._entries("timers").pop("a_test")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, photograph: Path) -> tuple[str, Calibration]:
    folder = tmp_path_factory.mktemp("auto")
    model = quantising.network(folder / "small.onnx")
    return str(model), Calibration(quantising.samples(folder / "pieces", photograph))


@pytest.mark.usefixtures("timer")
def test_the_fastest_within_the_limits_is_published(parts: tuple[str, Calibration], tmp_path: Path) -> None:
    options = ExportOptions(tmp_path, "auto", calibration=parts[1], limits=Limits(min_snr_db=3.0))
    with Exporter(parts[0], options, lambda text: None) as exporter:
        done = exporter.export(resolve("onnxruntime"))
    assert done.bundle.path == tmp_path / "small-onnxruntime-fp32"
    assert ["fp32", "int8"] in ASKED
    assert done.notices[0] == "auto took fp32, the fastest here: fp32 10.0 ms, int8 20.0 ms"
    with Exporter(parts[0], options, lambda text: None) as exporter:
        slow = exporter.build(resolve("onnxruntime"), "int8")
    assert any(text.startswith("SLOWER than fp32 on the machine that made it: 2.00 of its") for text in slow.notices)
    assert slow.bundle.manifest.measured["speed"]["verdict"] == "slower"
    (said,) = export_document([slow], [], [])["bundles"]
    assert (said["speed"]["ratio"], said["snr_db"], said["drop"]) == (2.0, slow.snr_db, None)
    assert said["layers"] == {"model": dict.fromkeys(["first", "second", "Conv_5"], "int8")}


@pytest.mark.usefixtures("timer")
def test_what_misses_the_limits_is_passed_over() -> None:
    def build(target: Any, precision: str) -> Any:
        raise BudgetNotMet(f"{precision} is too coarse", chart="layers")

    said: list[str] = []
    with pytest.raises(BudgetNotMet, match="int8 is too coarse"):
        fastest(resolve("onnxruntime"), build, said.append)
    assert said == ["passed over fp32: fp32 is too coarse", "passed over int8: int8 is too coarse"]


def test_what_is_not_here_cannot_be_measured() -> None:
    with pytest.raises(NotAvailable, match="raspberry-pi-5 is not here to be measured"):
        fastest(resolve("raspberry-pi-5"), lambda target, precision: pytest.fail(precision), pytest.fail)


def test_one_precision_for_all_graphs(parts: tuple[str, Calibration], tmp_path: Path) -> None:
    options = ExportOptions(tmp_path, "auto")
    with (
        Exporter(parts[0], options, lambda text: None) as exporter,
        pytest.raises(UsageError, match="chooses for one target"),
    ):
        exporter.export_placed({"model": resolve("onnxruntime")})


def test_the_ranking_stands_in_the_document() -> None:
    error = BudgetNotMet("too coarse", chart="layer  alone")
    (failed,) = export_document([], [("onnxruntime", error)], [])["failed"]
    assert (failed["code"], failed["ranking"]) == (4, "layer  alone")
