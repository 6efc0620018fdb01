"""What ``--set`` says to an export: which settings are an engine's, which the source's, and which nobody reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from avsdk import plugins
from avsdk.errors import UnknownName, UsageError
from avsdk_targets.target import Target


def split_settings(settings: Mapping[str, str]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """``ENGINE.NAME=VALUE`` by engine, and the settings that are the source's.

    Raises ``UnknownName`` for a misspelt one.
    """
    engines: dict[str, dict[str, str]] = {}
    others: dict[str, str] = {}
    for name, value in settings.items():
        engine, dot, setting = name.partition(".")
        if not dot or engine not in plugins.list_names("compilers"):
            others[name] = value
            continue
        known: Mapping[str, str] = plugins.load("compilers", engine).settings
        if setting not in known:
            raise UnknownName.among(f"setting of {engine}", setting, known)
        engines.setdefault(engine, {})[setting] = value
    return engines, others


def require_read(settings: Mapping[str, str], targets: Sequence[Target]) -> None:
    """Raise ``UsageError`` for the setting of an engine that none of the targets has: nothing would read it."""
    serving = {candidate.engine for target in targets for candidate in target.candidates}
    for engine, chosen in split_settings(settings)[0].items():
        if serving and engine not in serving:
            raise UsageError(
                f"nothing reads {engine}.{next(iter(chosen))}: {', '.join(target.name for target in targets)} is built "
                f"with {', '.join(sorted(serving))}",
                expected="settings of an engine of the targets",
                fix=f"leave out --set {engine}.{next(iter(chosen))}, or add --target {engine}",
            )


def unread(settings: Mapping[str, Mapping[str, str]], engines: Sequence[str]) -> tuple[str, ...]:
    """A line for each setting of an engine that was not taken; ``engines`` were."""
    return tuple(
        f"{engine}.{name} was not used: {', '.join(dict.fromkeys(engines))} is what compiled"
        for engine, chosen in settings.items()
        for name in chosen
        if engine not in engines
    )


def require_known(settings: Mapping[str, str], known: Sequence[str], model: str) -> None:
    """A misspelt setting must not pass unnoticed. A source names those that it reads in its attribute ``settings``."""
    for name in settings:
        if not known:
            raise UsageError(f"{model} is exported without settings, not with {name!r}", fix=f"leave out --set {name}")
        if name not in known:
            raise UnknownName.among("setting", name, known)
