"""Golden files: samples of inputs, and the outputs that the fp32 reference gave for them.

A ``.npz`` holds ``in.<i>.<tensor>`` and ``out.<i>.<tensor>`` per sample. The file named ``pipeline`` holds media and
answers, ``in.<i>.media`` and ``out.<i>.answer``, made by the reference through the same pre- and post-processing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.arrays import read_arrays
from avsdk.errors import BundleRefused
from avsdk.files import atomic_file

PIPELINE = "pipeline"
"""The golden file of the whole way from media to answer."""

_KEY = re.compile(r"(?P<side>in|out)\.(?P<index>[0-9]{1,6})\.(?P<name>.+)")

Array = NDArray[Any]
Sample = tuple[dict[str, Array], dict[str, Array]]
"""Inputs and outputs, by tensor name."""


def read_golden(path: Path) -> list[Sample]:
    """Every sample of a golden file. Raises ``BundleRefused`` for a file that is none."""

    def wrong(reason: str) -> BundleRefused:
        return BundleRefused(
            f"{path.name} holds no golden samples: {reason}",
            expected="an .npz of in.<i>.<tensor> and out.<i>.<tensor>",
            fix="export the bundle again",
        )

    samples: dict[int, Sample] = {}
    for key, array in read_arrays(path, wrong).items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise wrong(f"it has the array {key!r}")
        samples.setdefault(int(match["index"]), ({}, {}))[match["side"] == "out"][match["name"]] = array
    return [samples[index] for index in sorted(samples)]


def write_golden(path: Path, samples: Sequence[tuple[Mapping[str, Array], Mapping[str, Array]]]) -> None:
    """Write the samples; the same samples give the same bytes."""
    arrays: dict[str, Any] = {
        f"in.{index}.{name}": array for index, (feeds, _) in enumerate(samples) for name, array in feeds.items()
    }
    for index, (_, outputs) in enumerate(samples):
        arrays.update({f"out.{index}.{name}": array for name, array in outputs.items()})
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
