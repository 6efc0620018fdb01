"""A sound in; a sound, labels or tensors out: the predictor of audio models that belong to no family."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from avsdk import sound
from avsdk.errors import BundleRefused, SizeNotBuilt, UnusableInput
from avsdk.media import check_suffix
from avsdk.ops import Trace, asset_files, pipelines_for
from avsdk.predictor import Predictor, Progress
from avsdk.predictors.answers import answer_suffixes, write_answer
from avsdk.session import Array, LoadedGraph
from avsdk.spec import ModelSpec


class AudioPredictor(Predictor):
    """Reads a sound at the rate of the step ``sound_mono`` and runs one graph on what the other steps make of it."""

    known_settings: ClassVar[Mapping[str, str]] = {
        "max_seconds": f"the longest sound that is decoded (default {sound.MAX_SECONDS})"
    }
    suffixes: ClassVar[tuple[str, ...]] = sound.READ_SUFFIXES

    def __init__(
        self, spec: ModelSpec, graphs: Mapping[str, LoadedGraph], assets: Path, settings: Mapping[str, str]
    ) -> None:
        super().__init__(spec, graphs, assets, settings)
        self._before, self._after = pipelines_for(
            "audio", spec.preprocess, spec.postprocess, asset_files(assets, spec.assets)
        )
        if len(spec.graphs) != 1 or len(spec.graphs[0].inputs) != 1:
            raise BundleRefused(
                f"{spec.model} has {[len(graph.inputs) for graph in spec.graphs]} inputs in its graphs",
                expected="one graph with one input",
            )
        if not spec.preprocess or spec.preprocess[0].op != "sound_mono":
            raise BundleRefused(
                f"the first step of {spec.model} does not say at which rate it takes sounds",
                expected="sound_mono with sample_rate_hz",
                fix="begin the spec file with it: [[preprocess]] op = 'sound_mono', and export again",
            )
        self.sample_rate_hz = int(spec.preprocess[0].params["sample_rate_hz"])
        self._graph = spec.graphs[0]
        self._input = self._graph.inputs[0]
        self._kinds = answer_suffixes(spec.postprocess, sound.WRITE_SUFFIXES)
        self._max_seconds = self.whole_setting("max_seconds", sound.MAX_SECONDS)

    def __call__(self, media: Any) -> Any:
        """A sound (samples,) of floats at ``sample_rate_hz``, or a file's path; the answer of the last step.

        Raises ``SizeNotBuilt`` for a sound that is longer or shorter than the graph takes, and ``UnusableInput`` for
        anything else than a sound.
        """
        heard = self.decoder.sound(Path(media), self.sample_rate_hz, self._max_seconds) if _is_path(media) else media
        if not isinstance(heard, np.ndarray):
            raise UnusableInput(f"the sound is a {type(heard).__name__}", expected="a file's path, or an array")
        trace = Trace()
        with self.watch.stage("preprocess"):
            tensor = self._tensor(heard, trace)
        try:
            outputs = self.infer(self._graph.name, {self._input.name: tensor})
        except SizeNotBuilt as error:
            raise SizeNotBuilt(
                f"the sound lasts {trace.samples / self.sample_rate_hz:.2f} s, {trace.samples} samples at "
                f"{self.sample_rate_hz} Hz: {error.failed}",
                expected=error.expected,
                fix="; ".join(filter(None, (error.fix, "or cut or lengthen it: fit_samples in the spec file does"))),
            ) from error
        if not self.spec.postprocess:
            return outputs
        with self.watch.stage("postprocess"):
            return self._after(outputs[self._graph.outputs[0].name], trace)

    def accepts(self, media: Array) -> bool:
        """Whether a sound of this length was built for."""
        try:
            sizes = self._graph.sizes_of({self._input.name: self._tensor(media, Trace()).shape})
        except SizeNotBuilt:
            return False
        built = self.graphs[self._graph.name].built_sizes
        return not built or sizes in built

    def output_name(self, source: Path) -> str:
        """The name of the source where a sound comes out in a kind that can be written; else .wav, .json or .npz."""
        return source.name if source.suffix.lower() in self._kinds else source.with_suffix(self._kinds[0]).name

    def close(self) -> None:
        """Free the runtimes' memory and end the decoder."""
        super().close()
        if "decoder" in self.__dict__:
            self.decoder.close()

    @cached_property
    def decoder(self) -> sound.SoundDecoder:
        """The child process that reads sounds."""
        return sound.SoundDecoder()

    def _tensor(self, heard: Array, trace: Trace) -> Array:
        return np.ascontiguousarray(self._before(heard, trace), dtype=self._input.dtype)

    def _run_file(self, source: Path, out: Path, progress: Progress | None) -> int:
        del progress
        check_suffix(out, self._kinds, "this answer")
        answer = self(source)
        if not write_answer(out, answer, self._kinds):
            sound.write_sound(out, answer, self.sample_rate_hz)
        return 1


def _is_path(given: Any) -> bool:
    return isinstance(given, (str, Path))
