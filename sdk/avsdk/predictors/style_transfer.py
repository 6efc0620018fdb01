"""Style transfer on the device: a photo or a video in, the same in another style out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avsdk import media
from avsdk.errors import UnusableInput
from avsdk.headers import media_kind
from avsdk.ops.video import frames_per_batch
from avsdk.predictor import Progress, silent
from avsdk.predictors.generic import ImagePredictor


class StyleTransferPredictor(ImagePredictor):
    """Photos as ``ImagePredictor``; videos frame by frame, with the frame rate, size and sound of the source."""

    suffixes = media.MEDIA_SUFFIXES

    def output_name(self, source: Path) -> str:
        """The name of the source; a video whose container cannot be written becomes an .mp4."""
        if media_kind(source) != "video":
            return super().output_name(source)
        return source.name if source.suffix.lower() in media.VIDEO_SUFFIXES else source.with_suffix(".mp4").name

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
        """Decode, infer and encode batch by batch, so that memory does not grow with the length."""
        media.check_suffix(out, media.VIDEO_SUFFIXES, "a video")
        info = self.decoder.open_video(source)
        height, width = info["height"], info["width"]
        if not self.accepts(np.broadcast_to(np.uint8(0), (height, width, 3))):
            self._fitted(np.zeros((height, width, 3), np.uint8))  # refuses, or says that it resizes
        count = self._batch or frames_per_batch(height, width)
        with media.video_writer(out, info["fps"], height, width) as writer:
            if (writer.height, writer.width) != (height, width):
                self.notices.append(f"cut to {writer.width}x{writer.height}: the codec needs even sizes")
            with (progress or silent)(source.name, info["frames"] or None) as advance:
                for frames in self.decoder.batches(source, count):
                    writer.write(self(frames))
                    advance(len(frames))
            self._keep_sound(source, writer.finish())
        return writer.frames

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
