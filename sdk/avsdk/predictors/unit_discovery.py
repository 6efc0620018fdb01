"""Speech in; units out, or the same words in another voice."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from avsdk import sound
from avsdk.errors import BundleRefused, UnusableInput
from avsdk.files import write_atomic
from avsdk.media import check_suffix
from avsdk.ops import Trace, pipelines_for
from avsdk.predictor import Predictor, Progress
from avsdk.predictors.answers import write_arrays
from avsdk.predictors.units import ASSET, RATE_HZ, SpeechUnits, Units, read_unit_file, sound_from_magnitudes
from avsdk.session import Array, LoadedGraph
from avsdk.spec import ModelSpec

_TEXTS = (".txt",)
_ARRAYS = (".npz",)
_FORMATS = ("codes", "times", "vectors")


class UnitDiscoveryPredictor(Predictor):
    """Reads a sound, encodes it, and writes its units; with ``resynthesise`` it writes a sound instead."""

    known_settings: ClassVar[Mapping[str, str]] = {
        "resynthesise": "the voice that says it again, a name or its number: a sound is written instead of units",
        "format": "lines of a .txt: codes (one a line, the default), times (start, end, code in seconds), "
        "vectors (the codebook's, as ZeroSpeech takes them)",
        "max_seconds": f"the longest sound that is decoded (default {sound.MAX_SECONDS})",
    }
    suffixes: ClassVar[tuple[str, ...]] = sound.READ_SUFFIXES

    def __init__(
        self, spec: ModelSpec, graphs: Mapping[str, LoadedGraph], assets: Path, settings: Mapping[str, str]
    ) -> None:
        super().__init__(spec, graphs, assets, settings)
        self._before, _ = pipelines_for("audio", spec.preprocess, ())
        if ASSET not in spec.assets or not {"encoder", "decoder", "inverter"} <= set(graphs):
            raise BundleRefused(
                f"{spec.model} has the graphs {sorted(graphs)} and the assets {sorted(spec.assets)}",
                expected=f"encoder, decoder and inverter, and the asset {ASSET!r}",
                fix="get a whole copy of the bundle, or export it again",
            )
        self.speech = SpeechUnits(spec, read_unit_file(assets / ASSET), self.infer, self._built)
        self._voice = settings.get("resynthesise", "")
        self._format = self.chosen_setting("format", _FORMATS)
        self._max_seconds = self.whole_setting("max_seconds", sound.MAX_SECONDS)

    def __call__(self, media: Any) -> Units:
        """The units of a file's path, or of a sound (samples,) at 16 kHz.

        Raises ``UnusableInput`` for anything else than a sound, and for one with values that are no numbers.
        """
        heard = media
        if isinstance(media, (str, Path)):
            heard = self.decoder.sound(Path(media), RATE_HZ, self._max_seconds)
        if not isinstance(heard, np.ndarray):
            raise UnusableInput(f"the sound is a {type(heard).__name__}", expected="a file's path, or an array")
        if heard.dtype.kind == "f" and not np.isfinite(heard).all():
            raise UnusableInput("the sound holds samples that are no numbers", expected="finite samples")
        with self.watch.stage("preprocess"):
            trace = Trace()
            features = np.asarray(self._before(heard, trace), np.float32)
        if not np.any(heard):
            self.notices.append("the sound is silent")
        return self.speech.units(features, trace.samples)

    def resynthesised(self, units: Units, voice: str) -> Array:
        """The sound (samples,) at 16 kHz of the units in one of the model's voices."""
        magnitudes = self.speech.magnitudes(units.codes, voice)
        with self.watch.stage("postprocess"):
            return sound_from_magnitudes(magnitudes, units.samples)

    def output_name(self, source: Path) -> str:
        """The source's name with .wav where a voice says it again, else .txt."""
        return source.with_suffix(".wav" if self._voice else _TEXTS[0]).name

    def close(self) -> None:
        """Free the runtimes' memory and end the decoder."""
        super().close()
        if "decoder" in self.__dict__:
            self.decoder.close()

    @cached_property
    def decoder(self) -> sound.SoundDecoder:
        """The child process that reads sounds."""
        return sound.SoundDecoder()

    def _built(self, graph: str) -> tuple[int, ...]:
        axis = "frames" if graph == "encoder" else "units"
        return tuple(size[axis] for size in self.graphs[graph].built_sizes if size.get("batch", 1) == 1)

    def _run_file(self, source: Path, out: Path, progress: Progress | None) -> int:
        del progress
        check_suffix(out, sound.WRITE_SUFFIXES if self._voice else (*_TEXTS, *_ARRAYS), "this answer")
        units = self(source)
        if self._voice:
            said = self.resynthesised(units, self._voice)
            sound.write_sound(out, said, RATE_HZ)
        elif out.suffix.lower() in _ARRAYS:
            arrays = {"codes": units.codes, "vectors": units.vectors, "entries": units.entries}
            write_arrays(out, {**arrays, "unit_s": np.asarray(units.unit_s)})
        else:
            write_atomic(out, text_from_units(units, self._format))
        self._note_pace(units)
        return 1

    def _note_pace(self, units: Units) -> None:
        """How long the work took per second of sound: below 1 is faster than it is spoken."""
        lasts = units.samples / RATE_HZ
        factors = {name: seconds / lasts for name, seconds in self.watch.seconds.items()}
        self.extra["seconds"] = lasts
        self.extra["units"] = len(units.codes)
        self.extra["real_time_factor"] = {**factors, "total": sum(factors.values())}
        parts = ", ".join(f"{name} {factor:.4f}" for name, factor in factors.items())
        self.notices.append(
            f"{lasts:.2f} s of sound, {len(units.codes)} units, real-time factor {sum(factors.values()):.4f} ({parts})"
        )


def text_from_units(units: Units, form: str) -> str:
    """One line per unit, in one of the forms of the setting ``format``; equal codes give equal text."""
    if form == "times":
        rows = (
            f"{i * units.unit_s:.3f} {(i + 1) * units.unit_s:.3f} {code}" for i, code in enumerate(units.codes.tolist())
        )
    elif form == "vectors":
        rows = (" ".join(f"{value:.16f}" for value in row) for row in units.entries.tolist())
    else:
        rows = (str(code) for code in units.codes.tolist())
    return "\n".join(rows) + "\n"
