"""What ``avsdk export --set openvino.NAME=VALUE`` may say, the plugin's property for each, and the reading back.

A setting is checked when a bundle is built, recorded in the artifact, checked again when it is loaded, and compared
with what the plugin then has: OpenVINO drops what it cannot serve without a word (two streams on one thread are one).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from avsdk.errors import AvsdkError, SilentFallback, UnknownName, UsageError
from avsdk.openvino_devices import PLUGINS, device_units

_COUNT = re.compile(r"[1-9][0-9]{0,2}")


@dataclass(frozen=True)
class Setting:
    """One property of a plugin. ``values``: text -> the plugin's word; empty where the value is a count, 1 to 999."""

    name: str
    meaning: str
    devices: tuple[str, ...]
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def allowed(self) -> str:
        """The values that it takes, for messages."""
        return f"one of: {', '.join(self.values)}" if self.values else "a whole number from 1 to 999"

    def admits(self, text: str) -> bool:
        """Whether ``text`` is one of its values."""
        return text in self.values if self.values else bool(_COUNT.fullmatch(text))

    def plugin_word(self, text: str) -> str:
        """``text`` as the plugin writes it."""
        return self.values.get(text, text)


_SWITCH = {"yes": "YES", "no": "NO"}
SETTINGS: Mapping[str, Setting] = {
    "hint": Setting(
        "PERFORMANCE_HINT",
        "what the plugin is tuned for: latency (the default) or throughput",
        ("cpu", "gpu", "npu"),
        {"latency": "LATENCY", "throughput": "THROUGHPUT"},
    ),
    "streams": Setting("NUM_STREAMS", "how many requests execute side by side", ("cpu", "gpu")),
    "pinning": Setting("ENABLE_CPU_PINNING", "bind threads to cores: yes or no", ("cpu",), _SWITCH),
    "hyper_threading": Setting("ENABLE_HYPER_THREADING", "use both threads of a core: yes or no", ("cpu",), _SWITCH),
    "cores": Setting(
        "SCHEDULING_CORE_TYPE",
        "the cores of a hybrid processor: any, performance or efficient",
        ("cpu",),
        {"any": "ANY_CORE", "performance": "PCORE_ONLY", "efficient": "ECORE_ONLY"},
    ),
    "execution": Setting(
        "EXECUTION_MODE_HINT",
        "performance (the default), or accuracy: no lower precision inside the plugin than the one asked for",
        ("cpu", "gpu"),
        {"performance": "PERFORMANCE", "accuracy": "ACCURACY"},
    ),
    "cache": Setting(
        "CACHE_DIR",
        "keep compiled models in $AVSDK_HOME/openvino-cache: yes or no (the default)",
        ("cpu", "gpu"),  # an NPU's blob is compiled already
        _SWITCH,
    ),
}


def checked_settings(given: object, device: str, *, refused: type[AvsdkError] = UsageError) -> dict[str, str]:
    """The settings of ``given`` as text. Raises ``refused`` for an unknown one, a wrong value, or another device's."""
    if not isinstance(given, Mapping):
        raise refused(f"the settings of openvino are {given!r}", expected="names with values")
    found = {}
    for name, value in given.items():
        if name not in SETTINGS:
            known = UnknownName.among("setting of openvino", name, SETTINGS)
            raise refused(known.failed, expected=known.expected, fix=known.fix)
        setting = SETTINGS[name]
        if not isinstance(value, str) or not setting.admits(value):
            raise refused(f"openvino.{name} is {value!r}", expected=setting.allowed, fix=f"--set openvino.{name}=VALUE")
        if not set(setting.devices) & set(device_units(device)):
            raise refused(
                f"openvino.{name} means nothing on {device}",
                expected=f"a device with it: {', '.join(setting.devices)}",
                fix=f"leave out --set openvino.{name}",
            )
        found[name] = value
    return found


def properties_for(unit: str, settings: Mapping[str, str], precision: str, threads: int) -> dict[str, str]:
    """The plugin properties of one device: the settings it has, its precision, and on a processor its threads."""
    words = {
        SETTINGS[name].name: SETTINGS[name].plugin_word(value)
        for name, value in settings.items()
        if unit in SETTINGS[name].devices and name != "cache"
    }
    words.setdefault("PERFORMANCE_HINT", "LATENCY")
    words["INFERENCE_PRECISION_HINT"] = precision
    if unit == "cpu":
        words["INFERENCE_NUM_THREADS"] = str(threads)
        if words["PERFORMANCE_HINT"] == "LATENCY":
            words.setdefault("NUM_STREAMS", "1")
    return words


def require_settings(unit: str, settings: Mapping[str, str], read: Callable[[str], object], threads: int) -> None:
    """Compare each setting that was asked for with what the plugin has. Raises ``SilentFallback`` with both values."""
    for name, value in settings.items():
        setting = SETTINGS[name]
        if name == "cache" or unit not in setting.devices:
            continue
        asked, found = setting.plugin_word(value), plain(read(setting.name))
        if found != asked:
            on_threads = unit == "cpu" and name == "streams"  # a stream has one thread at least
            raise SilentFallback(
                f"OpenVINO's {PLUGINS[unit]} plugin was asked for {setting.name}={asked} and set {found}"
                + (f" with {threads} threads" if on_threads else ""),
                expected=asked,
                fix=f"export without --set openvino.{name}={value}"
                + (", or run with more threads: --threads N" if on_threads else ""),
            )


def plain(value: object) -> str:
    """A property as the plugin's word for it: switches as YES or NO, types by name, enumerations by their member."""
    if isinstance(value, bool):
        return "YES" if value else "NO"
    if hasattr(value, "to_string"):
        return str(value.to_string())
    return str(getattr(value, "name", value))
