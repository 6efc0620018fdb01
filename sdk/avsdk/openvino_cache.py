"""The compiled models that OpenVINO keeps where ``--set openvino.cache=yes`` asks for it, each with its SHA-256.

OpenVINO compares a kept model's header only: with one byte flipped in the middle it loads, says LOADED_FROM_CACHE, and
gives other numbers (tried with 2026.4). So what is not as it was written is removed before the plugin sees it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from avsdk import host
from avsdk.files import cache_home, sha256_file, typed_write_errors, write_atomic

_BLOBS = "*.blob"
_RECORD = ".sha256"


class KeptModels:
    """The folder for one artifact on this processor with this OpenVINO: ``$AVSDK_HOME/openvino-cache/<hash>``.

    ``removed``: how many kept models were damaged, or had no record since a process ended while it wrote them.
    """

    def __init__(self, file: Path, version: str, words: Mapping[str, object]) -> None:
        machine = host.probe()
        key = json.dumps([version, machine.cpu, machine.isa, words, sha256_file(file)], sort_keys=True, default=str)
        self.folder = cache_home() / "openvino-cache" / hashlib.sha256(key.encode()).hexdigest()[:24]
        with typed_write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)  # refused where it is another user's, whose models are not ours to load
            damaged = [blob for blob in self.folder.glob(_BLOBS) if not _is_whole(blob)]
            for blob in damaged:
                blob.unlink(missing_ok=True)
                blob.with_suffix(_RECORD).unlink(missing_ok=True)
        self.removed = len(damaged)

    def record(self) -> None:
        """Note what the plugin has written; called once it has compiled."""
        for blob in self.folder.glob(_BLOBS):
            if not blob.with_suffix(_RECORD).is_file():
                with contextlib.suppress(FileNotFoundError):  # another process removed it meanwhile
                    write_atomic(blob.with_suffix(_RECORD), sha256_file(blob))


def _is_whole(blob: Path) -> bool:
    try:
        return blob.with_suffix(_RECORD).read_text(encoding="utf-8") == sha256_file(blob)
    except (OSError, UnicodeDecodeError):
        return False
