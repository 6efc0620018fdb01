"""What a tuner has measured, kept in a file, so that the next run goes on where this one was stopped.

A file serves one machine, one set of versions and one model; what was measured under others stays beside it, unread.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import avsdk
from avsdk import host
from avsdk.errors import Refused
from avsdk.files import write_atomic
from avsdk.schema import SCHEMA, check_schema, decode, encode
from avsdk_bench.tune_choice import Tuned

_PREFIX = "measured-"


@dataclass(frozen=True)
class _Content:
    identity: Mapping[str, Any]
    entries: tuple[Tuned, ...]


class Ledger:
    """Entries by the key of their configuration; every ``add`` writes the file anew, whole or not at all."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], notice: Callable[[str], None]) -> None:
        self._identity = encode(identity)
        digest = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode()).hexdigest()[:12]
        self.path = folder / f"{_PREFIX}{digest}.json"
        self.entries: dict[str, Tuned] = {}
        if self.path.exists():
            self.entries = {item.configuration.key: item for item in _read(self.path).entries}
            notice(f"{len(self.entries)} configurations are known from before: {self.path}")
        elif any(folder.glob(f"{_PREFIX}*.json")):
            notice(f"what was measured into {folder} before was of another model, machine or version: it is not used")

    def add(self, items: Iterable[Tuned]) -> None:
        """Keep these; a configuration that is known already gets its newest figures."""
        self.entries.update({item.configuration.key: item for item in items})
        document = {"schema": SCHEMA, "identity": self._identity, "entries": encode(list(self.entries.values()))}
        write_atomic(self.path, json.dumps(document, allow_nan=False) + "\n")


def identity_of(model: str, fingerprint: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What figures depend on beside their configuration: the model, this machine, the versions, how it is measured."""
    here = host.probe()
    return {
        "model": model, "fingerprint": fingerprint, "asked": dict(asked), "avsdk": avsdk.__version__, "cpu": here.cpu,
        "isa": list(here.isa), "cores": here.cores, "cgroup_cpus": here.cgroup_cpus, "memory_mb": here.memory_mb,
        "accelerators": list(here.accelerators), "libraries": dict(here.libraries), "python": here.python,
        "system": here.system,
    }  # fmt: skip


def _read(path: Path) -> _Content:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path} is not JSON: {error}", expected="what avsdk tune kept", fix=f"remove {path}") from error
    return decode(_Content, check_schema(document, where=str(path)), where=str(path))
