"""Pictures and video from and to files. The only module that imports cv2 and av, each when it is first needed.

``read_image``, ``VideoReader`` and ``copy_sound`` hand bytes from strangers to native code, so ``Decoder`` runs them in
a child process with limits of memory, pixels and time; a crash there is an ``UnusableInput`` here. Pictures are uint8
RGB, (height, width, 3); frames are (count, height, width, 3).
"""

from __future__ import annotations

import contextlib
import heapq
import shutil
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import AvsdkError, DiskFull, NotAvailable, ToolchainCrashed, UnusableInput, UsageError
from avsdk.files import atomic_file, write_atomic
from avsdk.headers import image_header, truncated, video_kind, video_missing
from avsdk.odd_video import OddVideo
from avsdk.worker import Worker

Array = NDArray[np.uint8]

MAX_PIXELS = 64_000_000
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi")
_READABLE_ONLY = (".gif", ".mpg", ".mpeg", ".webm", ".ts", ".flv", ".wmv", ".ogv")
MEDIA_SUFFIXES = PHOTO_SUFFIXES + VIDEO_SUFFIXES + _READABLE_ONLY
_MAX_IMAGE_BYTES = 512 << 20
_DECODER_MEMORY_MB = 4096
_DECODER_TIMEOUT_S = 120.0
_JPEG_QUALITY = 95
_LENIENCE = 0.02
_PRIMING_S = 0.1  # sound codecs start with a packet or two before time zero, without which the first sounds are lost


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Array:
    """Decode a picture in this process: upright by its EXIF orientation, grey as RGB, alpha dropped, 16 bit as 8.

    Raises ``UnusableInput`` for what is no picture, empty, truncated, or has more than ``max_pixels``; that one is
    refused by its header, before it is decoded.
    """
    file = Path(path)
    if file.is_file() and file.stat().st_size > _MAX_IMAGE_BYTES:
        raise UnusableInput(f"{file} has {file.stat().st_size} bytes", expected=f"at most {_MAX_IMAGE_BYTES}")
    header = image_header(file)
    _check_pixels(file, header.width, header.height, max_pixels)
    if header.missing:
        raise truncated(file, header.missing)
    cv2 = opencv()
    decoded = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        raise UnusableInput(
            f"{file} cannot be decoded: its {header.kind.upper()} data is damaged or truncated",
            expected="a whole picture",
            fix="get or copy it again",
        )
    return np.ascontiguousarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def write_image(path: Path, image: Array) -> None:
    """Encode by the suffix of ``path`` and write whole or not at all; JPEG at quality 95."""
    check_suffix(path, PHOTO_SUFFIXES, "pictures")
    cv2 = opencv()
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.suffix.lower() in (".jpg", ".jpeg") else []
    encoded, data = cv2.imencode(path.suffix.lower(), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not encoded:
        raise UsageError(f"a picture of {image.shape[1]} x {image.shape[0]} pixels does not fit into {path.suffix}")
    write_atomic(path, data.tobytes())


def check_suffix(path: Path, suffixes: tuple[str, ...], what: str) -> None:
    """Raise ``UsageError`` unless ``what`` can be written under that suffix."""
    if path.suffix.lower() not in suffixes:
        raise UsageError(
            f"{what} cannot be written as {path.name!r}",
            expected=f"one of the suffixes {' '.join(suffixes)}",
            fix=f"--out {path.with_suffix(suffixes[0])}",
        )


def resized(image: Array, height: int, width: int) -> Array:
    """The picture, or each of the frames, at another size: averaged where it shrinks, bicubic where it grows."""
    if image.ndim == 4:
        return np.stack([resized(frame, height, width) for frame in image])
    cv2 = opencv()
    shrinks = height * width < image.shape[0] * image.shape[1]
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC))


class VideoReader:
    """The frames of a video in order, decoded in this process.

    ``info()`` gives kind, fps, height, width and the number of frames that the header promises (0: it does not say).
    """

    def __init__(self, path: str | Path, max_pixels: int = MAX_PIXELS) -> None:
        self._path = Path(path)
        self._kind = video_kind(self._path)
        missing = video_missing(self._path)
        if missing:
            raise truncated(self._path, missing)
        cv2 = opencv()
        self._capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise UnusableInput(
                f"{self._path} cannot be opened: it is damaged, or truncated before its index",
                expected="a whole video",
                fix="get or copy it again",
            )
        width = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        _check_pixels(self._path, width, height, max_pixels)
        self._fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        if not 0.01 <= self._fps <= 10_000:
            raise UnusableInput(f"{self._path} says that it has {self._fps} frames per second", expected="0.01..10000")
        self._promised = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self._frames_read = 0
        self._end_s = 0.0
        self._first = self._next()
        if self._first is None:
            raise truncated(self._path, f"0 of {self._promised} frames could be read")

    def info(self) -> dict[str, Any]:
        """What the header says, with the size of the first frame as it was decoded, upright."""
        assert self._first is not None
        height, width = self._first.shape[:2]
        return {"kind": self._kind, "fps": self._fps, "height": height, "width": width, "frames": self._promised}

    def read(self, count: int) -> Array | None:
        """The next ``count`` frames, fewer at the end, then None. Raises ``UnusableInput`` where it ends early."""
        frames: list[Array] = []
        while len(frames) < count:
            frame = self._next() if self._frames_read else self._first
            if frame is None:
                break
            self._frames_read += 1
            frames.append(frame)
        if not frames:
            self._check_complete()
            return None
        return np.stack(frames)

    def close(self) -> None:
        """Free the decoder."""
        self._capture.release()

    def _next(self) -> Array | None:
        cv2 = opencv()
        more, frame = self._capture.read()
        if not more:
            return None
        self._end_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 + 1 / self._fps
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def _check_complete(self) -> None:
        """Both count and time must fall short: a varying frame rate makes either of them wrong on its own."""
        slack = max(2.0, _LENIENCE * self._promised)
        missing_s = self._promised / self._fps - self._end_s
        if self._promised - self._frames_read > slack and missing_s > slack / self._fps:
            raise truncated(self._path, f"{self._frames_read} of {self._promised} frames could be read")


class VideoWriter:
    """A video of frames of one size, written whole or not at all: ``close`` puts it in place, ``discard`` drops it."""

    def __init__(self, path: Path, fps: float, height: int, width: int) -> None:
        check_suffix(path, VIDEO_SUFFIXES, "videos")
        self.path = path
        odd = (height % 2 or width % 2) and can_copy_sound()
        # OpenCV cuts to even sizes, since the codec stores colour at half the size.
        self.height, self.width = (height, width) if odd else (height // 2 * 2, width // 2 * 2)
        self.frames = 0
        self._exit, cv2 = contextlib.ExitStack(), opencv()
        self.temporary = self._exit.enter_context(atomic_file(path))
        code = cv2.VideoWriter_fourcc(*("XVID" if path.suffix.lower() == ".avi" else "mp4v"))
        name, size = str(self.temporary), (self.width, self.height)
        self._writer: Any = None
        try:
            if odd:
                self._writer = OddVideo(_av(), self.temporary, fps, height, width)
            else:
                self._writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, code, fps, size)
        except BaseException:
            self.discard()
            raise
        if not self._writer.isOpened():
            self.discard()
            raise UsageError(f"OpenCV cannot write {path.suffix} with {width} x {height} pixels at {fps:g} fps")

    def write(self, frames: Array) -> None:
        """Append frames (count, height, width, 3)."""
        cv2 = opencv()
        for frame in frames:
            self._writer.write(cv2.cvtColor(frame[: self.height, : self.width], cv2.COLOR_RGB2BGR))
        self.frames += len(frames)

    def finish(self) -> Path:
        """End the stream, check that all of it reached the disk (OpenCV never says), and give the temporary file."""
        self._writer.release()
        cv2 = opencv()
        check = cv2.VideoCapture(str(self.temporary), cv2.CAP_FFMPEG)
        stored = int(check.get(cv2.CAP_PROP_FRAME_COUNT)) if check.isOpened() else 0
        check.release()
        if stored < self.frames:
            if shutil.disk_usage(self.temporary.parent).free < 4 << 20:
                raise DiskFull(f"no space left while writing {self.path}", fix="free some space or write elsewhere")
            raise AvsdkError(f"OpenCV stored {stored} of {self.frames} frames in {self.path}")
        return self.temporary

    def close(self) -> None:
        """Put the finished file in place."""
        self._exit.close()

    def discard(self) -> None:
        """Leave nothing behind."""
        if isinstance(self._writer, OddVideo):
            self._writer.abandon()
        with contextlib.suppress(_Discarded):
            self._exit.__exit__(_Discarded, _Discarded(), None)


class _Discarded(Exception):
    """Thrown into the atomic write so that it removes its temporary file."""


@contextlib.contextmanager
def video_writer(path: Path, fps: float, height: int, width: int) -> Iterator[VideoWriter]:
    """A ``VideoWriter`` whose file takes its place on success and is dropped on an error."""
    writer = VideoWriter(path, fps, height, width)
    try:
        yield writer
    except BaseException:
        writer.discard()
        raise
    writer.close()


def can_copy_sound() -> bool:
    """Whether the package av is installed, which sound and odd sizes need."""
    return util.find_spec("av") is not None


def copy_sound(source: str | Path, video: str | Path, out: str | Path) -> str:
    """Write ``out`` with the pictures of ``video`` and the first sound track of ``source``, in this process.

    The sound's packets are copied; where the container of ``out`` cannot hold their codec they are encoded as AAC. It
    keeps its distance from the first frame of ``source``. Returns ``copied``, ``encoded``, or ``none`` without a track.
    """
    av = _av()
    with av.open(str(source)) as given:
        if not given.streams.audio:
            return "none"
    try:
        _join(av, source, video, out, encode=False)
    except (ValueError, av.FFmpegError):
        _join(av, source, video, out, encode=True)
        return "encoded"
    return "copied"


def _join(av: Any, source: str | Path, video: str | Path, out: str | Path, *, encode: bool) -> None:
    with av.open(str(source)) as given, av.open(str(video)) as silent, av.open(str(out), "w") as joined:
        track, pictures = given.streams.audio[0], silent.streams.video[0]
        shown = given.streams.video[0] if given.streams.video else None
        start_s = float(shown.start_time * shown.time_base) if shown and shown.start_time else 0.0
        into = joined.add_stream_from_template(pictures)
        sound = joined.add_stream("aac", rate=track.rate) if encode else joined.add_stream_from_template(track)
        heard = _encoded(given, track, sound, start_s) if encode else _copied(given, track, sound, start_s)
        # In the order of time, or the muxer would hold one whole stream in memory while it waits for the other.
        for _, packet in heapq.merge(_copied(silent, pictures, into, 0.0), heard, key=lambda item: item[0]):
            joined.mux(packet)


def _copied(container: Any, stream: Any, into: Any, start_s: float) -> Iterator[tuple[float, Any]]:
    for packet in container.demux(stream):
        if packet.dts is None:  # the empty packet that ends a stream
            continue
        shift = round(start_s / packet.time_base)
        packet.dts -= shift
        packet.pts = packet.dts if packet.pts is None else packet.pts - shift
        time_s = float(packet.dts * packet.time_base)
        if time_s >= -_PRIMING_S:
            packet.stream = into
            yield time_s, packet


def _encoded(container: Any, stream: Any, into: Any, start_s: float) -> Iterator[tuple[float, Any]]:
    for frame in container.decode(stream):
        frame.pts -= round(start_s / frame.time_base)
        if frame.pts >= 0:
            yield from ((float(packet.dts * packet.time_base), packet) for packet in into.encode(frame))
    yield from ((float(packet.dts * packet.time_base), packet) for packet in into.encode(None))


class Decoder:
    """Decodes files from strangers in a child process, started when first needed and again after a crash."""

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        self._max_pixels = max_pixels
        self._worker: Worker | None = None

    def image(self, path: Path) -> Array:
        """``read_image`` in the child."""
        with self._blaming(path) as worker:
            image: Array = worker.call(read_image, path=path, max_pixels=self._max_pixels)
        return image

    def open_video(self, path: Path) -> dict[str, Any]:
        """Open a ``VideoReader`` in the child, in place of the one before; its ``info()``."""
        with self._blaming(path) as worker:
            worker.open(VideoReader, path=path, max_pixels=self._max_pixels)
            info: dict[str, Any] = worker.ask("info")
        return info

    def batches(self, path: Path, count: int) -> Iterator[Array]:
        """The frames of the video that was opened last, ``count`` at a time."""
        while True:
            with self._blaming(path) as worker:
                frames = worker.ask("read", count=count)
            if frames is None:
                return
            yield frames

    def copy_sound(self, source: Path, video: Path) -> str:
        """Give the file ``video`` the sound of ``source``; returns ``copied``, ``encoded``, or ``none`` to copy."""
        joined = video.with_name(f".sound{video.name}")
        try:
            with self._blaming(source) as worker:
                done: str = worker.call(copy_sound, source=source, video=video, out=joined)
            if done != "none":
                joined.replace(video)
        finally:
            joined.unlink(missing_ok=True)
        return done

    def close(self) -> None:
        """End the child."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    @contextlib.contextmanager
    def _blaming(self, path: Path) -> Iterator[Worker]:
        """Lend the child; where it dies or its tool fails, the file is to blame, and the next file gets a new child."""
        if self._worker is None:
            env = {
                "OPENCV_IO_MAX_IMAGE_PIXELS": str(self._max_pixels),
                "OPENCV_FFMPEG_CAPTURE_OPTIONS": "protocol_whitelist;file",
            }
            self._worker = Worker("media", timeout_s=_DECODER_TIMEOUT_S, memory_mb=_DECODER_MEMORY_MB, env=env)
        try:
            yield self._worker
        except ToolchainCrashed as error:
            self.close()
            first = error.failed.splitlines()[0]
            raise UnusableInput(
                f"{path} could not be decoded: {first}",
                expected="a file that the decoder survives within its limits of time and memory",
                fix="convert it with a tool you trust, and report the file if it is sound",
            ) from error


def _check_pixels(path: Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise UnusableInput(
            f"{path} has {width} x {height} pixels, {width * height / 1e6:.1f} megapixels",
            expected=f"at most {max_pixels / 1e6:g} megapixels",
            fix="scale it down, or raise the limit with --set max_megapixels=N",
        )


def opencv() -> Any:
    """Import OpenCV. Raises ``NotAvailable`` with the line that installs it."""
    try:
        import cv2
    except ImportError as error:
        raise NotAvailable(
            f"pictures and video need OpenCV, which cannot be imported: {error}",
            expected="the package opencv-python-headless",
            fix="pip install 'avsdk[media]'",
        ) from error
    return cv2


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise NotAvailable(
            f"sound of a video needs PyAV, which cannot be imported: {error}",
            expected="the package av",
            fix="pip install 'avsdk[video]'",
        ) from error
    return av
