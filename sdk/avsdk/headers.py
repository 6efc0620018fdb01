"""What a media file says of itself, read by our own few lines before any native decoder sees it.

Only kinds that stand here are ever decoded: a playlist or a script that names other files, which FFmpeg would follow,
is no kind. The size comes from the header, so that a picture of 20000 x 20000 pixels is refused without being decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from avsdk.errors import UnusableInput

_HEAD_BYTES = 64
_TS_PACKET_BYTES = 188
_MPEG_TAIL_BYTES = 4 << 20
_PACK = b"\0\0\1\xba"
_MPEG_END = 0xB9
_BMP_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)
_ALL_PHOTOS = "a PNG, JPEG, WebP, BMP, GIF or TIFF picture"
_ALL_VIDEOS = "an MP4, MOV, MKV, WebM, AVI, MPEG, FLV, WMV or Ogg video"


@dataclass(frozen=True)
class ImageHeader:
    """The kind and the stored size in pixels of a picture, before its EXIF orientation is applied.

    ``missing`` says what a truncated file lacks, and is empty for a whole one: decoders may fill the rest with grey.
    """

    kind: str
    width: int
    height: int
    missing: str = ""


class _NoSizeError(ValueError):
    """The header holds no size."""


def media_kind(path: Path) -> str:
    """``image``, ``video`` or empty for neither. Raises ``UnusableInput`` for what is missing, empty or no file."""
    head = _head(path, "a picture or a video")
    return "image" if _image_kind(head) else "video" if _video_kind(head) else ""


def image_header(path: Path) -> ImageHeader:
    """Kind and size of a picture. Raises ``UnusableInput`` for what is empty, no picture, or ends within its header."""
    kind = _image_kind(_head(path, _ALL_PHOTOS))
    if not kind:
        raise UnusableInput(f"{path} is not a picture", expected=_ALL_PHOTOS, fix="convert it first")
    data = path.read_bytes()
    try:
        width, height = _SIZE_READERS[kind](data)
        missing = _ENDS[kind](data) if kind in _ENDS else ""
    except (struct.error, IndexError, ValueError) as error:
        raise truncated(path, f"its {kind.upper()} header ends early or is damaged") from error
    if width < 1 or height < 1:
        raise UnusableInput(f"{path} says that it has {width} x {height} pixels", expected="at least 1 x 1")
    return ImageHeader(kind, width, height, missing)


def video_kind(path: Path) -> str:
    """The container of a video. Raises ``UnusableInput`` for what is missing, empty or no video."""
    kind = _video_kind(_head(path, _ALL_VIDEOS))
    if not kind:
        raise UnusableInput(f"{path} is not a video", expected=_ALL_VIDEOS, fix="convert it first")
    return kind


def video_missing(path: Path) -> str:
    """What a truncated MPEG program stream lacks; empty for a whole one and for other kinds, which have an index.

    Such a stream says nowhere how long it is, so the packets after its last pack header are followed to the end.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        if stream.read(len(_PACK)) != _PACK:
            return ""
        stream.seek(max(0, size - _MPEG_TAIL_BYTES))
        data = stream.read(_MPEG_TAIL_BYTES)
    offset = max(0, data.rfind(_PACK))
    while data.startswith(_PACK[:3], offset) and offset <= len(data):
        head = data[offset : offset + 14].ljust(14, b"\0")
        if data[offset + 3 : offset + 4] == _PACK[3:]:
            offset += 14 + (head[13] & 7) if head[4] >> 6 == 1 else 12
        elif head[3] == _MPEG_END:
            return ""
        else:
            offset += 6 + int.from_bytes(head[4:6], "big")
    return f"its last packet ends {offset - len(data)} bytes after the file" if offset > len(data) else ""


def truncated(path: Path, detail: str) -> UnusableInput:
    """The error for a file that ends before its content does."""
    return UnusableInput(f"{path} is truncated: {detail}", expected="a whole file", fix="get or copy it again")


def _head(path: Path, expected: str) -> bytes:
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "does not exist"
        raise UnusableInput(f"{path} {found}", expected=expected)
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES + _TS_PACKET_BYTES)
    except OSError as error:
        raise UnusableInput(f"{path} cannot be read: {error.strerror}", expected="a readable file") from error
    if not head:
        raise UnusableInput(f"{path} is empty (0 bytes)", expected=expected, fix="get or copy it again")
    return head


def _image_kind(head: bytes) -> str:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return "bmp"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if head[:4] in (b"II*\0", b"MM\0*"):
        return "tiff"
    return ""


def _video_kind(head: bytes) -> str:
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mp4"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if head[:3] == b"\0\0\x01" and head[3:4] in (b"\xba", b"\xb3", b"\xb0"):
        return "mpeg"
    if head[:1] == b"G" and head[_TS_PACKET_BYTES : _TS_PACKET_BYTES + 1] == b"G":
        return "mpegts"
    if head[:4] == b"FLV\x01":
        return "flv"
    if head[:4] == b"OggS":
        return "ogg"
    if head.startswith(b"0&\xb2u\x8ef\xcf\x11"):
        return "asf"
    return ""


def _png_size(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        raise ValueError(data[12:16])
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _png_end(data: bytes) -> str:
    offset = 8
    while offset + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, offset)
        if name == b"IEND":
            return ""
        offset += 12 + length
    return "the IEND chunk is missing"


def _jpeg_segments(data: bytes) -> list[tuple[int, int]]:
    """The (marker, offset of its payload's length) of every segment up to and including the start of the scan."""
    found = []
    offset = 2
    while offset + 4 <= len(data):
        marker = data[offset + 1]
        if data[offset] != 0xFF or marker == 0xFF:  # a stray or a fill byte, which decoders skip too
            offset += 1
            continue
        found.append((marker, offset + 2))
        if marker == 0xDA:
            return found
        alone = marker == 0x01 or 0xD0 <= marker <= 0xD9
        offset += 2 if alone else 2 + struct.unpack_from(">H", data, offset + 2)[0]
    raise ValueError(offset)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    for marker, offset in _jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, offset + 3)
            return width, height
    raise _NoSizeError


def _jpeg_end(data: bytes) -> str:
    scan = _jpeg_segments(data)[-1][1]
    return "" if data.find(b"\xff\xd9", scan) >= 0 else "the end marker is missing"


def _webp_end(data: bytes) -> str:
    whole = struct.unpack_from("<I", data, 4)[0] + 8
    return "" if whole <= len(data) else f"{len(data)} of {whole} bytes are there"


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(_exactly(data[27:30], 3), "little") + 1
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError(kind)


def _bmp_size(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return width, height
    width, height = struct.unpack_from("<ii", data, 18)
    return width, abs(height)


def _gif_size(data: bytes) -> tuple[int, int]:
    """The larger of the screen and the first picture on it: a decoder allocates both."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    offset = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)
    while data[offset] == 0x21:  # an extension: blocks until an empty one
        offset += 2
        while data[offset]:
            offset += data[offset] + 1
        offset += 1
    if data[offset] == 0x2C:
        across, down = struct.unpack_from("<HH", data, offset + 5)
        return max(width, across), max(height, down)
    return width, height


def _tiff_size(data: bytes) -> tuple[int, int]:
    order = "<" if data[:2] == b"II" else ">"
    offset = struct.unpack_from(order + "I", data, 4)[0]
    count = struct.unpack_from(order + "H", data, offset)[0]
    sizes = {}
    for index in range(count):
        entry = offset + 2 + 12 * index
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (256, 257):
            sizes[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)[0]
    if len(sizes) < 2:
        raise _NoSizeError
    return sizes[256], sizes[257]


def _exactly(data: bytes, count: int) -> bytes:
    if len(data) < count:
        raise ValueError(count)
    return data


_SIZE_READERS: dict[str, Callable[[bytes], tuple[int, int]]] = {
    "png": _png_size,
    "jpeg": _jpeg_size,
    "webp": _webp_size,
    "bmp": _bmp_size,
    "gif": _gif_size,
    "tiff": _tiff_size,
}
_ENDS: dict[str, Callable[[bytes], str]] = {"png": _png_end, "jpeg": _jpeg_end, "webp": _webp_end}
