"""Spectra and features of speech, compared with librosa."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from avsdk.errors import BundleRefused, UsageError
from avsdk.ops import Trace, pipelines_for
from avsdk.ops.spectrum import Frames, griffin_lim, irfft_rows, istft, magnitude, rfft_rows, stft
from avsdk.ops.speech import MelBands, delta, log_mel, mfcc, standardised, with_deltas
from avsdk.spec import Step

RATE = 16_000
MFCC_BANDS = MelBands(bands=40)
SHORT = 4 * 160 + 1  # five frames


@pytest.fixture(scope="module")
def librosa() -> Any:
    return pytest.importorskip("librosa", reason="librosa is not installed: pip install 'avsdk[dev]'")


@pytest.fixture(autouse=True)
def _short_sounds() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_fft=.* is too large", UserWarning)
        yield


def speechlike(samples: int, dtype: str = "float32") -> Any:
    """A voice's harmonics with a moving pitch and loudness, over a little noise; pauses of digital silence."""
    time = np.arange(samples) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(3 * time)) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 25)) * (np.sin(5 * time) > -0.7)
    noise = np.random.default_rng(0).standard_normal(samples)
    sound = (0.1 * voice + 0.003 * noise) * (np.sin(2 * time) > -0.9)
    return sound.astype(dtype)


@pytest.mark.parametrize("samples", [16_000, 16_037, SHORT, 100])
@pytest.mark.parametrize("frames", [Frames(1024, 400, 160), Frames(400, 400, 160), Frames(512, 400, 100)])
def test_spectra_are_those_of_librosa(librosa: Any, samples: int, frames: Frames) -> None:
    sound = speechlike(samples)
    expected = librosa.stft(sound, n_fft=frames.size, win_length=frames.window, hop_length=frames.hop).T
    found = stft(sound, frames)
    assert found.dtype == np.complex64
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(magnitude(sound, frames), np.abs(expected), atol=1e-4)


@pytest.mark.parametrize("samples", [16_000, 16_037, SHORT, 100])
def test_a_spectrum_becomes_its_sound_again(samples: int) -> None:
    sound = speechlike(samples)
    found = istft(stft(sound, Frames()), Frames(), samples)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, sound, atol=1e-6)


def test_the_inverse_of_a_changed_spectrum_is_that_of_librosa(librosa: Any) -> None:
    spectrum = stft(speechlike(8000), Frames()) * np.linspace(0, 2, 513).astype(np.float32)
    expected = librosa.istft(spectrum.T, hop_length=160, win_length=400, n_fft=1024)
    np.testing.assert_allclose(istft(spectrum, Frames()), expected, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("size", [400, 401])
def test_transforms_of_two_rows_at_once_are_those_of_numpy(rows: int, size: int) -> None:
    values = np.random.default_rng(0).standard_normal((rows, size)).astype(np.float32)
    spectrum = np.fft.rfft(values.astype(np.float64))
    np.testing.assert_allclose(rfft_rows(values), spectrum, atol=1e-4)
    np.testing.assert_allclose(irfft_rows(spectrum, size), values, atol=1e-6)


@pytest.mark.parametrize("samples", [None, 8000])
def test_griffin_lim_is_that_of_librosa_from_the_same_phase(librosa: Any, samples: int | None) -> None:
    magnitudes = magnitude(speechlike(8000), Frames()) ** np.float32(1.2)
    expected = librosa.griffinlim(
        magnitudes.T, n_iter=12, hop_length=160, win_length=400, n_fft=1024, random_state=3, length=samples
    )
    phase = 2 * np.pi * np.random.RandomState(3).random(magnitudes.T.shape).T
    found = griffin_lim(magnitudes, Frames(), iterations=12, phase=phase, samples=samples)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_griffin_lim_repeats_itself_and_comes_near() -> None:
    sound = speechlike(8000)
    magnitudes = magnitude(sound, Frames())
    first, second = (griffin_lim(magnitudes, Frames(), samples=8000) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, griffin_lim(magnitudes, Frames(), samples=8000, seed=1))
    error = np.linalg.norm(magnitude(first, Frames()) - magnitudes) / np.linalg.norm(magnitudes)
    assert error < 0.15


def test_griffin_lim_refuses_magnitudes_of_other_frames() -> None:
    with pytest.raises(UsageError, match=r"(?s)\[10, 257\].*\(frames, 513\)"):
        griffin_lim(np.ones((10, 257), np.float32), Frames())


@pytest.mark.parametrize("samples", [16_000, SHORT, 100])
@pytest.mark.parametrize(("bands", "top_db"), [(40, 80.0), (80, None), (128, None)])
def test_log_mel_and_cepstra_are_those_of_librosa(librosa: Any, samples: int, bands: int, top_db: float | None) -> None:
    sound = speechlike(samples)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Empty filters", UserWarning)
        energy = librosa.feature.melspectrogram(
            y=sound.astype(np.float64), sr=RATE, n_fft=400, hop_length=160, n_mels=bands
        )
    decibels = librosa.power_to_db(energy, top_db=top_db)
    mel = MelBands(bands=bands)
    np.testing.assert_allclose(log_mel(sound, mel, top_db=top_db), decibels.T, rtol=1e-4, atol=1e-4)
    cepstra = librosa.feature.mfcc(S=decibels, n_mfcc=13)
    np.testing.assert_allclose(mfcc(sound, mel, top_db=top_db), cepstra.T, rtol=1e-4, atol=1e-3)
    exact = mfcc(sound.astype(np.float64), mel, top_db=top_db)
    np.testing.assert_allclose(exact, cepstra.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("frames", "mode"), [(50, "interp"), (9, "interp"), (8, "nearest"), (5, "nearest")])
@pytest.mark.parametrize("order", [1, 2])
def test_slopes_are_those_of_librosa_and_short_clips_have_some(
    librosa: Any, frames: int, mode: str, order: int
) -> None:
    features = np.random.default_rng(0).standard_normal((frames, 3)).astype(np.float32)
    expected = librosa.feature.delta(features.T, order=order, mode=mode).T
    np.testing.assert_allclose(delta(features, order), expected, atol=1e-5)


@pytest.mark.parametrize("samples", [16_000, SHORT, 1])
def test_a_clip_of_any_length_has_39_coefficients(samples: int) -> None:
    found = with_deltas(mfcc(speechlike(samples), MFCC_BANDS))
    assert found.shape == (1 + samples // 160, 39)
    assert np.isfinite(found).all()


def test_silence_has_the_least_energy() -> None:
    assert (log_mel(np.zeros(1600, np.float32), MelBands()) == -100).all()


def test_the_features_of_a_part_are_those_of_the_whole() -> None:
    """Nothing but the frames beside it decides a frame, so a long recording may be cut."""
    sound = speechlike(32_000)
    whole, part = (mfcc(piece, MFCC_BANDS) for piece in (sound, sound[8000:24_000]))
    np.testing.assert_allclose(part[2:-2], whole[52 : 50 + 99], atol=1e-3)


def test_a_long_recording_is_standardised_by_its_own_statistics_and_a_short_one_by_those_of_speech() -> None:
    random = np.random.default_rng(0)
    long = (3 + 2 * random.standard_normal((20_000, 2))).astype(np.float32)
    mean, deviation = np.array([1.0, 1.0]), np.array([4.0, 4.0])
    found = standardised(long, mean, deviation, 100.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose([found.mean(), found.std()], [0, 1], atol=0.02)
    short = standardised(long[:1], mean, deviation, 100.0)
    np.testing.assert_allclose(short, (long[:1] - mean) / deviation, rtol=0.05, atol=0.05)
    alone = standardised(long, mean, deviation, float("inf"))
    np.testing.assert_allclose(alone, (long - mean) / deviation, rtol=1e-5)


@pytest.mark.parametrize("values", [{"low_hz": -1.0}, {"low_hz": 8000.0}, {"high_hz": 8001.0}, {"bands": 0}])
def test_bands_that_the_sound_does_not_have_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="mel bands"):
        MelBands(**values)


@pytest.mark.parametrize("values", [{"hop": 0}, {"hop": 500}, {"size": 300}])
def test_frames_that_no_transform_can_do_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="frames of"):
        Frames(**values)


@pytest.mark.parametrize(("op", "width"), [("mfcc", 39), ("log_mel", 80)])
def test_a_manifest_may_name_the_features(op: str, width: int) -> None:
    before, _ = pipelines_for("audio", (Step(op, {"sample_rate_hz": RATE}),), ())
    assert before(speechlike(1600), Trace()).shape == (11, width)


@pytest.mark.parametrize(
    "params",
    [{"size": 1 << 20}, {"window": 500}, {"hop": 0}, {"bands": 0}, {"sample_rate_hz": "16k"}, {"bands": True}],
)
def test_features_that_make_no_sense_are_refused_before_a_sound_is_read(params: dict[str, Any]) -> None:
    with pytest.raises(BundleRefused, match="log_mel"):
        pipelines_for("audio", (Step("log_mel", {"sample_rate_hz": RATE, **params}),), ())
