"""PyTorch to ONNX: graphs, exported programs, golden and calibration data. Needs Python 3.11 and the extra ``export``."""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):
    needed = f"avsdk_export needs Python 3.11 or newer; this is {sys.version.split()[0]}"
    raise ImportError(needed)
