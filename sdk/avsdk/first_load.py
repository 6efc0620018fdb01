"""The first load of a bundle on this machine happens in a child process, which a bad artifact may take down.

A hash shows that a file is the one its manifest names, not that a runtime survives it. Once it did, a marker in the
user's cache says so for this manifest and these versions of the runtimes, and later loads go straight ahead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from avsdk import __version__, host
from avsdk.bundle import MANIFEST, Bundle, open_bundle
from avsdk.errors import AvsdkError
from avsdk.files import cache_home, write_atomic
from avsdk.worker import call_in_child

_TIMEOUT_S = 300.0


def require_loads(bundle: Bundle, threads: int) -> None:
    """Open every artifact in a child, unless that went well before.

    Raises what loading raises, and ``ToolchainCrashed`` where native code died or hung.
    """
    marker = _marker(bundle)
    if marker.exists():
        return
    name = f"first load of {bundle.path.name}"
    call_in_child(open_all, name=name, timeout_s=_TIMEOUT_S, path=str(bundle.path.resolve()), threads=threads)
    with contextlib.suppress(AvsdkError, OSError):  # without a cache the next run tries again
        write_atomic(marker, "")


def open_all(path: str, threads: int) -> None:
    """In the child: open and close each artifact."""
    for loaded in open_bundle(Path(path)).load_graphs(threads).values():
        for artifact in loaded.artifacts:
            loaded.session_for(artifact.shapes or loaded.graph.default_sizes())
            loaded.close()


def _marker(bundle: Bundle) -> Path:
    content = (bundle.path / MANIFEST).read_bytes()
    versions = json.dumps([__version__, dict(host.probe().libraries)], sort_keys=True)
    return cache_home() / "loaded" / hashlib.sha256(content + versions.encode()).hexdigest()
