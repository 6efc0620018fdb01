"""What commands print: results on stdout, everything else on stderr; one JSON document on stdout with ``--json``.

A command takes ``as_json: JsonOption = False`` and simply raises: ``avsdk.cli.main`` writes the error, as text on
stderr or, with ``--json``, as a document on stdout.

    @app.command()
    def devices(as_json: JsonOption = False) -> None:
        rows = ...
        if as_json:
            print_json({"devices": rows})
        else:
            table("Devices", ("name", "engines"), rows)
        next_step("avsdk doctor")

Rich is imported when the first table or progress bar is drawn, never for ``avsdk --help``.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any, Optional

import typer

from avsdk.errors import UsageError
from avsdk.schema import encode

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
"""The ``--json`` flag of every command."""

SetOption = Annotated[
    Optional[list[str]],
    typer.Option("--set", metavar="KEY=VALUE", help="A setting; may be repeated.", show_default=False),
]
"""The repeatable ``--set key=value``, as ``settings: SetOption = None``; ``settings_from`` gives the mapping."""

Advance = Callable[[int], None]
"""``advance(n)``: n more pieces of the work are done."""


def print_json(document: object) -> None:
    """Write one JSON document; dataclasses, paths and mappings are accepted, NaN and infinity become null."""
    text = json.dumps(_json_able(encode(document)), indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def show(text: str) -> None:
    """Write a line of the answer on stdout."""
    sys.stdout.write(printable(text) + "\n")


def notice(text: str) -> None:
    """Write a line that the user should know but did not ask for, on stderr."""
    sys.stderr.write(f"note: {printable(text)}\n")


def problem(text: str) -> None:
    """Write that something failed while other work goes on, on stderr."""
    sys.stderr.write(f"error: {printable(text)}\n")


def next_step(line: str) -> None:
    """Write the next command to type, on stderr; silent where no person reads along."""
    if sys.stderr.isatty() or not json_wanted():
        sys.stderr.write(f"next: {printable(line)}\n")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Draw a table on stdout; None shows as a dash. Piped output is not cut to the terminal's width."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(printable(title)), title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        drawn.add_column(Text(printable(column)), overflow="fold")
    for row in rows:
        drawn.add_row(*(Text("-" if cell is None else printable(str(cell))) for cell in row))
    Console(width=None if sys.stdout.isatty() else 240).print(drawn)


@contextlib.contextmanager
def progress(description: str, total: int | None) -> Iterator[Advance]:
    """Draw a bar on stderr while the block runs, and give ``advance(n)``; draws nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(description), total=total)
        yield lambda count: bar.advance(task, count)


def json_wanted(arguments: Sequence[str] | None = None) -> bool:
    """Whether ``--json`` stands on the command line, even where the rest of it could not be parsed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return "--json" in (given[: given.index("--")] if "--" in given else given)


def settings_from(pairs: Sequence[str] | None) -> dict[str, str]:
    """The mapping of repeated ``--set key=value`` options. Raises ``UsageError`` for a pair without a key or '='."""
    settings: dict[str, str] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set got {pair!r}", expected="KEY=VALUE, as in --set fit=resize")
        settings[key.strip()] = value.strip()
    return settings


def printable(text: str) -> str:
    """The text with control characters escaped, so that no file name or manifest can drive the terminal."""
    return "".join(
        mark if mark in "\n\t" or not unicodedata.category(mark).startswith("C") else ascii(mark)[1:-1] for mark in text
    )


def _json_able(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _json_able(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_json_able(item) for item in value]
    return value
