"""What a compiler raises where it can only prepare: the device's own compiler is elsewhere, or there is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from avsdk.errors import NotAvailable


class Prepared(NotAvailable):
    """Nothing was compiled, and the exported ONNX is left for whoever can.

    A compiler raises it in ``compile``, in this process, with ``report``: texts, or files' bytes, to leave beside the
    ONNX, by file name.
    ``path`` is the folder that was left, set by the export.
    """

    def __init__(
        self,
        failed: str,
        *,
        expected: str = "",
        fix: str = "",
        report: Mapping[str, str | bytes] | None = None,
        path: Path | None = None,
    ) -> None:
        super().__init__(failed, expected=expected, fix=fix)
        self.report: dict[str, str | bytes] = dict(report or {})
        self.path = path

    def to_json(self) -> dict[str, object]:
        """The error, with where the ONNX lies."""
        return {**super().to_json(), "path": None if self.path is None else str(self.path)}
