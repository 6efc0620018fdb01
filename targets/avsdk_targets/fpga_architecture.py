"""What an FPGA AI Suite ``.arch`` file says that decides accuracy and speed, from such a file or a device's profile.

The format, by the FPGA AI Suite Handbook 2025.3 (6.2 Architecture File Breakdown): ``name : value`` lines, and groups
``name { ... }``. Legal values of the global parameters: IP Reference Manual 2024.2, 2.5.2.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avsdk.errors import ModelRefused, UsageError
from avsdk_targets.block_floating_point import BlockFormat, load_format

_MAX_BYTES = 64 << 10
_MAX_DEPTH = 8
_TOKEN = re.compile(r"#[^\n]*|'[^'\n]*'|\"[^\"\n]*\"|[{}:]|[^\s{}:#'\"]+|\S")
_C_VECTORS = (4, 8, 16, 32, 64)
_FAMILY = "A10"
ASSUMED_FMAX_MHZ = 265.0
"""What Intel's own estimator assumes for Arria 10 (IP Reference Manual 2024.1, 2.2 Model Performance)."""
_FILTER_MAX = 14
"""The default of ``filter_size_width_max`` and ``filter_size_height_max``."""


@dataclass(frozen=True)
class Architecture:
    """``k_vector`` filters times ``c_vector`` channels times ``num_lanes`` places are multiplied in one clock.

    ``file``: the .arch file's path, or its name among the suite's examples. ``filter_max``: (height, width).
    ``has``: the modules and activations that the file enables; None where only a profile is known, which says nothing
    of them.
    """

    file: str
    arch_precision: str
    k_vector: int
    c_vector: int
    num_lanes: int = 1
    fmax_mhz: float = ASSUMED_FMAX_MHZ
    filter_max: tuple[int, int] = (_FILTER_MAX, _FILTER_MAX)
    has: frozenset[str] | None = None

    @property
    def block_format(self) -> BlockFormat:
        """How it multiplies."""
        return load_format(self.arch_precision)

    @property
    def peak_gflops(self) -> float:
        """2 x k_vector x c_vector x num_lanes x clock."""
        return 2 * self.k_vector * self.c_vector * self.num_lanes * self.fmax_mhz / 1000

    @property
    def march(self) -> str:
        """The value of ``dla_compiler --march``."""
        return self.file if "/" in self.file else f"$COREDLA_ROOT/example_architectures/{self.file}.arch"

    def lacks(self, *modules: str) -> bool:
        """Whether the file is known and enables none of the modules."""
        return self.has is not None and not self.has & set(modules)


def architecture_for(options: Mapping[str, Any], precision: str) -> Architecture:
    """The user's file (setting ``arch``) where one is given, else the profile's example for this precision."""
    if options.get("arch"):
        found = architecture_from_file(Path(str(options["arch"])), float(options.get("fmax_mhz", ASSUMED_FMAX_MHZ)))
        if found.block_format != load_format(precision):
            raise UsageError(
                f"{options['arch']} has arch_precision {found.arch_precision}, and {precision} was asked for",
                expected="the same of both",
                fix=f"--precision {found.arch_precision.lower()}, or another .arch file",
            )
        return found
    known = {**options, **options.get(precision, {})}
    return Architecture(
        file=str(known["architecture"]),
        arch_precision=precision.upper(),
        k_vector=int(known["k_vector"]),
        c_vector=int(known["c_vector"]),
        num_lanes=int(known.get("num_lanes", 1)),
        fmax_mhz=float(known.get("fmax_mhz", ASSUMED_FMAX_MHZ)),
    )


def architecture_from_file(file: Path, fmax_mhz: float = ASSUMED_FMAX_MHZ) -> Architecture:
    """Read a .arch file. Raises ``UsageError`` where there is none, ``ModelRefused`` for one that makes no sense."""
    if not file.is_file():
        raise UsageError(f"{file} is no file", expected="an .arch file", fix="--set openvino_fpga.arch=FILE")
    if file.stat().st_size > _MAX_BYTES:
        raise ModelRefused(f"{file} has {file.stat().st_size} bytes", expected=f"an .arch file, at most {_MAX_BYTES}")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelRefused(f"{file} is no text: {error.reason}", expected="an .arch file") from error
    tokens = [token for token in _TOKEN.findall(text) if not token.startswith("#")]
    has = _enabled(tokens)
    content = _group(tokens, file, depth=0)
    if tokens:
        raise ModelRefused(f"{file} has a brace '}}' too many", expected="NAME : VALUE lines and NAME { ... } groups")
    return _checked(content, has, file, fmax_mhz)


def _enabled(tokens: Sequence[str]) -> frozenset[str]:
    """The groups, the switches that are on, and every value: a module is a group, or named in one, as softmax is."""
    found = set()
    for name, mark, value in zip(tokens, tokens[1:], [*tokens[2:], ""], strict=False):
        if mark == "{" or (mark == ":" and value == "true"):
            found.add(name)
        elif mark == ":":
            found.add(value.strip("'\"").lower())
    return frozenset(found)


def _checked(content: Mapping[str, Any], has: frozenset[str], file: Path, fmax_mhz: float) -> Architecture:
    family, precision = content.get("family"), content.get("arch_precision")
    if family != _FAMILY:
        raise ModelRefused(
            f"{file} is for the family {family!r}", expected=f"family : {_FAMILY!r}", fix="take one of the A10 examples"
        )
    k_vector, c_vector = _number(content, "k_vector", file), _number(content, "c_vector", file)
    if c_vector not in _C_VECTORS or not 4 <= k_vector <= 128 or k_vector % c_vector:
        raise ModelRefused(
            f"{file} has k_vector {k_vector} and c_vector {c_vector}",
            expected=f"c_vector one of {', '.join(map(str, _C_VECTORS))}; k_vector a multiple of it, 4 to 128",
        )
    lanes = _number(content, "num_lanes", file, 1)
    if lanes < 1:
        raise ModelRefused(f"{file} has num_lanes {lanes}", expected="num_lanes : 1 or more")
    load_format(str(precision))
    return Architecture(
        file=str(file.resolve()),
        arch_precision=str(precision),
        k_vector=k_vector,
        c_vector=c_vector,
        num_lanes=lanes,
        fmax_mhz=fmax_mhz,
        filter_max=(
            _number(content, "filter_size_height_max", file, _FILTER_MAX),
            _number(content, "filter_size_width_max", file, _FILTER_MAX),
        ),
        has=has,
    )


def _group(tokens: list[str], file: Path, depth: int) -> dict[str, Any]:
    """The content of one group; takes its tokens, its closing brace included, off the front."""
    if depth > _MAX_DEPTH:
        raise ModelRefused(f"{file} nests groups deeper than {_MAX_DEPTH}", expected="an .arch file")
    found: dict[str, Any] = {}
    while tokens and tokens[0] != "}":
        name = tokens.pop(0)
        mark = tokens.pop(0) if tokens else "the end"
        if mark == "{":
            found[name] = _group(tokens, file, depth + 1)
            if not tokens:
                raise ModelRefused(f"the group {name!r} of {file} is not closed", expected="a closing brace")
            tokens.pop(0)
        elif mark == ":" and tokens and tokens[0] not in {"{", "}", ":"}:
            found[name] = tokens.pop(0).strip("'\"")
        else:
            raise ModelRefused(
                f"{file} has {mark!r} after {name!r}", expected="NAME : VALUE lines and NAME { ... } groups"
            )
    return found


def _number(content: Mapping[str, Any], name: str, file: Path, default: int | None = None) -> int:
    value = content.get(name, default)
    if isinstance(value, str) and re.fullmatch("[0-9]{1,6}", value):
        return int(value)
    if isinstance(value, int):
        return value
    raise ModelRefused(f"{file} has {name} {value!r}", expected=f"{name} : a whole number")
