"""Keeps the runtimes from reporting to their vendors. Called before a runtime is imported, here and in every child."""

from __future__ import annotations

import os
import sys
from typing import Any


def refuse_telemetry() -> None:
    """Switch off what ONNX Runtime and OpenVINO report.

    ONNX Runtime reports since 1.29 unless the variable is set before its import. ``import openvino`` alone looks its
    vendor's host up when the package openvino_telemetry, which pip installs with it, can be imported: None in
    ``sys.modules`` makes that an ImportError, for which OpenVINO has a stub that sends nothing.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    modules: dict[str, Any] = sys.modules
    modules["openvino_telemetry"] = None
