"""The only discovery code: what the installed packages offer under the entry-point groups ``avsdk.*``.

| group          | what an entry gives                                                            |
|----------------|--------------------------------------------------------------------------------|
| commands       | a Typer app whose commands join ``avsdk``                                      |
| sources        | ``avsdk.source.ModelSource``: MODEL -> ONNX files, spec, programs, golden data |
| engines        | ``avsdk.session.Session``: runs an artifact                                    |
| compilers      | ``avsdk_targets.compiler.Compiler``: ONNX -> artifact                          |
| families       | ``avsdk_train.family.Family``                                                  |
| predictors     | ``avsdk.predictor.Predictor``: media in, answer out                            |
| metrics        | ``avsdk.metric.MetricFunction``: (family, predictor, data folder) -> metric    |
| timers         | ``avsdk.timing.Timer``: (bundles, budget in s) -> how fast each is             |
| distributors   | map a function over files                                                      |
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from avsdk.errors import NotAvailable, UnknownName

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_EXTRAS = {"sources": "pip install 'avsdk[export]'", "families": "pip install 'avsdk[train]'"}
"""The extra that serves a whole group; elsewhere a plug-in's extra has its name."""


def list_names(group: str) -> tuple[str, ...]:
    """The names that the group offers, sorted; nothing is imported."""
    return tuple(sorted(_entries(group)))


def offered(*groups: str) -> dict[str, dict[str, str]]:
    """Every name of the groups and what it stands for, as ``module:attribute``: what ``lend`` takes."""
    return {group: {name: point.value for name, point in _entries(group).items()} for group in groups}


def lend(entries: Mapping[str, Mapping[str, str]]) -> None:
    """Know these names too. A toolchain's Python runs avsdk from its source, where no installed package offers any."""
    from importlib.metadata import EntryPoint

    for group, names in entries.items():
        known = _entries(group)
        for name, value in names.items():
            known.setdefault(name, EntryPoint(name, value, f"avsdk.{group}"))


def load(group: str, name: str) -> Any:
    """Import what ``name`` stands for; an unknown name gets the nearest known one."""
    entries = _entries(group)
    if name not in entries:
        raise UnknownName.among(group.rstrip("s"), name, entries)
    try:
        return entries[name].load()
    except ImportError as error:
        raise NotAvailable(
            f"the {group.rstrip('s')} {name!r} cannot be imported: {error}",
            expected=f"the packages that {entries[name].value.split(':')[0]} needs",
            fix=_EXTRAS.get(group, "pip install 'avsdk[{}]'").format(name.replace("_", "-")),
        ) from error


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    from importlib import metadata  # takes longer to import than the rest of avsdk

    found: Any = metadata.entry_points()
    if sys.version_info >= (3, 10):
        points = found.select(group=f"avsdk.{group}")
    else:
        points = found.get(f"avsdk.{group}", ())
    return {point.name: point for point in points}
