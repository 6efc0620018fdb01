"""Training: families, recipes, the loop, metrics and the zoo. Needs Python 3.11 and the extra ``train``."""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - a device's Python may be older, and should hear why
    message = f"avsdk_train needs Python 3.11 or newer; this is {sys.version.split()[0]}"
    raise ImportError(message)
