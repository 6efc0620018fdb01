"""What ``avsdk export --set onnxruntime.NAME=VALUE`` may say of how a session is made, and the reading back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from avsdk.errors import AvsdkError, SilentFallback, UsageError

_SPINNING = "session.intra_op.allow_spinning"


@dataclass(frozen=True)
class Setting:
    """One option of a session. ``values``: text -> ONNX Runtime's own; the first is what stands without a choice."""

    meaning: str
    values: Mapping[str, str]

    @property
    def allowed(self) -> str:
        """The values that it takes, for messages."""
        return f"one of: {', '.join(self.values)}"


_SWITCH = {"yes": "1", "no": "0"}
SETTINGS: Mapping[str, Setting] = {
    "optimisation": Setting(
        "how far the graph is rewritten when it is loaded; all includes layouts that suit this processor",
        {
            "all": "ORT_ENABLE_ALL",
            "extended": "ORT_ENABLE_EXTENDED",
            "basic": "ORT_ENABLE_BASIC",
            "off": "ORT_DISABLE_ALL",
        },
    ),
    "spinning": Setting("threads wait for work awake, which is faster and takes the core from others", _SWITCH),
    "arena": Setting("memory once taken is kept for the next run, which is faster and holds more of it", _SWITCH),
}


def chosen_settings(given: Mapping[str, Any], *, refused: type[AvsdkError] = UsageError) -> dict[str, str]:
    """Those of ``given`` that are settings of a session. Raises ``refused`` for a value that is none."""
    found = {}
    for name, setting in SETTINGS.items():
        if name not in given:
            continue
        if not isinstance(given[name], str) or given[name] not in setting.values:
            raise refused(
                f"onnxruntime.{name} is {given[name]!r}",
                expected=setting.allowed,
                fix=f"--set onnxruntime.{name}={next(iter(setting.values))}",
            )
        found[name] = given[name]
    return found


def configure(runtime: Any, options: Any, settings: Mapping[str, str]) -> None:
    """Write the settings into the ``SessionOptions``, those not given as ONNX Runtime does best by itself."""
    words = _words(settings)
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, words["optimisation"])
    options.enable_cpu_mem_arena = words["arena"] == "1"
    options.add_session_config_entry(_SPINNING, words["spinning"])


def require_settings(options: Any, settings: Mapping[str, str]) -> None:
    """Compare what was asked for with the options that the session says it has. Raises ``SilentFallback``."""
    words = _words(settings)
    found = {
        "optimisation": options.graph_optimization_level.name,
        "arena": "1" if options.enable_cpu_mem_arena else "0",
        "spinning": options.get_session_config_entry(_SPINNING),
    }
    for name, word in words.items():
        if found[name] != word:
            raise SilentFallback(
                f"ONNX Runtime was asked for {name} {word} and set {found[name]}",
                expected=word,
                fix=f"export without --set onnxruntime.{name}",
            )


def _words(settings: Mapping[str, str]) -> dict[str, str]:
    return {name: setting.values[settings.get(name, next(iter(setting.values)))] for name, setting in SETTINGS.items()}
