"""How well synthetic speech can be understood and how good it sounds, beside the recording that it renders.

STOI (Taal et al. 2011) and ESTOI (Jensen and Taal 2016) by ``pystoi``, PESQ (ITU-T P.862, P.862.2) by ``pesq``: both
take signals of one length that are aligned in time, so they suit resynthesis by the same speaker, and no other voice.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import NotAvailable, UnusableInput
from avsdk.ops.spectrum import Frames
from avsdk.ops.speech import MelBands, mfcc
from avsdk_train.metrics.dtw import Floats, warped_distances

RATE_HZ = 16_000
_MEL = MelBands(RATE_HZ, Frames(size=1024, window=400, hop=160), bands=80)
_CEPSTRA = 13
_LONGEST_FRAMES = 6000
"""That can be warped: a minute, whose distances take 288 MB."""


@dataclass(frozen=True)
class Intelligibility:
    """``stoi`` and ``estoi`` up to 1, ``pesq_nb`` and ``pesq_wb`` from 1 to 4.6.

    ``None`` where there is too little speech: STOI needs 0.4 s of it, PESQ an utterance and a quarter of a second.
    """

    stoi: float | None
    estoi: float | None
    pesq_nb: float | None
    pesq_wb: float | None


def intelligibility(reference: NDArray[Any], degraded: NDArray[Any]) -> Intelligibility:
    """Of ``degraded`` (samples,), at 16 kHz, beside the clean ``reference`` of the same length.

    Raises ``UnusableInput`` for signals that cannot be compared, ``NotAvailable`` without the packages.
    """
    _check(reference, degraded)
    if len(reference) != len(degraded):
        raise UnusableInput(
            f"{len(degraded)} samples are compared with {len(reference)}",
            expected="signals of one length, aligned in time",
            fix="cut or pad the synthetic one",
        )
    clean, other = reference.astype(np.float64), degraded.astype(np.float64)
    return Intelligibility(
        _stoi(clean, other, extended=False),
        _stoi(clean, other, extended=True),
        _pesq(clean, other, "nb"),
        _pesq(clean, other, "wb"),
    )


def mel_cepstral_distortion(reference: NDArray[Any], degraded: NDArray[Any]) -> float:
    """The mean over the best warping path of ``10 / ln 10 * sqrt(2 * sum_1^12 (c - c')^2)``, in dB (Kubichek 1993).

    ``c`` are the cepstra of the natural logarithm of mel amplitudes (80 bands, 25 ms every 10 ms, 16 kHz), without the
    zeroth, so loudness does not count. Lengths may differ. Other tools' cepstra are of other spectra: compare values of
    one tool only.
    """
    _check(reference, degraded)
    one, other = _cepstra(reference), _cepstra(degraded)
    if max(len(one), len(other)) > _LONGEST_FRAMES:
        raise UnusableInput(
            f"{max(len(one), len(other)) / 100:.0f} s of speech are warped",
            expected=f"{_LONGEST_FRAMES // 100} s at most",
        )
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2 * one @ other.T
    costs = np.sqrt(np.maximum(squares, 0))[None]
    return float(warped_distances(costs, np.array([len(one)]), np.array([len(other)]))[0])


def _cepstra(sound: NDArray[Any]) -> Floats:
    """Scaled so that a frame's distortion is the Euclidean distance.

    ``mfcc`` is an orthonormal transform of 10 log10 of the power. With D its distance without the zeroth, the mean
    square difference of the mel spectra is D^2 / bands = (20 / ln 10)^2 * 2 * sum (c - c')^2: half its root is wanted.
    """
    found = mfcc(sound.astype(np.float64), _MEL, coefficients=_CEPSTRA)[:, 1:]
    return np.asarray(found / (2 * np.sqrt(_MEL.bands)), np.float64)


def _stoi(reference: Floats, degraded: Floats, *, extended: bool) -> float | None:
    try:
        from pystoi import stoi
    except ImportError as error:
        raise _absent("pystoi", error) from error
    if not reference.any() or len(reference) < RATE_HZ // 10:
        return None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        value = float(stoi(reference, degraded, RATE_HZ, extended=extended))
    return None if any("Not enough STFT frames" in str(warning.message) for warning in said) else value


def _pesq(reference: Floats, degraded: Floats, band: str) -> float | None:
    try:
        from pesq import BufferTooShortError, NoUtterancesError, pesq
    except ImportError as error:
        raise _absent("pesq", error) from error
    if not reference.any() or not degraded.any():
        return None
    try:
        return float(pesq(RATE_HZ, reference, degraded, band))
    except (NoUtterancesError, BufferTooShortError):
        return None


def _check(*sounds: NDArray[Any]) -> None:
    for sound in sounds:
        if sound.ndim != 1 or not len(sound) or sound.dtype.kind != "f" or not np.isfinite(sound).all():
            raise UnusableInput(
                f"a sound of shape {list(sound.shape)} and type {sound.dtype}",
                expected="finite floats (samples,), at least one",
            )


def _absent(package: str, error: ImportError) -> NotAvailable:
    return NotAvailable(
        f"the measure needs {package}, which cannot be imported: {error}",
        expected=f"the package {package}",
        fix="pip install 'avsdk[train]'",
    )
