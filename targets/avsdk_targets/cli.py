"""The commands of this package, each in a module of its own."""

from __future__ import annotations

import typer

from avsdk_targets.check_cli import check
from avsdk_targets.devices_cli import devices, doctor
from avsdk_targets.export_cli import export
from avsdk_targets.toolchain_cli import app as toolchain_app

app = typer.Typer()
app.command()(check)
app.command()(devices)
app.command()(doctor)
app.command()(export)
app.add_typer(toolchain_app, name="toolchain", help="Isolated environments that hold the compilers.")
