"""avsdk: run audio, video and image models on the hardware they were compiled for.

The device half: numpy and the standard library, plus one runtime per engine, imported when a session opens.

>>> import avsdk
>>> predictor = avsdk.load("wave-openvino-cpu-bf16")        # doctest: +SKIP
>>> styled = predictor(photo)                               # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from avsdk.errors import AvsdkError

if TYPE_CHECKING:
    from avsdk.bundle import Bundle, open_bundle
    from avsdk.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["AvsdkError", "Bundle", "Predictor", "__version__", "load", "open_bundle"]


def load(path: str | Path, *, threads: int | None = None, **settings: str) -> Predictor:
    """Open a bundle and return its predictor: media in, answer out.

    ``threads`` defaults to the cores this process may use (affinity and control group). ``settings`` are those of
    ``avsdk run --set``. Raises ``BundleRefused`` for a damaged bundle, ``NotAvailable`` where the runtime is absent.
    """
    from avsdk.bundle import open_bundle
    from avsdk.first_load import require_loads
    from avsdk.host import default_threads
    from avsdk.predictor import predictor_for

    bundle = open_bundle(Path(path))
    predictor = predictor_for(bundle, threads=threads, settings=settings)
    require_loads(bundle, threads or default_threads(), stages="max_memory_mb" in settings)
    return predictor


def __getattr__(name: str) -> object:
    """Import the heavier names of the public API when they are first used."""
    if name in {"Bundle", "open_bundle"}:
        from avsdk import bundle

        return getattr(bundle, name)
    if name == "Predictor":
        from avsdk.predictor import Predictor

        return Predictor
    raise AttributeError(name)
