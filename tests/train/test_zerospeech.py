"""ZeroSpeech submissions: what is written is valid, and what is wrong in one is found; the bitrate of the challenge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsdk.errors import UnusableInput, UsageError
from avsdk.predictors.units import Units
from avsdk.sound import read_sound, write_sound
from avsdk_train.families.unit_discovery.zerospeech import (
    About,
    listed_bitrate,
    read_rows,
    submission_problems,
    write_submission,
)

RATE_HZ = 16_000


class Model:
    """A code per 40 ms, by how loud it is; every voice is a tone."""

    def __call__(self, media: Any) -> Units:
        frames = np.resize(media, (-(-len(media) // 640), 640))
        codes = (np.abs(frames).mean(1) > 0.05).astype(np.int32)
        entries = np.array([[0.1, -1 / 3, 1e-9], [1, 2, 3]], np.float32)[codes]
        return Units(codes, entries, entries, 0.04, len(media))

    def resynthesised(self, units: Units, voice: str) -> Any:
        return np.full(units.samples, 0.1 * int(voice[-1]), np.float32)


ABOUT = About("A. Author", "An institute: of speech", 'They say "units"', hyperparameters="K=2")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "2019"
    for language in ("english", "surprise"):
        for index, name in enumerate(("S002_0379088085", "S003_1")):
            path = folder / language / "test" / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(index).normal(0, 0.1, 8000) * np.linspace(0, 1, 8000)
            write_sound(path, noise.astype(np.float32), RATE_HZ)
        (folder / language / "synthesis.txt").write_text("test/S002_0379088085 V002\n\n")
    return folder


@pytest.fixture
def submission(data: Path, tmp_path: Path) -> Path:
    return write_submission(Model(), data, tmp_path / "sent", ABOUT)


def test_what_is_written_is_valid(data: Path, submission: Path) -> None:
    assert submission_problems(submission, data) == []
    names = sorted(path.relative_to(submission).as_posix() for path in submission.rglob("*") if path.is_file())
    assert names == sorted(
        ["metadata.yaml", "2019/metadata.yaml"]
        + [f"2019/{language}/test/{name}" for language in ("english", "surprise")
           for name in ("S002_0379088085.txt", "S003_1.txt", "V002_0379088085.wav")]
    )  # fmt: skip
    rows = read_rows(submission / "2019" / "english" / "test" / "S002_0379088085.txt")
    assert rows.shape == (13, 3)
    assert len(np.unique(rows, axis=0)) == 2
    spoken = read_sound(submission / "2019" / "english" / "test" / "V002_0379088085.wav", RATE_HZ)
    np.testing.assert_allclose(spoken, 0.2, atol=1e-3)
    assert 'author: "A. Author"\n' in (submission / "metadata.yaml").read_text()
    assert "open source: false\n" in (submission / "metadata.yaml").read_text()


def test_an_open_source_system_brings_its_code(data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.py").write_text("x = 1\n")
    about = About("A", "B", "C", code=tmp_path / "mine")
    sent = write_submission(Model(), data, tmp_path / "open", about)
    assert submission_problems(sent, data) == []
    (sent / "2019" / "code" / "model.py").unlink()
    assert submission_problems(sent, data) == ["2019/code: empty or missing, though the system is open source"]


def rewrite(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


TEXT = "2019/english/test/S003_1.txt"
SPOKEN = "2019/surprise/test/V002_0379088085.wav"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (remove("metadata.yaml"), "metadata.yaml: missing"),
        (remove("2019/metadata.yaml"), "2019/metadata.yaml: missing"),
        (rewrite("metadata.yaml", "author: A\nopen source: no\n"), "metadata.yaml: no 'affiliation'"),
        (rewrite("metadata.yaml", "author: A\naffiliation: B\nopen source: maybe\n"), "is 'maybe', not true"),
        (remove(TEXT), f"{TEXT}: missing"),
        (rewrite(TEXT, "\n"), f"{TEXT} is empty"),
        (rewrite(TEXT, "1 2 3\n1 2\n"), f"{TEXT}, line 2 has 2 numbers"),
        (rewrite(TEXT, "1 2 x\n"), f"{TEXT}, line 1: '1 2 x'"),
        (rewrite(TEXT, "7\n"), f"{TEXT}, line 1 has 1 numbers"),
        (rewrite(TEXT, "1 nan 2\n"), f"{TEXT}, line 1 has 3 numbers"),
        (rewrite(TEXT, "1 2\n"), "files of different widths: S002_0379088085.txt has 3, S003_1.txt has 2"),
        (remove(SPOKEN), f"{SPOKEN}: missing"),
        (rewrite(SPOKEN, "no sound"), f"{SPOKEN} is not a sound"),
    ],
)  # fmt: skip
def test_what_the_challenge_would_refuse_is_found(
    data: Path, submission: Path, damage: Callable[[Path], None], problem: str
) -> None:
    damage(submission)
    found = submission_problems(submission, data)
    assert len(found) == 1
    assert problem in found[0]


def test_a_wrong_distance_is_found_in_both_directions(data: Path, submission: Path, tmp_path: Path) -> None:
    path = submission / "2019" / "metadata.yaml"
    path.write_text(path.read_text().replace("dtw_cosine", "euclid"))
    assert "the distance 'euclid' is none of" in submission_problems(submission, data)[0]
    with pytest.raises(UsageError, match="distance 'euclid'"):
        write_submission(Model(), data, tmp_path / "x", About("A", "B", "C", distance="euclid"))
    assert not (tmp_path / "x").exists()


def test_without_test_recordings_nothing_is_written(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UsageError, match="no test recordings beneath"):
        write_submission(Model(), tmp_path / "nowhere", tmp_path / "x", ABOUT)
    (data / "english" / "synthesis.txt").write_text("test/S002_0379088085\n")
    with pytest.raises(UnusableInput, match="synthesis.txt, line 1"):
        write_submission(Model(), data, tmp_path / "x", ABOUT)


def test_the_bitrate_of_the_challenge_by_hand(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 0\n1 0\n\n0 1\n")
    (tmp_path / "b.txt").write_text("0 1\n0.5 0.5\n1 0\n1 0\n1 0\n")
    listing = tmp_path / "list.txt"
    listing.write_text("a.txt 1.5\nb.txt 2.5\nabsent.txt 100\n\n")
    # Eight lines: five, two, one: 1.2988 bits; over four seconds.
    bits = -(5 / 8 * np.log2(5 / 8) + 2 / 8 * np.log2(2 / 8) + 1 / 8 * np.log2(1 / 8))
    assert listed_bitrate(tmp_path, listing) == pytest.approx(8 / 4 * bits)
    listing.write_text("a.txt\n")
    with pytest.raises(UnusableInput, match="list.txt, line 1"):
        listed_bitrate(tmp_path, listing)
    listing.write_text("c.txt 1\n")
    with pytest.raises(UsageError, match="has no file of"):
        listed_bitrate(tmp_path, listing)
