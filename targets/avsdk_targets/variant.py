"""A bundle with other settings of its sessions: what an export with them makes, without compiling again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avsdk.bundle import Bundle, with_session
from avsdk.files import typed_write_errors
from avsdk_targets.assembly import proven
from avsdk_targets.bundle_files import publish
from avsdk_targets.cache import copy_content, work_folder
from avsdk_targets.plan import Plan


def publish_variant(bundle: Bundle, settings: Mapping[str, Any], plan: Plan, out: Path) -> Bundle:
    """Record the settings in a copy of the bundle, verify it again as they may change what executes, and publish it.

    ``settings`` are those of ``Compiler.session_options``. Raises what a failed parity raises.
    """
    with work_folder() as work, typed_write_errors(work):
        folder = work / "variant"
        folder.mkdir()
        copy_content(bundle.path, folder)
        return publish(proven(folder, with_session(bundle, settings).manifest, plan), out)
