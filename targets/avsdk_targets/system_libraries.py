"""Libraries of the system that a toolchain needs and no package index brings: there or not, and how to get them."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence

from avsdk.errors import NotAvailable

_SONAME = re.compile(r"(?P<name>.+)\.so\.(?P<version>[0-9.]+)")


def require_libraries(libraries: Sequence[str], *, needed_by: str) -> None:
    """Raise ``NotAvailable`` with the line that installs the first library that the loader does not find."""
    for library in libraries:
        reason = _why_not_loaded(library)
        if reason:
            raise NotAvailable(
                f"{needed_by} needs the system library {library}: {reason}",
                expected=f"{library} where the system's loader looks for libraries",
                fix=f"apt-get install {debian_package(library)}",
            )


def debian_package(library: str) -> str:
    """The package of a library by Debian's rule: name, then version, a dash where two digits would meet."""
    match = _SONAME.fullmatch(library)
    if match is None:
        return library
    name = match["name"].lower().replace("_", "-")
    return f"{name}{'-' if name[-1].isdigit() else ''}{match['version']}"


def _why_not_loaded(library: str) -> str:
    """The loader's own words, empty where it loads: a file of that name may be of another architecture."""
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return str(error).partition(": ")[2] or str(error)
    return ""
