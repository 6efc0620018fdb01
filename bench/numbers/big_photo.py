"""A photograph of 3840x2160 within 3 GB: peak memory and time in bands, and how far it is from the untiled result."""

from __future__ import annotations

import json
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from figures import Figure, Section, at_most, avsdk_command, run_timed, verdict

from avsdk.media import read_image, resized, write_image

HEIGHT, WIDTH = 2160, 3840
LIMIT_MB = 3000
STEPS = 1
SHARE = 1e-4


def measured(bundle: Path, work: Path, height: int = HEIGHT, width: int = WIDTH, limit_mb: int = LIMIT_MB) -> Section:
    """Run the same photograph with the limit and without, each in a process of its own."""
    photo = work / "photo.png"
    write_image(photo, resized(read_image(_photograph()), height, width))
    words = ["run", str(bundle), str(photo), "--out", str(work / "bands.png"), "--json"]
    banded = run_timed([*avsdk_command(), *words, "--max-memory-mb", str(limit_mb)], work / "bands.log")
    words[4] = str(work / "whole.png")
    whole = run_timed([*avsdk_command(), *words], work / "whole.log")
    said = json.loads(banded.output)
    memory = said["files"][0]["memory"]
    difference = np.abs(read_image(work / "bands.png").astype(np.int16) - read_image(work / "whole.png"))
    share = float((difference > 0).mean())
    executed = said["graphs"][0]
    return Section(
        "A large photograph",
        f"{width}x{height}, {executed['engine']}, {executed['effective_precision']}; peak RSS of the process that does "
        f"the work, one run each. Done as: {memory['way']}, {min(memory['rows'] or [height])} to "
        f"{max(memory['rows'] or [height])} rows.",
        (
            shlex.join(
                ["avsdk", "run", bundle.name, "photo.png", "--out", "styled.png", "--max-memory-mb", str(limit_mb)]
            ),
        ),
        (
            at_most("peak memory with the limit", f"{banded.peak_rss_mb:.0f} MB", banded.peak_rss_mb, limit_mb, "MB"),
            Figure("reckoned beforehand", f"{memory['expected_mb']} MB"),
            Figure("peak memory without", f"{whole.peak_rss_mb:.0f} MB"),
            Figure("time with the limit, start included", f"{banded.seconds:.1f} s"),
            Figure("time without", f"{whole.seconds:.1f} s"),
            at_most("largest difference", f"{difference.max()} of 255", float(difference.max()), STEPS, "of 255"),
            Figure("values that differ", f"{100 * share:.4f} %", f"at most {100 * SHARE:g} %", verdict(share <= SHARE)),
        ),
    )


def _photograph() -> Path:
    """One of the photographs that scikit-learn ships."""
    found = find_spec("sklearn")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "datasets" / "images" / "china.jpg"
