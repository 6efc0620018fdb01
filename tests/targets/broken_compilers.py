"""Compilers that go wrong, each in one way; their ``build`` functions run in a real child process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from avsdk_targets.compiler import Compiler
from avsdk_targets.compilers.openvino import OpenVinoCompiler
from avsdk_targets.compilers.openvino import build as openvino_build
from avsdk_targets.toolchain import PackageNeed


def die_by_signal(request: dict[str, Any]) -> dict[str, Any]:
    """Write a little, say something, and die as a converter with a bug does."""
    (Path(request["out"]) / "half.bin").write_bytes(b"half")
    sys.stderr.write("converting layer 7\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def build_damaged(request: dict[str, Any]) -> dict[str, Any]:
    """Compile properly, then turn the weights of the largest constant around: it loads and runs, with other numbers."""
    import re

    import numpy as np

    answer = openvino_build(request)
    graph, file = (Path(request["out"]) / name for name in answer["files"])
    constants = re.findall(r'element_type="f32" shape="[^"]*" offset="(\d+)" size="(\d+)"', graph.read_text())
    offset, size = max(((int(a), int(b)) for a, b in constants), key=lambda item: item[1])
    data = bytearray(file.read_bytes())
    weights = np.frombuffer(data, np.float32, size // 4, offset)
    data[offset : offset + size] = weights[::-1].tobytes()
    file.write_bytes(data)
    return answer


class CrashingCompiler(OpenVinoCompiler):
    """Dies by SIGSEGV in the middle of its work."""

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return die_by_signal


class DamagingCompiler(OpenVinoCompiler):
    """Reports success on an artifact whose numbers are wrong."""

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return build_damaged


class AbsentCompiler(Compiler):
    """Needs a toolchain that nobody installed."""

    engine = "openvino"
    package = PackageNeed("no_such_package", "no-such-package", "1.0")
    toolchain = "litert"
    onnx_limits = OpenVinoCompiler.onnx_limits
    precisions = ("fp32",)

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return die_by_signal
