"""Which files calibrate and which are held back; limits; noise; the search for layers to keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avsdk.errors import UsageError
from avsdk.metric import Metric
from avsdk_targets.calibration import Calibration, calibration_asked, choose, require_enough
from avsdk_targets.kept_layers import Ranked, chart, fewest_kept
from avsdk_targets.limits import Accuracy, Limits, drop_from_text
from avsdk_targets.recording import is_noise

KINDS = (".png", ".jpg")


def folder(path: Path, count: int, *, start: int = 0) -> Path:
    path.mkdir()
    for index in range(start, start + count):
        (path / f"{index:03}.png").write_bytes(b"picture %d" % index)
    return path


def test_a_seeded_tenth_is_held_back_and_the_rest_calibrates(tmp_path: Path) -> None:
    chosen = choose(Calibration(folder(tmp_path / "a", 50)), KINDS)
    assert (len(chosen.held_back), len(chosen.calibrating), chosen.wanted) == (5, 45, 64)
    assert not {*chosen.held_back} & {*chosen.calibrating}
    again = choose(Calibration(folder(tmp_path / "b", 50)), KINDS)
    assert [file.name for file in again.held_back] == [file.name for file in chosen.held_back], "the seed is the names"
    assert [file.name for file in chosen.held_back] != sorted(file.name for file in chosen.calibrating)[:5]


def test_a_copy_counts_once_and_never_stands_on_both_sides(tmp_path: Path) -> None:
    photos = folder(tmp_path / "a", 10)
    for index in range(10):
        (photos / f"copy{index}.png").write_bytes(b"picture %d" % index)
    chosen = choose(Calibration(photos), KINDS)
    assert (chosen.duplicates, len(chosen.held_back) + len(chosen.calibrating)) == (10, 10)
    contents = [file.read_bytes() for file in (*chosen.held_back, *chosen.calibrating)]
    assert len(set(contents)) == 10


def test_a_leak_is_told_by_content(tmp_path: Path) -> None:
    photos, data = folder(tmp_path / "a", 10), folder(tmp_path / "data", 5, start=20)
    assert len(choose(Calibration(photos, data), KINDS).held_back) == 5
    (data / "renamed.png").write_bytes(b"picture 3")
    with pytest.raises(UsageError, match=r"1 calibration file is in --data too, by content: 003.png is renamed.png"):
        choose(Calibration(photos, data), KINDS)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "is empty"),
        (["a.wav", "b.wav", "c.txt"], r"holds nothing that this model takes: 2 .wav, 1 .txt"),
        (["a.png"], "holds one sample, which cannot calibrate and be measured on"),
    ],
)
def test_folders_that_cannot_serve(names: list[str], text: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    with pytest.raises(UsageError, match=text):
        choose(Calibration(tmp_path), KINDS)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        choose(Calibration(tmp_path / "nowhere"), KINDS)
    with pytest.raises(UsageError, match="8 calibration samples of no folder"):
        calibration_asked(None, None, 8)
    assert calibration_asked(None, None, None) is None


def test_fewer_samples_than_asked_for(tmp_path: Path) -> None:
    photos = folder(tmp_path / "a", 20)
    with pytest.raises(UsageError, match="19 calibration samples were asked for and 18 are there") as caught:
        choose(Calibration(photos, samples=19), KINDS)
    assert caught.value.fix.startswith("--calibration-samples 18")
    chosen = choose(Calibration(photos, samples=18), KINDS)
    with pytest.raises(UsageError, match="18 calibration samples were asked for and 17 are there; 1 cannot be read"):
        require_enough(chosen, 17, ["003.png: damaged"])
    with pytest.raises(UsageError, match=r"none of 2 files can be read: a.png: empty"):
        require_enough(chosen, 0, ["a.png: empty", "b.png: empty"])
    with pytest.raises(UsageError, match="0 calibration samples"):
        Calibration(photos, samples=0)


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"max_drop": 0.0}, "--max-drop 0%"), ({"max_drop": -0.1}, "--max-drop -10%"), ({"max_drop": 2.0}, "200%"),
        ({"min_snr_db": 0.0}, "--min-snr-db 0"), ({"min_snr_db": float("nan")}, "nan"), ({"min_snr_db": 500.0}, "500"),
    ],
)  # fmt: skip
def test_limits_that_nothing_can_meet_or_miss(limits: dict[str, float], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Limits(**limits)


def test_a_drop_is_a_percentage() -> None:
    assert (drop_from_text("1%"), drop_from_text(" 0.5 %")) == (0.01, 0.005)
    for text in ("1", "0.01", "-1%", "one%", "%", "1%%"):
        with pytest.raises(UsageError, match="--max-drop"):
            drop_from_text(text)


def test_what_meets_a_limit() -> None:
    limits = Limits(max_drop=0.01, min_snr_db=20.0)
    assert Accuracy(20.0, 3, drop=0.01).meets(limits)
    assert not Accuracy(19.9, 3, drop=0.0).meets(limits)
    assert not Accuracy(30.0, 3, drop=0.011).meets(limits)
    assert not Accuracy(30.0, 3).meets(limits), "a drop that was not measured is not met"
    assert not Accuracy(float("nan"), 3).meets(Limits(min_snr_db=1.0))
    assert str(limits) == "a drop of at most 1 % and an SNR of at least 20 dB"


def test_a_drop_is_relative_and_knows_its_direction() -> None:
    assert Metric("ap", 0.45, 10).drop_from(0.5) == pytest.approx(0.1)
    assert Metric("abx", 11.0, 10, higher_is_better=False).drop_from(10.0) == pytest.approx(0.1)
    assert Metric("ap", 0.55, 10).drop_from(0.5) == pytest.approx(-0.1)
    assert Metric("ap", 0.0, 10).drop_from(0.0) == 0.0


def test_noise_is_told_from_media(photograph: Path) -> None:
    import cv2

    random = np.random.default_rng(0)
    picture = cv2.imread(str(photograph)).astype(np.float32).transpose(2, 0, 1)[None, :, :64, :64]
    noise = random.standard_normal((1, 3, 64, 64)).astype(np.float32)
    assert not is_noise({"x": picture})
    assert is_noise({"x": noise})
    assert is_noise({"x": np.repeat(np.repeat(noise, 2, 2), 2, 3)}), "noise that was enlarged"
    assert is_noise({"x": random.integers(0, 256, (64, 64, 3), dtype=np.uint8)})
    assert not is_noise({"x": np.zeros((1, 3, 64, 64), np.float32)}), "a constant is no noise"
    assert not is_noise({"x": random.standard_normal((4, 500))}), "a vector may be anything"
    assert is_noise({"x": random.standard_normal((1, 16_000))}, least_rank=2)
    tone = np.sin(np.arange(16_000) / 20.0)[None]
    assert not is_noise({"x": tone + 0.3 * random.standard_normal(tone.shape)}, least_rank=2)


@pytest.mark.parametrize("needed", range(8))
def test_the_fewest_layers_are_kept_with_few_builds(needed: int) -> None:
    tried: list[int] = []

    def build(kept: int) -> int:
        tried.append(kept)
        return kept

    found, _ = fewest_kept(8, build, lambda kept: kept >= needed)
    assert found == needed
    assert len(tried) <= 7
    assert len(set(tried)) == len(tried), "nothing is built twice"


def test_a_budget_that_no_choice_holds() -> None:
    tried: list[int] = []
    found, last = fewest_kept(6, lambda kept: tried.append(kept) or kept, lambda kept: False)  # type: ignore[func-returns-value]
    assert (found, last, tried) == (None, 5, [0, 1, 2, 4, 5])


def test_the_chart_shows_the_worst_first() -> None:
    lines = chart([Ranked("net", "stem", "Conv", 20.0), Ranked("net", "head", "Conv", 30.0)]).splitlines()
    assert lines[1].split()[:3] == ["stem", "20.0", "dB"]
    assert lines[1].count("#") == 40
    assert lines[2].count("#") == 4
    assert "90.9 %" in lines[1]
