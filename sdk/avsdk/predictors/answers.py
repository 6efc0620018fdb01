"""What a predictor's answer is written as: a picture, a sound, labels as JSON, or arrays as an .npz."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avsdk import media
from avsdk.files import atomic_file, write_atomic
from avsdk.session import Array
from avsdk.spec import Step

LABELS = (".json",)
ARRAYS = (".npz",)
_NUMBERS = ("softmax", "sigmoid", "class_map", "normalise", "denormalise", "overlap_add", "unbatch", "batch", "frames")
"""Operations after which an answer is numbers still."""


def answer_suffixes(postprocess: Sequence[Step], media_suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """The kinds of file that the answer can be written as, by the last step; the first is the usual one."""
    last = postprocess[-1].op if postprocess else ""
    if last == "top_k":
        return LABELS
    return ARRAYS if not last or last in _NUMBERS else media_suffixes


def write_answer(path: Path, answer: Any, suffixes: tuple[str, ...]) -> bool:
    """Write labels or arrays, whole or not at all; False where the answer is media, which is the caller's to write."""
    media.check_suffix(path, suffixes, "this answer")
    if suffixes == LABELS:
        write_atomic(path, json.dumps(answer, indent=1, ensure_ascii=False) + "\n")
        return True
    if suffixes == ARRAYS:
        write_arrays(path, answer if isinstance(answer, Mapping) else {"answer": answer})
        return True
    return False


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """An .npz of the arrays, whole or not at all."""
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
