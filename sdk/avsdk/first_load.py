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
from avsdk.bands import BandedGraph
from avsdk.bundle import MANIFEST, Bundle, open_bundle
from avsdk.errors import AvsdkError
from avsdk.files import cache_home, write_atomic
from avsdk.worker import call_in_child

_TIMEOUT_S = 300.0


def require_loads(bundle: Bundle, threads: int, *, stages: bool = False) -> None:
    """Open every artifact in a child, the stages too where they may be needed, unless that went well before.

    Raises what loading raises, and ``ToolchainCrashed`` where native code died or hung.
    """
    marker = _marker(bundle, stages)
    if marker.exists():
        return
    name = f"first load of {bundle.path.name}"
    path = str(bundle.path.resolve())
    call_in_child(open_all, name=name, timeout_s=_TIMEOUT_S, path=path, threads=threads, stages=stages)
    with contextlib.suppress(AvsdkError, OSError):  # without a cache the next run tries again
        write_atomic(marker, "")


def open_all(path: str, threads: int, stages: bool = False) -> None:
    """In the child: open and close each artifact, and each stage where ``stages`` asks for it."""
    for loaded in open_bundle(Path(path)).load_graphs(threads).values():
        for artifact in loaded.artifacts:
            loaded.session_for(artifact.shapes or loaded.graph.default_sizes())
            loaded.close()
        if stages and loaded.stages is not None:
            BandedGraph(loaded.root, loaded.stages, loaded.artifacts[0], threads).open_all()


def _marker(bundle: Bundle, stages: bool) -> Path:
    content = (bundle.path / MANIFEST).read_bytes()
    versions = json.dumps([__version__, dict(host.probe().libraries)], sort_keys=True)
    name = hashlib.sha256(content + versions.encode()).hexdigest()
    return cache_home() / "loaded" / (f"{name}-stages" if stages else name)
