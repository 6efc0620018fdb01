"""Pre- and post-processing as data: the steps of a manifest, looked up by name and run in order.

A step is untrusted, like the manifest it stands in: an operation that does not exist, a parameter that it does not take
or a value out of its range is refused when the pipeline is built, before any media is read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from numpy.typing import NDArray

from avsdk.errors import BundleRefused
from avsdk.spec import Step

Array = NDArray[Any]


@dataclass
class Trace:
    """What the steps before inference leave for those after it: the input's size, and whether it was one picture."""

    height: int = 0
    width: int = 0
    single: bool = True


Operation = Callable[..., Array]
"""``operation(value, trace, **params) -> value``."""


class Pipeline:
    """The steps of one direction, checked and bound to their parameters.

    ``checks`` say, for an operation with parameters, what is expected of them; empty where they fit.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        operations: Mapping[str, Operation],
        checks: Mapping[str, Callable[..., str]],
        *,
        where: str,
    ) -> None:
        self._steps = []
        for index, step in enumerate(steps):
            operation = _looked_up(step, operations, f"{where}[{index}]")
            problem = checks[step.op](**step.params) if step.op in checks else ""
            if problem:
                raise BundleRefused(f"{where}[{index}]: {step.op} got {dict(step.params)}", expected=problem)
            self._steps.append(partial(operation, **step.params))

    def __call__(self, value: Array, trace: Trace) -> Array:
        """Run all steps on ``value``."""
        for step in self._steps:
            value = step(value, trace)
        return value


def image_pipelines(preprocess: Sequence[Step], postprocess: Sequence[Step]) -> tuple[Pipeline, Pipeline]:
    """Both directions of a model that takes pictures."""
    from avsdk.ops.image import CHECKS, OPERATIONS

    before = Pipeline(preprocess, OPERATIONS, CHECKS, where="preprocess")
    return before, Pipeline(postprocess, OPERATIONS, CHECKS, where="postprocess")


def _looked_up(step: Step, operations: Mapping[str, Operation], where: str) -> Operation:
    if step.op not in operations:
        raise BundleRefused(
            f"{where} asks for the operation {step.op!r}",
            expected=f"one of: {', '.join(sorted(operations))}",
            fix="use the avsdk version that wrote the bundle, or export it again",
        )
    operation = operations[step.op]
    try:
        inspect.signature(operation).bind(None, None, **step.params)
    except TypeError as error:
        raise BundleRefused(
            f"{where}: {step.op} does not take {dict(step.params)}: {error}",
            expected=f"its parameters: {', '.join(list(inspect.signature(operation).parameters)[2:]) or 'none'}",
        ) from error
    return operation
