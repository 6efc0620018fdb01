from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from avsdk import media
from avsdk.errors import AvsdkError, DiskFull, NotAvailable, UnusableInput, UsageError
from avsdk.headers import image_header, media_kind, video_kind

KINDS = ["png", "jpg", "webp", "bmp", "gif", "tiff"]


@pytest.fixture
def picture() -> media.Array:
    """A smooth picture, 40 high and 60 wide, whose red, green and blue differ."""
    down, across = np.mgrid[0:40, 0:60]
    return np.stack([down * 6, across * 4, 255 - down * 3 - across], axis=-1).clip(0, 255).astype(np.uint8)


def saved(path: Path, picture: media.Array) -> Path:
    assert cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return path


def write_video(path: Path, frames: int = 30, *, fps: float = 25.0, size: tuple[int, int] = (48, 64)) -> Path:
    with media.video_writer(path, fps, *size) as writer:
        for index in range(frames):
            writer.write(np.full((1, *size, 3), index * 8 % 256, np.uint8))
        writer.finish()
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_read_image_gives_rgb_of_every_kind(tmp_path: Path, picture: media.Array, kind: str) -> None:
    path = saved(tmp_path / f"a.{kind}", picture)
    found = media.read_image(path)
    assert found.shape == (40, 60, 3)
    assert found.dtype == np.uint8
    tolerance = {"gif": 25, "jpg": 3, "webp": 3}.get(kind, 0)  # on average: a GIF has 256 colours
    assert np.abs(found.astype(int) - picture).mean() <= tolerance
    header = image_header(path)
    assert (header.width, header.height, header.missing) == (60, 40, "")
    assert media_kind(path) == "image"


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF segment that says how the camera was held."""
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    payload = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]


def test_read_image_turns_a_photo_upright(tmp_path: Path, picture: media.Array) -> None:
    data = saved(tmp_path / "a.jpg", picture).read_bytes()
    (tmp_path / "b.jpg").write_bytes(with_orientation(data, 6))
    turned = media.read_image(tmp_path / "b.jpg")
    assert turned.shape == (60, 40, 3)
    assert np.abs(turned.astype(int) - np.rot90(media.read_image(tmp_path / "a.jpg"), -1)).max() <= 4


@pytest.mark.parametrize(
    "stored",
    [
        np.full((20, 30), 77, np.uint8),
        np.full((20, 30), 77 * 257, np.uint16),
        np.full((20, 30, 3), 77 * 257, np.uint16),
        np.full((20, 30, 4), [77, 77, 77, 9], np.uint8),
    ],
    ids=["grey", "grey-16-bit", "16-bit", "alpha"],
)
def test_read_image_converts_to_8_bit_rgb(tmp_path: Path, stored: np.ndarray) -> None:
    assert cv2.imwrite(str(tmp_path / "a.png"), stored)
    found = media.read_image(tmp_path / "a.png")
    assert found.shape == (20, 30, 3)
    assert found.dtype == np.uint8
    assert (found == 77).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"hello, this is a text and no picture at all", "is not a picture"),
        (b"\x89PNG\r\n\x1a\n", "is truncated"),
        (b"\xff\xd8\xff\xe0", "is truncated"),
        (b"GIF89a\x01", "is truncated"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "is truncated"),
        (b"BM" + bytes(12) + struct.pack("<I", 40), "is truncated"),
        (b"II*\0\xff\xff\xff\xff", "is truncated"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(17), "says that it has 0 x 0 pixels"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UnusableInput, match=message) as caught:
        media.read_image(path)
    assert "a.png" in caught.value.failed
    assert caught.value.expected


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="does not exist"):
        media.read_image(tmp_path / "none.png")
    with pytest.raises(UnusableInput, match="is a folder"):
        media.read_image(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.95, 0.5, 0.1])
def test_truncated_pictures_are_refused(tmp_path: Path, photograph: Path, kind: str, share: float) -> None:
    whole = saved(tmp_path / f"whole.{kind}", media.read_image(photograph)).read_bytes()
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UnusableInput, match="truncated"):
        media.read_image(path)


def test_a_truncated_jpeg_is_seen_without_the_decoder(tmp_path: Path, photograph: Path) -> None:
    """Older OpenCV fills the rest with grey and says nothing."""
    path = tmp_path / "cut.jpg"
    path.write_bytes(photograph.read_bytes()[:-1000])
    assert "end marker" in image_header(path).missing


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


BOMBS = {
    "png": b"\x89PNG\r\n\x1a\n"
    + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0))
    + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    + png_chunk(b"IEND", b""),
    "jpg": b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, 20000, 20000, 3) + bytes(9)
    + b"\xff\xda\0\x02\xff\xd9",
    "bmp": b"BM" + bytes(8) + struct.pack("<IIiiHH", 54, 40, 20000, -20000, 1, 24) + bytes(24),
    "gif": b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0, 0, 0) + b"," + struct.pack("<HHHHB", 0, 0, 20000, 20000, 0),
    "tiff": b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + struct.pack("<HHII", 256, 4, 1, 20000)
    + struct.pack("<HHII", 257, 4, 1, 20000),
    "webp": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + (19999).to_bytes(3, "little") * 2,
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_20000_x_20000_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def decode() -> None:
        raise AssertionError("the picture reached the decoder")

    monkeypatch.setattr(media, "opencv", decode)
    path = tmp_path / f"bomb.{kind}"
    path.write_bytes(BOMBS[kind])
    with pytest.raises(UnusableInput, match=r"20000 x 20000 pixels, 400.0 megapixels") as caught:
        media.read_image(path)
    assert caught.value.expected == "at most 64 megapixels"
    assert "max_megapixels" in caught.value.fix


def test_the_pixel_limit_can_be_set(tmp_path: Path, picture: media.Array) -> None:
    path = saved(tmp_path / "a.png", picture)
    with pytest.raises(UnusableInput, match="60 x 40"):
        media.read_image(path, max_pixels=2399)
    assert media.read_image(path, max_pixels=2400).shape == (40, 60, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_headers_raise_nothing_else(tmp_path: Path, picture: media.Array, kind: str) -> None:
    whole = saved(tmp_path / f"a.{kind}", picture).read_bytes()
    chance = random.Random(kind)
    path = tmp_path / "damaged"
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole[: chance.choice([len(whole), chance.randrange(len(whole))])])
        for _ in range(chance.randrange(1, 8)):
            if damaged:
                damaged[chance.randrange(min(len(damaged), 200))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            image_header(path)
        except UnusableInput:
            refused += 1
    assert refused


def test_write_image_is_lossless_as_png_and_replaces(tmp_path: Path, picture: media.Array) -> None:
    out = tmp_path / "new" / "a.png"
    media.write_image(out, 255 - picture)
    media.write_image(out, picture)
    assert (media.read_image(out) == picture).all()
    assert [item.name for item in out.parent.iterdir()] == ["a.png"]


def test_write_image_refuses_other_suffixes(tmp_path: Path, picture: media.Array) -> None:
    with pytest.raises(UsageError, match="cannot be written as 'a.xyz'") as caught:
        media.write_image(tmp_path / "a.xyz", picture)
    assert ".png" in caught.value.expected
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("size", "limit"), [((10, 30), 8), ((200, 100), 8)])
def test_resized(picture: media.Array, size: tuple[int, int], limit: int) -> None:
    found = media.resized(picture, *size)
    assert found.shape == (*size, 3)
    assert np.abs(found.mean((0, 1)) - picture.mean((0, 1))).max() < limit
    assert media.resized(np.stack([picture, picture]), *size).shape == (2, *size, 3)


def test_opencv_absent_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(NotAvailable) as caught:
        media.opencv()
    assert caught.value.fix == "pip install 'avsdk[media]'"


# -- the child that decodes --------------------------------------------------------------------------------------------


@pytest.fixture
def decoder() -> Iterator[media.Decoder]:
    made = media.Decoder()
    yield made
    made.close()


def test_the_decoder_gives_the_same_pixels(decoder: media.Decoder, photograph: Path) -> None:
    assert (decoder.image(photograph) == media.read_image(photograph)).all()


def test_the_decoder_survives_its_own_death(decoder: media.Decoder, tmp_path: Path, photograph: Path) -> None:
    decoder.image(photograph)
    assert decoder._worker is not None
    os.kill(decoder._worker.pid, signal.SIGSEGV)
    with pytest.raises(UnusableInput, match="could not be decoded") as caught:
        decoder.image(photograph)
    assert caught.value.exit_code == 2
    assert decoder.image(photograph).shape == (427, 640, 3)


def test_the_decoder_has_a_memory_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "large.png", np.zeros((7000, 9000, 3), np.uint8))
    monkeypatch.setattr(media, "_DECODER_MEMORY_MB", 300)
    made = media.Decoder()
    with pytest.raises(UnusableInput, match="could not be decoded|cannot be decoded"):
        made.image(path)
    made.close()


# -- video -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", media.VIDEO_SUFFIXES)
def test_a_video_comes_back_with_its_frames_rate_and_size(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"a{suffix}", 30, fps=12.5)
    reader = media.VideoReader(path)
    info = reader.info()
    assert (info["height"], info["width"], info["frames"]) == (48, 64, 30)
    assert info["fps"] == pytest.approx(12.5, rel=1e-3)
    levels = []
    while (frames := reader.read(8)) is not None:
        assert frames.shape[1:] == (48, 64, 3)
        levels += [float(frame.mean()) for frame in frames]
    reader.close()
    assert levels == pytest.approx([index * 8 % 256 for index in range(30)], abs=4)


def test_the_decoder_reads_videos_in_batches(decoder: media.Decoder, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 20)
    assert decoder.open_video(path)["frames"] == 20
    assert [len(frames) for frames in decoder.batches(path, 8)] == [8, 8, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"no video, a text", "is not a video"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "is not a video"),
        (b"ffconcat version 1.0\nfile '/etc/hostname'\n", "is not a video"),
        (b"\0\0\0\x18ftypisom" + bytes(500), "cannot be opened"),
        (b"RIFF\xff\0\0\0AVI " + bytes(300), "cannot be opened|truncated"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(UnusableInput, match=message):
        media.VideoReader(path)


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_a_truncated_video_says_how_many_frames_were_read(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)
    with media.video_writer(tmp_path / f"a{suffix}", 25, 48, 64) as writer:
        writer.write(noise)
        writer.finish()
    path = tmp_path / f"cut{suffix}"
    whole = (tmp_path / f"a{suffix}").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    reader = media.VideoReader(path)
    with pytest.raises(UnusableInput, match=r"is truncated: \d+ of 40 frames could be read"):
        while reader.read(8) is not None:
            pass


def test_a_truncated_mp4_has_lost_its_index(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnusableInput, match="truncated before its index"):
        media.VideoReader(tmp_path / "cut.mp4")


def test_a_video_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 2)
    with pytest.raises(UnusableInput, match="64 x 48 pixels"):
        media.VideoReader(path, max_pixels=64 * 48 - 1)


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    out.write_bytes(b"old")

    class StopError(Exception):
        pass

    with pytest.raises(StopError), media.video_writer(out, 25, 48, 64) as writer:
        writer.write(np.zeros((1, 48, 64, 3), np.uint8))
        raise StopError
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("name", ["a.png", "a.txt", "a"])
def test_videos_are_written_under_known_suffixes(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        media.VideoWriter(tmp_path / name, 25, 48, 64)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 kB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"this user cannot mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("odd", [0, 1])
def test_a_disk_that_fills_while_a_video_is_written(small_disk: Path, odd: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 240 + odd, 320 + odd, 3), np.uint8)
    with (
        pytest.raises(DiskFull, match="no space left"),
        media.video_writer(small_disk / "a.mp4", 25, 240 + odd, 320 + odd) as writer,
    ):
        for _ in range(5):
            writer.write(noise)
        writer.finish()
    assert not list(small_disk.iterdir())


def test_a_disk_that_fills_while_a_picture_is_written(small_disk: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    with pytest.raises(DiskFull, match="no space left"):
        media.write_image(small_disk / "a.png", noise)
    assert not list(small_disk.iterdir())


def test_frames_lost_without_a_full_disk_are_no_silent_matter(tmp_path: Path) -> None:
    with (
        pytest.raises(AvsdkError, match="stored 2 of 5 frames"),
        media.video_writer(tmp_path / "a.mp4", 25, 48, 64) as writer,
    ):
        writer.write(np.zeros((2, 48, 64, 3), np.uint8))
        writer.frames = 5
        writer.finish()
    assert not list(tmp_path.iterdir())


# -- sound -------------------------------------------------------------------------------------------------------------


def write_sounding(path: Path, codec: str, rate: int = 16000) -> Path:
    """One second of video with a tone, in the container of the suffix."""
    av = pytest.importorskip("av")
    tone = (np.sin(np.arange(rate) * 2 * np.pi * 440 / rate) * 8000).astype(np.int16)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(codec, rate=rate)
        for index in range(25):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index * 10, np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for start in range(0, rate, 1000):
            piece = av.AudioFrame.from_ndarray(tone[np.newaxis, start : start + 1000], format="s16", layout="mono")
            piece.sample_rate, piece.pts = rate, start
            container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    return path


def sound_of(path: Path) -> tuple[str, list[bytes], float]:
    """Codec, packets and length in seconds of the first sound track."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        packets = [bytes(packet) for packet in container.demux(track) if packet.size]
        length = sum(frame.samples for frame in av.open(str(path)).decode(audio=0)) / track.rate
        return track.codec_context.name, packets, length


def starts_of(path: Path) -> list[float]:
    """Seconds at which the picture and the sound start."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return [
            float(stream.start_time * stream.time_base)
            for stream in (container.streams.video[0], container.streams.audio[0])
        ]


def test_sound_is_copied_packet_by_packet(decoder: media.Decoder, tmp_path: Path) -> None:
    source = write_sounding(tmp_path / "a.mp4", "aac")
    video = write_video(tmp_path / "silent.mp4", 25)
    assert decoder.copy_sound(source, video) == "copied"
    assert sound_of(video)[:2] == sound_of(source)[:2]
    assert media.VideoReader(video).info()["frames"] == 25
    assert starts_of(video) == pytest.approx(starts_of(source), abs=1e-3)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.mp4", "silent.mp4"]


def test_sound_that_does_not_fit_the_container_is_encoded_again(decoder: media.Decoder, tmp_path: Path) -> None:
    source = write_sounding(tmp_path / "a.avi", "adpcm_ms", rate=16000)
    video = write_video(tmp_path / "silent.mp4", 25)
    assert decoder.copy_sound(source, video) == "encoded"
    codec, _, length = sound_of(video)
    assert codec == "aac"
    assert length == pytest.approx(1.0, abs=0.15)


def test_a_video_without_sound_stays_as_it_is(decoder: media.Decoder, tmp_path: Path) -> None:
    video, source = write_video(tmp_path / "a.mp4"), write_video(tmp_path / "b.mp4")
    before = video.read_bytes()
    assert decoder.copy_sound(source, video) == "none"
    assert video.read_bytes() == before


@pytest.mark.shared_data
def test_a_real_recording_keeps_its_sound(decoder: media.Decoder, tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "grid" / "s1" / "bbaf2n.mpg"
    assert video_kind(source) == "mpeg"
    assert decoder.open_video(source) == {"kind": "mpeg", "fps": 25.0, "height": 288, "width": 360, "frames": 75}
    assert sum(len(frames) for frames in decoder.batches(source, 8)) == 75
    video = write_video(tmp_path / "out.mp4", 75)
    assert decoder.copy_sound(source, video) == "copied"
    assert sound_of(video)[2] == pytest.approx(sound_of(source)[2], abs=0.05)


@pytest.mark.parametrize("suffix", media.VIDEO_SUFFIXES)
@pytest.mark.parametrize(("size", "frames", "fps"), [((33, 61), 4, 29.97), ((3, 64), 5, 25.0), ((48, 63), 1, 120.0)])
def test_odd_sizes_are_kept(tmp_path: Path, suffix: str, size: tuple[int, int], frames: int, fps: float) -> None:
    pytest.importorskip("av", reason="pip install 'avsdk[video]'")
    reader = media.VideoReader(write_video(tmp_path / f"a{suffix}", frames, fps=fps, size=size))
    info = reader.info()
    found = reader.read(frames + 1)
    assert (info["height"], info["width"]) == size
    assert info["fps"] == pytest.approx(fps, rel=1e-4)
    assert found is not None
    assert [float(frame.mean()) for frame in found] == pytest.approx([8 * index for index in range(frames)], abs=4)


def test_without_pyav_odd_sizes_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "can_copy_sound", lambda: False)
    info = media.VideoReader(write_video(tmp_path / "a.mp4", 2, size=(33, 61))).info()
    assert (info["height"], info["width"]) == (32, 60)


@pytest.mark.parametrize(("frames", "fps"), [(1, 25.0), (3, 0.5), (2, 240.0)])
def test_short_slow_and_fast_videos(decoder: media.Decoder, tmp_path: Path, frames: int, fps: float) -> None:
    path = write_video(tmp_path / "a.mp4", frames, fps=fps)
    assert decoder.open_video(path)["fps"] == pytest.approx(fps)
    assert sum(len(batch) for batch in decoder.batches(path, 2)) == frames


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), 1e6])
def test_a_rate_that_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fps: float) -> None:
    """OpenCV mends most headers by itself, so the header is made to say so where it is read."""
    path = write_video(tmp_path / "a.mp4", 2)
    read = cv2.VideoCapture

    class Lying:
        def __init__(self, *arguments: object) -> None:
            self._capture = read(*arguments)

        def get(self, prop: int) -> float:
            return fps if prop == cv2.CAP_PROP_FPS else float(self._capture.get(prop))

        def __getattr__(self, name: str) -> object:
            return getattr(self._capture, name)

    monkeypatch.setattr(cv2, "VideoCapture", Lying)
    with pytest.raises(UnusableInput, match="frames per second"):
        media.VideoReader(path)
