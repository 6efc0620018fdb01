"""How long the four exports take together, and how long the same again takes, answered from the build cache."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from figures import Figure, Section, at_most, avsdk_command, run_timed

from avsdk.files import cache_home

TARGETS = "onnxruntime,openvino,litert,rtx-4090"
FIRST_S = 60.0
AGAIN_S = 2.0


def measured(model: str, work: Path) -> Section:
    """Export with an empty build cache and the toolchains that are installed, then once more."""
    home = work / "home"
    home.mkdir()
    (home / "toolchains").symlink_to((cache_home() / "toolchains").resolve(), target_is_directory=True)
    words = ["export", model, "--target", TARGETS, "--out", str(work / "four"), "--json"]
    first = run_timed([*avsdk_command(), *words], work / "export-first.log", home)
    again = run_timed([*avsdk_command(), *words], work / "export-again.log", home)
    bundles = json.loads(first.output)["bundles"]
    cached = sum(bool(item["cached"]) for item in json.loads(again.output)["bundles"])
    each = tuple(Figure(f"of which {item['target']}", f"{item['seconds']:.1f} s") for item in bundles)
    return Section(
        "Export",
        "Wall time of the whole command, the build cache empty at first and the toolchains installed; one run each.",
        (shlex.join(["avsdk", *words[:-2], "four"]),),
        (
            at_most(f"{len(bundles)} exports ({TARGETS})", f"{first.seconds:.1f} s", first.seconds, FIRST_S, "s"),
            *each,
            at_most(
                f"the same again, {cached} of them from the cache",
                f"{again.seconds:.2f} s",
                again.seconds,
                AGAIN_S,
                "s",
            ),
        ),
    )
