"""Truncated MPEG program streams, which have no index that would tell; other kinds are tested with ``media``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avsdk.errors import UnusableInput
from avsdk.headers import video_missing
from avsdk.media import VideoReader

av = pytest.importorskip("av")


def stream(path: Path, container: str, codec: str) -> bytes:
    """A program stream of 30 frames of noise."""
    random = np.random.default_rng(3)
    with av.open(str(path), "w", format=container) as out:
        track = out.add_stream(codec, rate=25)
        track.width, track.height, track.pix_fmt = 128, 96, "yuv420p"
        for _ in range(30):
            frame = av.VideoFrame.from_ndarray(random.integers(0, 256, (96, 128, 3), np.uint8), "rgb24")
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize(("container", "codec"), [("mpeg", "mpeg1video"), ("vob", "mpeg2video")])
def test_a_cut_program_stream_is_seen(tmp_path: Path, container: str, codec: str) -> None:
    path = tmp_path / "moving.mpg"
    whole = stream(path, container, codec)
    assert video_missing(path) == ""
    for pack in (5, 17, 29):
        path.write_bytes(whole[: 2048 * pack + 1000])  # a pack has 2048 bytes
        with pytest.raises(UnusableInput, match="is truncated: its last packet ends"):
            VideoReader(path)


def test_padding_after_the_last_packet_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "moving.mpg"
    path.write_bytes(stream(path, "mpeg", "mpeg1video").rstrip(b"\xb9").rstrip(b"\0\1") + b"\xff" * 1000)
    assert video_missing(path) == ""


@pytest.mark.parametrize("cut", range(4, 40))
def test_the_first_bytes_alone_never_raise(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.mpg"
    path.write_bytes(stream(path, "mpeg", "mpeg1video")[:cut])
    video_missing(path)


def test_other_kinds_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x.avi").write_bytes(b"RIFF" + bytes(100))
    assert video_missing(tmp_path / "x.avi") == ""
