"""Arria 10 by way of the FPGA AI Suite: the device half, HETERO:FPGA,CPU on the OpenVINO that the suite is bound to.

Written against the suite's published runtime; it has not met a board. Nothing here runs without the suite
(COREDLA_ROOT), a programmed card, and the OpenVINO release that the suite names (2025.1: 2024.6; 2024.2: 2023.3).
"""

from __future__ import annotations

import os
from importlib import util
from pathlib import Path
from typing import Any

from avsdk.engines.openvino import OpenVinoSession
from avsdk.errors import BundleRefused, NotAvailable, SilentFallback
from avsdk.session import Availability, Execution

_PLUGIN_FILES = ("lib/plugins.xml", "bin/plugins.xml", "runtime/plugins.xml")
_HETERO = "HETERO:FPGA,CPU"
_FIX = (
    "install FPGA AI Suite (2023.1 to 2025.1 serve Arria 10) with its OpenVINO, source its setupvars.sh, and program "
    "the card"
)


class FpgaSession(OpenVinoSession):
    """Imports what ``dla_compiler`` wrote; the file is bound to its .arch file, which travels beside it."""

    engine = "openvino_fpga"

    @classmethod
    def availability(cls, device: str) -> Availability:
        """Whether the suite's plugins are here; the card itself answers only when an artifact is loaded."""
        if device != "fpga":
            return Availability(False, f"this session knows no FPGA {device!r}", "fpga")
        if util.find_spec("openvino") is None:
            return Availability(False, "the package openvino is not installed", "pip install 'avsdk[openvino]'")
        root = os.environ.get("COREDLA_ROOT", "")
        if not root:
            return Availability(False, "the FPGA AI Suite is not here: COREDLA_ROOT is not set", _FIX)
        if _plugins(root) is None:
            return Availability(False, f"COREDLA_ROOT is {root}, which has none of {', '.join(_PLUGIN_FILES)}", _FIX)
        return Availability(True)

    def _require_precision(self) -> None:
        """The .arch file's: there is no hint that could say another."""

    def _load(self, core: Any) -> Any:
        """Import the compiled file with the plugins of the suite, told the architecture that it was compiled for."""
        import openvino

        del core
        suite = openvino.Core(str(_plugins(os.environ["COREDLA_ROOT"])))
        suite.set_property("FPGA", {_architecture_property(suite): str(self.file(1))})
        return suite.import_model(self.file().read_bytes(), _HETERO, {})

    def _require_as_asked(self) -> None:
        """The precision is the .arch file's, so there is no hint; what can be read back is where it executes."""
        devices = [str(name) for name in self._compiled.get_property("EXECUTION_DEVICES")]
        if not any(name.startswith("FPGA") for name in devices):
            raise SilentFallback(
                f"{_HETERO} executes on {', '.join(devices) or 'nothing'}",
                expected="the FPGA among them",
                fix="program the card with the bitstream of this .arch file",
            )

    def _execution(self) -> Execution:
        """The shares are those of the compile-time plan: the suite's plugin shows no executed graph."""
        report = self.artifact.options.get("report")
        share = report.get("fpga_share") if isinstance(report, dict) else None
        if not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise BundleRefused(
                f"the artifact's report gives the FPGA the share {share!r}",
                expected="a number from 0 to 1, as the compiler writes it",
                fix="export the bundle again",
            )
        shares = {self.artifact.precision: share, "fp32": 1.0 - share}
        return Execution(self.artifact.device, {"fpga": share, "cpu": 1.0 - share}, shares)


def _plugins(root: str) -> Path | None:
    return next((Path(root, name) for name in _PLUGIN_FILES if Path(root, name).is_file()), None)


def _architecture_property(core: Any) -> str:
    """The plugin's property that takes the .arch file: the suite names it in a header only."""
    names = [str(name) for name in core.get_property("FPGA", "SUPPORTED_PROPERTIES")]
    found = [name for name in names if "ARCH" in name.upper() and "PATH" in name.upper()]
    if not found:
        raise NotAvailable(
            f"the suite's FPGA plugin has no property for the .arch file: {', '.join(names)}",
            expected="one with ARCH and PATH in its name",
            fix="use an FPGA AI Suite from 2023.1 to 2025.1",
        )
    return found[0]
