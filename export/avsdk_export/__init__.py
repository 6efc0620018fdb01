"""PyTorch to ONNX: graphs, exported programs and golden data. Needs Python 3.11 and the extra ``export``."""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036  (the distribution serves 3.9; this package says what it needs)
    needed = f"avsdk_export needs Python 3.11 or newer; this is {sys.version.split()[0]}"
    raise ImportError(needed)
