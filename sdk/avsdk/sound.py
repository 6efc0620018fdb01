"""Sounds from and to files. The only module that imports soundfile and soxr, each when it is first needed.

``read_sound`` hands bytes from strangers to native code, so ``SoundDecoder`` runs it in a child process. A sound is
float32, (samples,), one channel, in -1..1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import NotAvailable, UnusableInput
from avsdk.files import atomic_file
from avsdk.headers import truncated
from avsdk.media import Decoder, check_suffix

Sound = NDArray[np.float32]

READ_SUFFIXES = (".wav", ".flac", ".ogg")
WRITE_SUFFIXES = (".wav", ".flac")
MAX_SECONDS = 3600
_MOST_VALUES = 1 << 30
_EXPECTED = "a WAV, FLAC or Ogg sound"
_UNSAID = (0, 0xFFFFFFFF)
"""What a WAV that was written as a stream says of its own length."""


class SoundDecoder(Decoder):
    """Decodes sounds from strangers in a child process, started when first needed and again after a crash."""

    def sound(self, path: Path, sample_rate_hz: int, max_seconds: int = MAX_SECONDS) -> Sound:
        """``read_sound`` in the child."""
        with self._blaming(path) as worker:
            found: Sound = worker.call(read_sound, path=path, sample_rate_hz=sample_rate_hz, max_seconds=max_seconds)
        return found


def read_sound(path: str | Path, sample_rate_hz: int, max_seconds: int = MAX_SECONDS) -> Sound:
    """Decode a sound in this process: the mean of its channels, at that rate.

    Raises ``UnusableInput`` for what is no sound, empty, truncated, not finite, or longer than ``max_seconds``.
    """
    file = Path(path)
    _check_header(file)
    soundfile = _soundfile()
    try:
        info = soundfile.info(str(file))
        if info.frames > max_seconds * info.samplerate or info.frames * info.channels > _MOST_VALUES:
            raise UnusableInput(
                f"{file} lasts {info.frames / info.samplerate:.0f} s with {info.channels} channels",
                expected=f"at most {max_seconds} s",
                fix="cut it, or raise the limit with --set max_seconds=N",
            )
        samples, rate = soundfile.read(str(file), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UnusableInput(f"{file} cannot be decoded: {error}", expected=_EXPECTED, fix="convert it first") from error
    if not len(samples):
        raise UnusableInput(f"{file} holds no samples", expected="at least one sample")
    if len(samples) < info.frames:
        raise truncated(file, f"{len(samples)} of {info.frames} samples could be read")
    if not np.isfinite(samples).all():
        raise UnusableInput(f"{file} holds samples that are no numbers", expected="finite samples")
    mono = np.asarray(samples.mean(axis=1), np.float32)
    return mono if rate == sample_rate_hz else np.asarray(_soxr().resample(mono, rate, sample_rate_hz), np.float32)


def sound_seconds(path: Path) -> float:
    """How long a sound file lasts, by its header alone. Raises ``UnusableInput`` for what is no sound, or empty."""
    _check_header(path)
    soundfile = _soundfile()
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UnusableInput(f"{path} cannot be read: {error}", expected=_EXPECTED, fix="convert it first") from error
    if not info.frames:
        raise UnusableInput(f"{path} holds no samples", expected="at least one sample")
    return float(info.frames / info.samplerate)


def write_sound(path: Path, sound: Sound, sample_rate_hz: int) -> None:
    """Write 16-bit samples by the suffix of ``path``, whole or not at all."""
    check_suffix(path, WRITE_SUFFIXES, "a sound")
    soundfile = _soundfile()
    kind = path.suffix.lower()[1:].upper()
    with atomic_file(path) as temporary:
        soundfile.write(str(temporary), np.clip(sound, -1, 1), sample_rate_hz, format=kind, subtype="PCM_16")


def _check_header(path: Path) -> None:
    """Only kinds that stand here reach the decoder; a WAV that promises more bytes than there are is truncated."""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise UnusableInput(f"{path} {found}", expected=_EXPECTED)
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(12)
    if not head:
        raise UnusableInput(f"{path} is empty (0 bytes)", expected=_EXPECTED, fix="get or copy it again")
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        promised = int.from_bytes(head[4:8], "little")
        if promised not in _UNSAID and promised + 8 > size + 1:
            raise truncated(path, f"it promises {promised + 8} bytes and has {size}")
    elif head[:4] not in (b"fLaC", b"OggS"):
        raise UnusableInput(f"{path} is not a sound", expected=_EXPECTED, fix="convert it first")


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise _absent("soundfile", error) from error
    return soundfile


def _soxr() -> Any:
    try:
        import soxr
    except ImportError as error:
        raise _absent("soxr", error) from error
    return soxr


def _absent(package: str, error: Exception) -> NotAvailable:
    return NotAvailable(
        f"sounds need {package}, which cannot be imported: {error}",
        expected=f"the package {package}",
        fix="pip install 'avsdk[media]'",
    )
