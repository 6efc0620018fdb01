"""Pre- and post-processing as data: the steps of a manifest, looked up by name and run in order.

A step is untrusted, like the manifest it stands in: an operation that does not exist, a parameter that it does not take
or a value out of its range is refused when the pipeline is built, before any media is read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from avsdk.errors import BundleRefused
from avsdk.spec import Step

Array = NDArray[Any]


@dataclass
class Trace:
    """What the steps before inference leave for those after it.

    ``height``, ``width``: the input's size; ``single``: whether it was one picture, not frames; ``channels``: the
    tensor's axis of colours; ``samples``: the length of a sound.
    """

    height: int = 0
    width: int = 0
    single: bool = True
    channels: int = 1
    samples: int = 0


Operation = Callable[..., Any]
"""``operation(value, trace, **params) -> value``: an array but for the last, which may make an answer of it."""

_LABELS = "labels"
"""The parameter of any operation that names a text file among the assets, one label per line."""
_MAX_LABELS_BYTES = 4 << 20


class Pipeline:
    """The steps of one direction, checked and bound to their parameters.

    ``checks`` say, for an operation with parameters, what is expected of them; empty where they fit. ``assets`` are the
    files that a parameter may name; None where they are not at hand, and labels are left out.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        operations: Mapping[str, Operation],
        checks: Mapping[str, Callable[..., str]],
        *,
        where: str,
        assets: Mapping[str, Path] | None = None,
    ) -> None:
        self._steps = []
        for index, step in enumerate(steps):
            operation = _looked_up(step, operations, f"{where}[{index}]")
            problem = checks[step.op](**step.params) if step.op in checks else ""
            if problem:
                raise BundleRefused(f"{where}[{index}]: {step.op} got {dict(step.params)}", expected=problem)
            params = dict(step.params)
            if _LABELS in params:
                params[_LABELS] = () if assets is None else _labels(params[_LABELS], assets, f"{where}[{index}]")
            self._steps.append(partial(operation, **params))

    def __call__(self, value: Array, trace: Trace) -> Any:
        """Run all steps on ``value``."""
        for step in self._steps:
            value = step(value, trace)
        return value


def image_pipelines(
    preprocess: Sequence[Step], postprocess: Sequence[Step], assets: Mapping[str, Path] | None = None
) -> tuple[Pipeline, Pipeline]:
    """Both directions of a model that takes pictures."""
    return pipelines_for("image", preprocess, postprocess, assets)


def pipelines_for(
    media: str, preprocess: Sequence[Step], postprocess: Sequence[Step], assets: Mapping[str, Path] | None = None
) -> tuple[Pipeline, Pipeline]:
    """Both directions of a model that takes ``media``: the operations of ``audio``, of ``tensor``, else of pictures."""
    operations, checks = _tables(media)
    return (
        Pipeline(preprocess, operations, checks, where="preprocess", assets=assets),
        Pipeline(postprocess, operations, checks, where="postprocess", assets=assets),
    )


def known_operations(media: str) -> Mapping[str, Operation]:
    """The operations by name that steps around a model for ``media`` may use."""
    return _tables(media)[0]


def _tables(media: str) -> tuple[Mapping[str, Operation], Mapping[str, Callable[..., str]]]:
    from avsdk.ops import answers

    if media == "tensor":
        return {}, {}
    if media == "audio":
        from avsdk.ops import audio, speech

        return (
            {**audio.OPERATIONS, **speech.OPERATIONS, **answers.OPERATIONS},
            {**audio.CHECKS, **speech.CHECKS, **answers.CHECKS},
        )
    from avsdk.ops import image, picture

    return (
        {**image.OPERATIONS, **picture.OPERATIONS, **answers.OPERATIONS},
        {**image.CHECKS, **picture.CHECKS, **answers.CHECKS},
    )


def asset_files(folder: Path, assets: Mapping[str, str]) -> dict[str, Path]:
    """The files of a spec's assets by name; ``folder`` is the bundle's room of them."""
    return {name: folder.parent / relative for name, relative in assets.items()}


def is_number(value: object, least: float, most: float) -> bool:
    """Whether a parameter is a number within a range; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def is_count(value: object, least: int, most: int) -> bool:
    """Whether a parameter is a whole number within a range."""
    return isinstance(value, int) and is_number(value, least, most)


def _labels(name: object, assets: Mapping[str, Path], where: str) -> tuple[str, ...]:
    """The lines of the asset that a step names."""
    if not isinstance(name, str) or name not in assets:
        raise BundleRefused(
            f"{where} names the asset {name!r}",
            expected=f"one of the assets: {', '.join(sorted(assets)) or 'there are none'}",
            fix='list the file under [assets], as "labels.txt" = "labels.txt"',
        )
    try:
        with assets[name].open(encoding="utf-8") as stream:
            text = stream.read(_MAX_LABELS_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise BundleRefused(f"{where}: the asset {name!r} cannot be read: {error}", expected="UTF-8 text") from error
    if not text.strip() or len(text) > _MAX_LABELS_BYTES:
        raise BundleRefused(f"{where}: the asset {name!r} has {len(text)} characters", expected="one label per line")
    return tuple(text.splitlines())


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
