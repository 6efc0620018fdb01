"""Golden files: samples of inputs, and the outputs that the fp32 reference gave for them.

A ``.npz`` holds ``in.<i>.<tensor>`` and ``out.<i>.<tensor>`` per sample. The file named ``pipeline`` holds media and
answers, ``in.<i>.media`` and ``out.<i>.answer``, made by the reference through the same pre- and post-processing.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import BundleRefused
from avsdk.files import atomic_file

PIPELINE = "pipeline"
"""The golden file of the whole way from media to answer."""

Array = NDArray[Any]
Sample = tuple[dict[str, Array], dict[str, Array]]
"""Inputs and outputs, by tensor name."""


def read_golden(path: Path) -> list[Sample]:
    """Every sample of a golden file. Raises ``BundleRefused`` for a file that is none."""
    samples: dict[int, Sample] = {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            for key in stored.files:
                side, index, name = key.split(".", 2)
                samples.setdefault(int(index), ({}, {}))[side == "out"][name] = stored[key]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BundleRefused(
            f"{path.name} holds no golden samples: {error}", expected="in.<i>.<tensor> and out.<i>.<tensor>"
        ) from error
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
