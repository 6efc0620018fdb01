"""Folders of training files. Decoded pictures are kept in memory up to a limit, never on disk."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import UnusableInput, UsageError
from avsdk.headers import media_kind
from avsdk.media import PHOTO_SUFFIXES, read_image, resized

Image = NDArray[np.uint8]
"""RGB, shape (height, width, 3)."""

_SUFFIXES = frozenset(PHOTO_SUFFIXES)
_MEMORY_BYTES = 512 << 20
_readers = 1


def share_memory(readers: int) -> None:
    """Let this process keep its part of the decoded pictures only: it is one of several that read."""
    global _readers
    _readers = readers


class ImageFolder:
    """Every picture beneath some folders, in a fixed order, as RGB.

    Raises ``UsageError`` where there is none and ``UnusableInput``, naming the file, for one that is no picture.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.files = tuple(file for folder in folders for file in _pictures_beneath(folder))
        self._sha256 = _listing_sha256(self.files, folders)
        self._kept: OrderedDict[int, Image] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.files)

    def fingerprint(self) -> str:
        """Hash of the files' relative names and sizes: another listing is another training set."""
        return self._sha256

    def __getstate__(self) -> Mapping[str, Any]:
        """For a worker process: what it reads from, without what was read."""
        return {"files": self.files, "_sha256": self._sha256}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Begin with nothing read."""
        self.__dict__.update(state)
        self._kept, self._kept_bytes, self._lock = OrderedDict(), 0, threading.Lock()

    def read(self, index: int) -> Image:
        """One picture; the array is shared, so do not write to it."""
        with self._lock:
            if index in self._kept:
                self._kept.move_to_end(index)
                return self._kept[index]
        image = read_image(self.files[index])
        with self._lock:
            if index not in self._kept:
                self._kept[index] = image
                self._kept_bytes += image.nbytes
            while self._kept_bytes > _MEMORY_BYTES // _readers and len(self._kept) > 1:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return image


def resized_short_side(image: Image, short_px: int) -> Image:
    """The picture at the size whose shorter side is ``short_px``."""
    height, width = image.shape[:2]
    factor = short_px / min(height, width)
    return resized(image, max(short_px, round(height * factor)), max(short_px, round(width * factor)))


def random_crop(image: Image, crop_px: int, random: np.random.Generator) -> Image:
    """A square of ``crop_px`` out of the picture, whose shorter side is first set to between one and two crops.

    Mirrored every other time.
    """
    sized = resized_short_side(image, int(random.integers(crop_px, 2 * crop_px, endpoint=True)))
    height, width = sized.shape[:2]
    top = int(random.integers(0, height - crop_px, endpoint=True))
    left = int(random.integers(0, width - crop_px, endpoint=True))
    crop = sized[top : top + crop_px, left : left + crop_px]
    return crop[:, ::-1] if random.random() < 0.5 else crop


def _pictures_beneath(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(
            f"the data folder {str(folder)!r} is not a folder", expected="a folder of pictures", fix="--data DIR"
        )
    found = sorted(
        (file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file()),
        key=lambda file: file.relative_to(folder).as_posix(),
    )
    if not found:
        raise UsageError(
            f"no picture beneath {folder}", expected=f"files named {' '.join(sorted(_SUFFIXES))}", fix="--data DIR"
        )
    for file in found:
        _check_kind(file)
    return found


def _check_kind(path: Path) -> None:
    """Find empty and mislabelled files when the run starts, not hours later; a few bytes of each are read."""
    if media_kind(path) != "image":
        raise UnusableInput(
            f"{path} is not a picture, whatever its name says",
            expected="JPEG, PNG, BMP, WebP or TIFF",
            fix="remove or replace it",
        )


def _listing_sha256(files: Sequence[Path], folders: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        root = next(folder for folder in folders if file.is_relative_to(folder))
        digest.update(f"{file.relative_to(root).as_posix()}\0{file.stat().st_size}\n".encode())
    return digest.hexdigest()
