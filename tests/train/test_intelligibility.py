"""STOI, ESTOI, PESQ on the published pair, mel-cepstral distortion by its definition, and what cannot be compared."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsdk.errors import NotAvailable, UnusableInput
from avsdk.ops.speech import log_mel
from avsdk.sound import read_sound
from avsdk_train.metrics.intelligibility import (
    _MEL,
    RATE_HZ,
    Intelligibility,
    intelligibility,
    mel_cepstral_distortion,
)


def syllables(seconds: float, seed: int = 0) -> Any:
    """Noise that swells four times a second, as speech does."""
    count = round(seconds * RATE_HZ)
    swell = np.sin(2 * np.pi * 2 * np.arange(count) / RATE_HZ) ** 2
    return 0.3 * swell * np.random.default_rng(seed).normal(size=count)


@pytest.mark.shared_data
def test_the_published_pair(shared_data: Path) -> None:
    clean, babble = (read_sound(shared_data / "pesq" / name, RATE_HZ) for name in ("speech.wav", "speech_bab_0dB.wav"))
    found = intelligibility(clean, babble)
    assert found.stoi == pytest.approx(0.673917790, abs=1e-6)
    assert found.estoi == pytest.approx(0.390449991, abs=1e-6)
    assert found.pesq_wb == pytest.approx(1.0832337141, abs=1e-6)
    assert found.pesq_nb == pytest.approx(1.6072081327, abs=1e-6)
    assert mel_cepstral_distortion(clean, babble) == pytest.approx(3.765, abs=0.01)
    assert mel_cepstral_distortion(clean, clean) == pytest.approx(0, abs=1e-5)


def test_the_same_speech_is_understood_and_other_noise_is_not() -> None:
    speech = syllables(2)
    same, other = intelligibility(speech, speech), intelligibility(speech, syllables(2, seed=1))
    assert same.stoi == pytest.approx(1, abs=1e-3)
    assert same.estoi == pytest.approx(1, abs=1e-3)
    assert same.pesq_wb is not None
    assert other.pesq_wb is not None
    assert same.pesq_wb > 4 > other.pesq_wb
    assert other.estoi is not None
    assert other.estoi < 0.5


@pytest.mark.parametrize(
    ("reference", "degraded"),
    [(np.zeros(RATE_HZ), np.zeros(RATE_HZ)), (np.zeros(RATE_HZ), syllables(1)), (syllables(0.05), syllables(0.05))],
    ids=["silence", "silent reference", "50 ms"],
)
def test_too_little_speech_has_no_value(reference: Any, degraded: Any) -> None:
    assert intelligibility(reference, degraded) == Intelligibility(None, None, None, None)


def test_a_quarter_of_a_second_is_enough_for_pesq_alone() -> None:
    found = intelligibility(syllables(0.3), syllables(0.3))
    assert found.stoi is None
    assert found.pesq_nb is not None


def test_distortion_is_half_the_distance_of_smoothed_mel_spectra_in_decibels() -> None:
    one, other = syllables(0.1), syllables(0.1, seed=1)
    both = [np.asarray(log_mel(sound, _MEL), np.float64)[:1] for sound in (one, other)]
    # One frame each, so there is nothing to warp: a DCT by hand, coefficients 1 to 12.
    bands = np.arange(80)
    waves = np.array([np.cos(np.pi / 80 * (bands + 0.5) * k) for k in range(1, 13)])
    natural = [np.log(10 ** (spectrum[0] / 20)) @ waves.T / 80 for spectrum in both]  # log|H| = c0 + 2 sum c cos
    expected = 10 / np.log(10) * np.sqrt(2 * ((natural[0] - natural[1]) ** 2).sum())
    from avsdk_train.metrics.intelligibility import _cepstra

    found = np.linalg.norm(_cepstra(one)[0] - _cepstra(other)[0])
    assert found == pytest.approx(expected, rel=1e-6)


def test_distortion_forgives_loudness_and_a_slower_start() -> None:
    speech = syllables(0.5)
    assert mel_cepstral_distortion(speech, 0.5 * speech) == pytest.approx(0, abs=1e-3)
    late = np.concatenate([speech[:1600], speech])
    unlike = mel_cepstral_distortion(speech, syllables(0.5, seed=1))
    assert mel_cepstral_distortion(speech, late) < unlike / 2


@pytest.mark.parametrize(
    ("reference", "degraded", "message"),
    [
        (syllables(0.1), syllables(0.2), "3200 samples are compared with 1600"),
        (np.ones((2, 9)), np.ones((2, 9)), r"shape \[2, 9\]"),
        (np.ones(0), np.ones(0), r"shape \[0\]"),
        (np.ones(9, np.int16), np.ones(9, np.int16), "type int16"),
        (np.full(9, np.nan), np.ones(9), "finite floats"),
    ],
)
def test_what_cannot_be_compared_is_refused(reference: Any, degraded: Any, message: str) -> None:
    with pytest.raises(UnusableInput, match=message):
        intelligibility(reference, degraded)


def test_long_speech_is_not_warped() -> None:
    with pytest.raises(UnusableInput, match="61 s of speech are warped"):
        mel_cepstral_distortion(np.ones(61 * RATE_HZ), np.ones(9))


@pytest.mark.parametrize("package", ["pystoi", "pesq"])
def test_an_absent_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(package)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(NotAvailable, match=rf"needs {package}(.|\n)*avsdk\[train\]"):
        intelligibility(syllables(0.5), syllables(0.5))
