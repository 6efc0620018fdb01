"""Arrays from ``.npz`` files of strangers: the archive is looked through before anything is unpacked.

An ``.npz`` is a zip of ``.npy`` members. A small one may claim to unpack to petabytes, in the zip's directory or in an
array's header, or hold pickled objects that run code when they are loaded; none of that gets as far as an allocation.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from avsdk.errors import AvsdkError

MAX_BYTES = 1 << 30
_MAX_MEMBERS = 4096
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_arrays(
    path: Path, wrong: Callable[[str], AvsdkError], *, max_bytes: int = MAX_BYTES
) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` by name; ``wrong(reason)`` makes the error for a file that is not acceptable."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_directory(members, max_bytes, wrong)
            return {info.filename[: -len(".npy")]: _read_member(archive, info, wrong) for info in members}
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, NotImplementedError) as error:
        raise wrong(str(error) or type(error).__name__) from error


def _check_directory(members: list[zipfile.ZipInfo], max_bytes: int, wrong: Callable[[str], AvsdkError]) -> None:
    names = [info.filename for info in members]
    total = sum(info.file_size for info in members)
    if len(names) > _MAX_MEMBERS:
        raise wrong(f"it has {len(names)} members, at most {_MAX_MEMBERS} are read")
    if len(set(names)) < len(names):
        raise wrong("it has two members of one name")
    strange = [name for name in names if not name.endswith(".npy")]
    if strange:
        raise wrong(f"its member {strange[0]!r} is no array")
    if total > max_bytes:
        raise wrong(f"it unpacks to {total} bytes, at most {max_bytes} are read")


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, wrong: Callable[[str], AvsdkError]) -> NDArray[Any]:
    with archive.open(info) as stream:
        version = npy.read_magic(stream)
        if version not in _HEADERS:
            raise wrong(f"its member {info.filename!r} has format {version}")
        shape, fortran, dtype = _HEADERS[version](stream)
        if dtype.hasobject:
            raise wrong(f"its member {info.filename!r} holds pickled objects")
        size = math.prod(shape) * dtype.itemsize
        if any(length < 0 for length in shape) or size != info.file_size - stream.tell():
            raise wrong(f"its member {info.filename!r} claims the shape {list(shape)} and has another length")
        data = bytearray(stream.read(size))
        if len(data) != size:
            raise wrong(f"its member {info.filename!r} is cut short")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
