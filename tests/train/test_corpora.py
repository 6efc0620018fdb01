"""Corpora of speech as they lie on disk: speakers, lengths, parts, and what is damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avsdk.errors import UnusableInput, UsageError
from avsdk.sound import sound_seconds, write_sound
from avsdk_train.families.unit_discovery.corpora import Utterance, read_corpus, read_vads

RATE_HZ = 16_000


def record(path: Path, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE_HZ))
    write_sound(path, noise.astype(np.float32), RATE_HZ)
    return path


def told(folder: Path, part: str = "train") -> list[tuple[str, str, float, float]]:
    found = read_corpus(folder, part)  # type: ignore[arg-type]
    return [(item.name, item.speaker, item.start_s, round(item.seconds, 3)) for item in found]


@pytest.fixture
def zerospeech(tmp_path: Path) -> Path:
    english = tmp_path / "2019" / "english"
    record(english / "train" / "unit" / "S015_0361841101.wav", 2.0)
    record(english / "train" / "unit" / "S020_0002.wav", 1.0)
    record(english / "train" / "voice" / "V001_0000000001.wav", 1.0)
    record(english / "train" / "parallel" / "source" / "S001_0001.wav")
    record(english / "test" / "S002_0379088085.wav", 0.1)
    (english / "vads.txt").write_text(
        "S015_0361841101 0.25 0.75\ntrain/unit/S015_0361841101.wav 1.0 2.03\n\nV001_0000000001 0.0 0.9\nS099_1 0 1\n"
    )
    return english


def test_zerospeech_is_cut_by_its_vads_and_keeps_its_parts_apart(zerospeech: Path) -> None:
    train = [
        ("S015_0361841101", "S015", 0.25, 0.5),
        ("S015_0361841101", "S015", 1.0, 1.0),
        ("S020_0002", "S020", 0.0, 1.0),
        ("V001_0000000001", "V001", 0.0, 0.9),
    ]
    assert told(zerospeech) == train
    assert told(zerospeech / "train" / "unit") == train[:3]  # vads.txt lies two folders above
    assert told(zerospeech.parent) == train
    assert told(zerospeech, "test") == [("S002_0379088085", "S002", 0.0, 0.1)]
    assert told(zerospeech / "test") == [("S002_0379088085", "S002", 0.0, 0.1)]
    assert len(told(zerospeech, "all")) == len(train) + 2


def test_librispeech_in_its_tree_or_in_one_folder(tmp_path: Path) -> None:
    record(tmp_path / "train-clean-100" / "103" / "1240" / "103-1240-0000.flac")
    record(tmp_path / "train-clean-100" / "118-121721-0000.flac", 0.25)
    record(tmp_path / "dev-clean" / "84-1-0000.flac")
    record(tmp_path / "test-other" / "1688" / "1688-142285-0000.flac")
    assert told(tmp_path) == [
        ("103-1240-0000", "103", 0.0, 0.5),
        ("118-121721-0000", "118", 0.0, 0.25),
    ]
    assert [name for name, *_ in told(tmp_path, "test")] == ["84-1-0000", "1688-142285-0000"]
    assert [name for name, *_ in told(tmp_path / "test-other")] == ["1688-142285-0000"]


def test_digits_by_their_file_names(tmp_path: Path) -> None:
    for name in ("7_jackson_32", "7_jackson_4", "0_theo_5", "0_theo_0"):
        record(tmp_path / f"{name}.wav", 0.1)
    assert told(tmp_path) == [("0_theo_5", "theo", 0.0, 0.1), ("7_jackson_32", "jackson", 0.0, 0.1)]
    assert [name for name, *_ in told(tmp_path, "test")] == ["0_theo_0", "7_jackson_4"]


def test_plain_folders_are_speakers(tmp_path: Path) -> None:
    record(tmp_path / "anna" / "one.wav")
    record(tmp_path / "ben" / "2020" / "two.ogg.wav")
    (tmp_path / "ben" / "notes.txt").write_text("no sound")
    assert [(name, speaker) for name, speaker, *_ in told(tmp_path)] == [("one", "anna"), ("two.ogg", "2020")]
    assert told(tmp_path) == told(tmp_path, "test")


def test_an_utterance_knows_its_length() -> None:
    assert Utterance(Path("x.wav"), "s", file_s=3.0).seconds == 3.0
    assert Utterance(Path("x.wav"), "s", 1.0, 1.5, 3.0).seconds == 0.5


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        read_corpus(tmp_path / "absent")
    with pytest.raises(UsageError, match=r"no recording beneath(.|\n)*\.wav \.flac \.ogg"):
        read_corpus(tmp_path)
    record(tmp_path / "test" / "a.wav")
    with pytest.raises(UsageError, match=r"no recording of the part 'train'(.|\n)*there is: test"):
        read_corpus(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"bad\.wav is empty \(0 bytes\)"),
        (b"not a sound at all", r"bad\.wav is not a sound"),
        (b"fLaC but no more than that", r"bad\.wav cannot be read"),
        (b"RIFF\xff\xff\x00\x00WAVEfmt ", r"bad\.wav (is )?truncated|bad\.wav ends"),
    ],
)
def test_a_damaged_recording_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    record(tmp_path / "good.wav")
    (tmp_path / "bad.wav").write_bytes(content)
    with pytest.raises(UnusableInput, match=message):
        read_corpus(tmp_path)


def test_a_recording_without_samples_has_no_length(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="holds no samples"):
        sound_seconds(record(tmp_path / "a.wav", 0.0))


@pytest.mark.parametrize("line", ["S1_1 0.5", "S1_1 1.0 0.5", "S1_1 -1 2", "S1_1 zero one", "S1_1 0 1 2", "S1_1 0 nan"])
def test_a_damaged_line_of_vads_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "vads.txt").write_text(f"S0_0 0 1\n{line}\n")
    with pytest.raises(UnusableInput, match="vads.txt, line 2"):
        read_vads(tmp_path / "vads.txt")


def test_speech_past_the_end_of_its_recording_is_refused(zerospeech: Path) -> None:
    (zerospeech / "vads.txt").write_text("S020_0002 0.5 1.2\n")
    with pytest.raises(UnusableInput, match=r"S020_0002 speak up to 1.2 s, and .*S020_0002.wav ends at 1.000 s"):
        read_corpus(zerospeech)


@pytest.mark.shared_data
def test_the_real_sets_are_read_whole(shared_data: Path) -> None:
    other = read_corpus(shared_data / "librispeech" / "test-other")
    assert (len(other), len({item.speaker for item in other})) == (60, 6)
    train = read_corpus(shared_data / "librispeech")
    assert (len(train), len({item.speaker for item in train})) == (160, 160)
    assert len(read_corpus(shared_data / "librispeech", "test")) == 60
    digits = read_corpus(shared_data / "fsdd", "test")
    assert (len(digits), len({item.speaker for item in digits})) == (200, 4)
