"""The exception tree. Every error that avsdk raises on purpose is one of these, and each carries its exit code.

AvsdkError                      1   a bug in avsdk when raised bare
├── UsageError                  2   the command or call was wrong
│   ├── UnknownName             2   a name that nothing answers to; suggests the nearest
│   ├── UnusableInput           2   media that cannot be decoded: empty, damaged, oversize, wrong modality
│   └── SizeNotBuilt            2   a shape the artifact was not built for
├── NotAvailable                3   a target, device or runtime that is not here
│   ├── ToolchainMissing        3
│   ├── ToolchainCrashed        3   the child died, by a signal, by its limits or by an exception of the tool
│   └── DiskFull                3
├── NotMet                      4   a promise that could not be kept
│   ├── ParityFailed            4   the compiled artifact gives other numbers
│   ├── BudgetNotMet            4   no choice of layers keeps the loss of accuracy within its limits
│   └── SilentFallback          4   something else executed than was asked for
└── Refused                     5   a file that is damaged or hostile
    ├── BundleRefused           5
    ├── CheckpointRefused       5
    ├── IndexRefused            5
    └── ModelRefused            5
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AvsdkError(Exception):
    """What failed, with the value; what was expected; what to do.

    ``str(error)`` joins the three parts, so a traceback and the command line read the same.
    """

    exit_code = 1

    def __init__(self, failed: str, *, expected: str = "", fix: str = "") -> None:
        self.failed = failed
        self.expected = expected
        self.fix = fix
        lines = [failed]
        if expected:
            lines.append(f"Expected: {expected}")
        if fix:
            lines.append(f"Fix: {fix}")
        super().__init__("\n".join(lines))

    def to_json(self) -> dict[str, object]:
        """The error as the ``--json`` document that scripts read."""
        return {
            "error": type(self).__name__,
            "code": self.exit_code,
            "reason": self.failed,
            "expected": self.expected,
            "fix": self.fix,
        }


class UsageError(AvsdkError):
    """The command or call was wrong."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that nothing answers to: ``UnknownName.among("target", "openvimo", known)``."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str], *, fix: str = "") -> UnknownName:
        """Build the error with the nearest of the known names as the suggestion."""
        names = sorted(set(known))
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        listed = ", ".join(names) if len(names) <= 20 else ", ".join(names[:20]) + ", ..."
        advice = f"did you mean {near[0]!r}?" if near else fix
        return cls(f"unknown {kind} {name!r}", expected=f"one of: {listed}" if names else "", fix=advice)


class UnusableInput(UsageError):
    """Media that cannot be decoded: empty, damaged, oversize or of the wrong modality."""


class SizeNotBuilt(UsageError):
    """A shape that the artifact was not built for."""


class NotAvailable(AvsdkError):
    """A target, device or runtime that is not here."""

    exit_code = 3


class ToolchainMissing(NotAvailable):
    """A compiler whose toolchain is not installed."""


class ToolchainCrashed(NotAvailable):
    """A child process died: by a signal, by its limits, or by an exception of the tool in it."""


class DiskFull(NotAvailable):
    """No space left; nothing half-written stays behind."""


class NotMet(AvsdkError):
    """A promise that could not be kept."""

    exit_code = 4


class ParityFailed(NotMet):
    """The compiled artifact gives other numbers than its reference."""


class BudgetNotMet(NotMet):
    """No choice of layers keeps the loss of accuracy within the limits that were given.

    ``chart``: the layers by how much each costs, as lines of text; printed below the message.
    """

    def __init__(self, failed: str, *, expected: str = "", fix: str = "", chart: str = "") -> None:
        super().__init__(failed, expected=expected, fix=fix)
        self.chart = chart

    def __str__(self) -> str:
        return "\n".join(part for part in (super().__str__(), self.chart) if part)


class SilentFallback(NotMet):
    """Something else executed than was asked for."""


class Refused(AvsdkError):
    """A file that is damaged or hostile."""

    exit_code = 5


class BundleRefused(Refused):
    """A bundle that is damaged, hostile or of a newer schema."""


class CheckpointRefused(Refused):
    """Weights or a checkpoint that cannot be trusted."""


class IndexRefused(Refused):
    """An index that is damaged, hostile, or of another model."""


class ModelRefused(Refused):
    """A model file that is damaged or hostile."""


_BY_NAME: dict[str, type[AvsdkError]] = {
    kind.__name__: kind
    for kind in (
        AvsdkError, UsageError, UnknownName, UnusableInput, SizeNotBuilt, NotAvailable, ToolchainMissing,
        ToolchainCrashed, DiskFull, NotMet, ParityFailed, BudgetNotMet, SilentFallback, Refused, BundleRefused,
        CheckpointRefused, IndexRefused, ModelRefused,
    )
}  # fmt: skip


def error_from_json(document: dict[str, object]) -> AvsdkError:
    """Rebuild an error that a child process reported; an unknown type becomes a plain ``AvsdkError``."""
    kind = _BY_NAME.get(str(document.get("error")), AvsdkError)
    return kind(
        str(document.get("reason", "")),
        expected=str(document.get("expected", "")),
        fix=str(document.get("fix", "")),
    )
