"""The operations that make answers of tensors: probabilities, the best labels, a map of classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from avsdk.errors import BundleRefused
from avsdk.ops import Array, Operation, Trace, is_count

_MOST_ANSWERS = 1000


def softmax(tensor: Array, trace: Trace) -> Array:
    """Probabilities along axis 1, computed in float64 and returned as float32."""
    del trace
    wide = tensor.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=min(1, wide.ndim - 1), keepdims=True))
    return np.asarray(powers / powers.sum(axis=min(1, wide.ndim - 1), keepdims=True), dtype=np.float32)


def sigmoid(tensor: Array, trace: Trace) -> Array:
    """Each value as a probability of its own, for labels that do not exclude one another."""
    del trace
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(tensor.astype(np.float64), -500, 500))), dtype=np.float32)


def top_k(tensor: Array, trace: Trace, *, k: int = 5, labels: Sequence[str] = ()) -> list[Any]:
    """The ``k`` largest of (batch, classes): index, label (its number where there are none) and score, best first.

    One list where one picture or sound came in, else one per item. ``labels`` names an asset with a label per line.
    """
    scores = tensor.reshape(tensor.shape[0], -1) if tensor.ndim > 1 else tensor[np.newaxis]
    if labels and len(labels) != scores.shape[1]:
        raise BundleRefused(
            f"the labels are {len(labels)} lines, the model gives {scores.shape[1]} scores",
            expected="one label per score",
            fix="export the model again with a labels file that fits",
        )
    found = []
    for row in scores:
        best = np.argsort(-row, kind="stable")[:k]
        found.append(
            [
                {"index": int(index), "label": labels[index] if labels else str(index), "score": float(row[index])}
                for index in best
            ]
        )
    return found[0] if trace.single and len(found) == 1 else found


def _check_top_k(k: object = 5, labels: object = "") -> str:
    fits = is_count(k, 1, _MOST_ANSWERS) and isinstance(labels, str)
    return "" if fits else f"k 1..{_MOST_ANSWERS}, and labels the name of an asset"


OPERATIONS: Mapping[str, Operation] = {operation.__name__: operation for operation in (softmax, sigmoid, top_k)}
CHECKS: Mapping[str, Callable[..., str]] = {"top_k": _check_top_k}
