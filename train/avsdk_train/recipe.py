"""How to train: one TOML file, parsed once into a frozen dataclass; no inheritance between files.

    schema = 1
    family = "style_transfer"
    steps = 3500
    ...
    [settings]            # the family's own dataclass
    style_weight = 0.01

``--set key=value`` reaches the keys of both tables by their bare names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from avsdk.errors import Refused, UnknownName, UsageError
from avsdk.schema import SCHEMA, check_schema, decode, encode

SETTINGS = "settings"
_PLACE_ONLY = frozenset({
    "checkpoint_every", "preview_every", "log_every", "threads", "device", "features", "keep", "best_by",
    "explode_factor", "trackers", "sharding", "workers",
    "max_corrupt",
})  # fmt: skip
"""Keys that may change between a run and its resumption: they say where and how often, never what is computed."""
_ADDED_LATER = frozenset({"ema_decay", "final"})
"""Keys that count only where they are not at their defaults, so that runs from before them can go on."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training but the data and the code.

    ``init`` names weights to start from: a safetensors file, a run folder or ``zoo:NAME``. ``final_learning_rate`` is a
    share of ``learning_rate``, reached at the last step of the cosine. ``threads = 0`` takes the cores one may use.
    ``batch_size`` is that of each process. With ``ema_decay`` the moving average of the weights is what ships.
    ``best_by`` names the loss whose mean between two checkpoints decides which of them is kept as the best;
    ``final`` says whether the last weights or the best ones ship, ``keep`` whether all checkpoints stay or the last
    two. A loss beyond ``explode_factor`` times the median of those before ends the run (0: never). With ``sharding`` at
    ``full`` several processes share the weights and the optimiser's state out. ``trackers`` takes ``mlflow``.
    ``workers`` processes read the data (0: a thread); up to ``max_corrupt`` unreadable items are named and replaced by
    others.
    """

    family: str
    settings: Any
    variant: str = "base"
    init: str = ""
    seed: int = 0
    steps: int = 1000
    batch_size: int = 4
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    final_learning_rate: float = 0.05
    clip_norm: float = 0.0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    device: Literal["auto", "cpu", "cuda", "tpu"] = "auto"
    threads: int = 0
    checkpoint_every: int = 250
    preview_every: int = 250
    log_every: int = 1
    ema_decay: float = 0.0
    best_by: str = "loss"
    final: Literal["last", "best"] = "last"
    keep: Literal["last", "all"] = "last"
    explode_factor: float = 1000.0
    sharding: Literal["none", "full"] = "none"
    trackers: tuple[Literal["mlflow"], ...] = ()
    workers: int = 0
    max_corrupt: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that no training can run with."""
        for key in ("steps", "batch_size", "checkpoint_every", "preview_every", "log_every"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "more than 0")
        require(0 <= self.final_learning_rate <= 1, "final_learning_rate", self.final_learning_rate, "a share, 0..1")
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        require(self.threads >= 0, "threads", self.threads, "0 (all cores one may use) or more")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "0 (no average) or less than 1, as 0.999")
        require(
            self.explode_factor == 0 or self.explode_factor > 1, "explode_factor", self.explode_factor,
            "0 (never) or more than 1",
        )  # fmt: skip
        require(self.workers >= 0, "workers", self.workers, "0 (a thread) or more")
        require(self.max_corrupt >= 0, "max_corrupt", self.max_corrupt, "0 or more")
        require(self.clip_norm >= 0, "clip_norm", self.clip_norm, "0 (no clipping) or more")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, a pure function of it, so that a resumed run needs no scheduler state."""
        if self.schedule == "constant":
            return self.learning_rate
        fall = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * (self.final_learning_rate + (1 - self.final_learning_rate) * fall)

    def computed_keys(self) -> dict[str, Any]:
        """The keys that decide the numbers, flat."""
        general = {
            field.name: value
            for field, value in zip(dataclasses.fields(self), encode(self).values(), strict=True)
            if field.name not in _ADDED_LATER or value != field.default
        }
        flat = {**general, **encode(self.settings)}
        return {key: value for key, value in sorted(flat.items()) if key not in _PLACE_ONLY and key != SETTINGS}

    def sha256(self) -> str:
        """Hash of ``computed_keys``: two runs with the same one (and the same data) give the same losses."""
        return hashlib.sha256(json.dumps(self.computed_keys(), sort_keys=True).encode()).hexdigest()


def require(holds: bool, key: str, value: object, expected: str) -> None:
    """Raise ``UsageError`` unless the recipe's ``key`` is as expected."""
    if not holds:
        raise UsageError(f"the recipe's {key} is {value!r}", expected=expected, fix=f"--set {key}=VALUE")


def read_recipe_document(path: Path) -> dict[str, Any]:
    """Read the TOML of a recipe; the keys are not checked yet, since the family decides some of them."""
    if not path.is_file():
        raise UsageError(f"the recipe {str(path)!r} is not a file", expected="a TOML file", fix="--recipe FILE.toml")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}", expected="a recipe in TOML") from error
    with _as_usage_errors():
        return check_schema(document, where=str(path))


def recipe_from_document(
    document: Mapping[str, Any], settings_kind: type, *, where: str, overrides: Sequence[str] = ()
) -> Recipe:
    """Build the recipe from a document without its ``schema`` key, with ``--set`` overrides on top."""
    general, settings = dict(document), document.get(SETTINGS, {})
    if not isinstance(settings, Mapping):
        raise UsageError(f"{where}: [settings] is {settings!r}", expected="a table")
    settings = dict(settings)
    _refuse_unknown(general, Recipe, where)
    _refuse_unknown(settings, settings_kind, f"{where} [settings]")
    for override in overrides:
        key, value = _parse_override(override, settings_kind)
        (settings if key in _hints(settings_kind) else general)[key] = value
    with _as_usage_errors():
        general[SETTINGS] = decode(settings_kind, settings, where=f"{where} [settings]")
        return decode(Recipe, general, where=where)


def toml_from_recipe(recipe: Recipe) -> str:
    """The recipe as a complete TOML file: every key written out, so that later defaults change nothing."""
    general = {key: value for key, value in encode(recipe).items() if key != SETTINGS}
    lines = [f"schema = {SCHEMA}", *_toml_lines(general), "", f"[{SETTINGS}]", *_toml_lines(encode(recipe.settings))]
    return "\n".join(lines) + "\n"


def changed_keys(old: Recipe, new: Recipe) -> list[str]:
    """Names of the keys that decide the numbers and differ."""
    before, after = old.computed_keys(), new.computed_keys()
    return sorted(key for key in {*before, *after} if before.get(key) != after.get(key))


def _toml_lines(table: Mapping[str, Any]) -> list[str]:
    # JSON's strings, numbers, booleans and lists of them are TOML's.
    return [f"{key} = {json.dumps(value)}" for key, value in table.items() if value is not None]


def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.name != SETTINGS}


def _refuse_unknown(table: Mapping[str, Any], kind: type, where: str) -> None:
    known = {*_hints(kind), *((SETTINGS,) if kind is Recipe else ())}
    for key in table:
        if key not in known:
            raise UnknownName.among(f"key in {where}:", key, known)


def _parse_override(override: str, settings_kind: type) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {override!r} has no '='", expected="--set key=value")
    hints = {**_hints(Recipe), **_hints(settings_kind)}
    if key not in hints or key == "family":
        raise UnknownName.among("recipe key", key, set(hints) - {"family"})
    return key, value_from_text(key, text, hints[key])


def value_from_text(key: str, text: str, kind: Any) -> Any:
    """Read a ``--set`` value as the type of its key; lists are separated by commas."""
    if typing.get_origin(kind) is tuple:
        return [
            value_from_text(key, part.strip(), typing.get_args(kind)[0]) for part in text.split(",") if part.strip()
        ]
    if typing.get_origin(kind) is Literal:
        if text not in typing.get_args(kind):
            raise UsageError(f"--set {key}={text}", expected=f"one of: {', '.join(typing.get_args(kind))}")
        return text
    if kind is bool:
        if text not in {"true", "false"}:
            raise UsageError(f"--set {key}={text}", expected="true or false")
        return text == "true"
    if kind in (int, float):
        try:
            number = cast("int | float", kind(text))
        except ValueError as error:
            wanted = "a whole number" if kind is int else "a number"
            raise UsageError(f"--set {key}={text}", expected=wanted) from error
        if not math.isfinite(number):
            raise UsageError(f"--set {key}={text}", expected="a finite number")
        return number
    return text


class _as_usage_errors:  # noqa: N801 - reads as a statement: with _as_usage_errors():
    """A recipe is the user's own input, not a stranger's file: what is wrong with it exits with 2."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        if isinstance(error, Refused):
            raise UsageError(error.failed, expected=error.expected, fix=error.fix) from error
