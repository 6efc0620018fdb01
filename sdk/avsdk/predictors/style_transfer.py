"""Style transfer on the device: a photo or a video in, the same in another style out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from avsdk import media
from avsdk.errors import UnusableInput, UsageError
from avsdk.headers import media_kind
from avsdk.ops.motion import Steadier
from avsdk.ops.video import frames_per_batch
from avsdk.overlap import done_behind, drawn_ahead
from avsdk.predictor import Progress, silent
from avsdk.predictors.generic import ImagePredictor, Prepared
from avsdk.session import Array

_NOTHING = np.empty(0)


class StyleTransferPredictor(ImagePredictor):
    """Photos as ``ImagePredictor``; videos frame by frame, with the frame rate, size and sound of the source."""

    known_settings: ClassVar[Mapping[str, str]] = {
        **ImagePredictor.known_settings,
        "temporal": "0..1: how much of the frame before is mixed into the next one, moved along with the picture; "
        "0 only measures the flicker (default: neither)",
    }
    suffixes = media.MEDIA_SUFFIXES

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._temporal = self._strength()

    def output_name(self, source: Path) -> str:
        """The name of the source; a video whose container cannot be written becomes an .mp4."""
        if media_kind(source) != "video":
            return super().output_name(source)
        return source.name if source.suffix.lower() in media.VIDEO_SUFFIXES else source.with_suffix(".mp4").name

    def _strength(self) -> float | None:
        text = self.settings.get("temporal")
        if text is None:
            return None
        try:
            strength = float(text)
        except ValueError:
            strength = -1.0
        if not 0.0 <= strength <= 1.0:
            raise UsageError(f"the setting 'temporal' is {text!r}", expected="a number from 0 to 1")
        return strength

    def _run_file(self, source: Path, out: Path, progress: Progress | None) -> int:
        kind = media_kind(source)
        if kind == "image":
            return super()._run_file(source, out, progress)
        if kind == "video":
            return self._run_video(source, out, progress)
        raise UnusableInput(
            f"{source} is neither a picture nor a video",
            expected=f"a file of one of the kinds {' '.join(self.suffixes)}",
            fix="convert it first",
        )

    def _run_video(self, source: Path, out: Path, progress: Progress | None) -> int:
        """Decode, infer and encode at once, batch by batch, so that memory does not grow with the length."""
        media.check_suffix(out, media.VIDEO_SUFFIXES, "a video")
        info = self.decoder.open_video(source)
        height, width = info["height"], info["width"]
        if not self.accepts(np.broadcast_to(np.uint8(0), (height, width, 3))):
            self._fitted(np.zeros((height, width, 3), np.uint8))  # refuses, or says that it resizes
        steadier = None if self._temporal is None else Steadier(self._temporal)
        with media.video_writer(out, info["fps"], height, width) as writer:
            if (writer.height, writer.width) != (height, width):
                self.notices.append(f"cut to {writer.width}x{writer.height}: odd sizes need pip install 'avsdk[video]'")

            def finish(item: tuple[Prepared, dict[str, Array]]) -> None:
                styled = self._finished(*item)
                if steadier is not None:
                    with self.watch.stage("steady"):
                        styled = steadier(item[0].picture, styled)
                with self.watch.stage("encode"):
                    writer.write(styled)

            started = time.perf_counter()
            with (
                (progress or silent)(source.name, info["frames"] or None) as advance,
                drawn_ahead(self._batches(source, height, width)) as batches,
                done_behind(finish) as hand_over,
            ):
                for given in batches:
                    outputs = self._inferred(given.tensor)
                    hand_over((replace(given, tensor=_NOTHING), outputs))  # its memory is for the next one
                    advance(len(given.picture))
            self.extra["video"] = {"frames": writer.frames, "seconds": time.perf_counter() - started}
            self._keep_sound(source, writer.finish())
        if steadier is not None:
            self._report(steadier)
        return writer.frames

    def _batches(self, source: Path, height: int, width: int) -> Iterator[Prepared]:
        count = self._batch or frames_per_batch(height, width)
        if self._limit_mb:
            count = 1
            self.notices.append("the limit of memory is for the run of each frame; a few more wait before and after it")
        batches = self.decoder.batches(source, count)
        while True:
            with self.watch.stage("decode"):
                frames = next(batches, None)
            if frames is None:
                return
            yield self._prepared(frames)

    def _report(self, steadier: Steadier) -> None:
        found = steadier.report()
        self.extra["temporal"] = found
        if found["warping_error"] is not None:
            self.notices.append(
                f"temporal={steadier.strength:g}: warping error {found['warping_error']:.3g}, without it "
                f"{found['warping_error_without']:.3g}; {steadier.scene_cuts} new scenes"
            )

    def _keep_sound(self, source: Path, video: Path) -> None:
        if not media.can_copy_sound():
            self.notices.append("the sound of the video was not kept: pip install 'avsdk[video]'")
            return
        try:
            done = self.decoder.copy_sound(source, video)
        except UnusableInput as error:
            self.notices.append(f"the sound of the video was not kept: {error.failed}")
            return
        if done == "encoded":
            self.notices.append("the sound was encoded again as AAC: the container cannot hold its codec")
