"""The commands ``avsdk toolchain list|install|remove|run``; anything heavier than Typer is imported inside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from avsdk.console import JsonOption, next_step, notice, print_json, show, table

if TYPE_CHECKING:
    from avsdk_targets.toolchain import Toolchain

app = typer.Typer(no_args_is_help=True)

_Name = Annotated[str, typer.Argument(help="A toolchain's name: avsdk toolchain list.")]


@app.command("list")
def list_command(as_json: JsonOption = False) -> None:
    """The toolchains: installed or not, size, what each provides, and the line that installs it."""
    from avsdk_targets.toolchain import list_toolchains

    rows = [_row(toolchain) for toolchain in list_toolchains()]
    if as_json:
        print_json({"toolchains": rows})
        return
    table(
        "Toolchains",
        ("name", "state", "size", "provides", "for", "install"),
        [
            (
                row["name"],
                row["state"],
                f"{row['size_mb']} MB",
                ", ".join(row["provides"]),
                row["description"],
                row["install"] if row["state"] != "installed" else None,
            )
            for row in rows
        ],
    )
    absent = next((row for row in rows if row["state"] != "installed"), None)
    next_step(absent["install"] if absent else "avsdk doctor")


@app.command()
def install(
    name: _Name,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show every line of pip's.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make the environment NAME; pip's own configuration and the variable PIP_ARGS are obeyed."""
    from avsdk_targets.toolchain import load_toolchain
    from avsdk_targets.toolchain_install import install as install_toolchain

    toolchain = load_toolchain(name)
    notice(f"installing {name} into {toolchain.folder}, about {toolchain.size_mb} MB")
    for library in toolchain.system:
        notice(f"{name} needs {library} from the system")
    found = install_toolchain(toolchain, lambda line: notice(line) if verbose or _worth_telling(line) else None)
    if as_json:
        print_json(_row(toolchain))
    else:
        show(f"{name} is installed: Python {found.python}, {len(found.versions)} packages, {found.size_mb} MB")
    next_step("avsdk doctor")


@app.command()
def remove(name: _Name, as_json: JsonOption = False) -> None:
    """Remove every version of NAME from the disk."""
    from avsdk_targets.toolchain import remove as remove_toolchain

    freed_mb = remove_toolchain(name) >> 20
    if as_json:
        print_json({"name": name, "freed_mb": freed_mb})
    else:
        show(f"removed {name}: {freed_mb} MB freed")
    next_step(f"avsdk toolchain install {name}")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
)
def run(context: typer.Context, name: _Name) -> None:
    """Run a program of NAME, as: avsdk toolchain run NAME -- python script.py. Its exit code is returned."""
    from avsdk.errors import UsageError
    from avsdk_targets.toolchain import load_toolchain
    from avsdk_targets.toolchain_install import run_inside

    toolchain = load_toolchain(name)
    command = context.args[1:] if context.args[:1] == ["--"] else context.args
    if not command:
        raise UsageError("no command was given", expected=f"avsdk toolchain run {name} -- COMMAND")
    raise typer.Exit(run_inside(toolchain, command))


def _row(toolchain: Toolchain) -> dict[str, Any]:
    from avsdk_targets.toolchain import installed, outdated_folders

    found = installed(toolchain)
    state = "installed" if found else "outdated" if outdated_folders(toolchain) else "absent"
    return {
        "name": toolchain.name,
        "description": toolchain.description,
        "state": state,
        "size_mb": found.size_mb if found else toolchain.size_mb,
        "provides": toolchain.provides,
        "python": found.python if found else toolchain.python[0],
        "path": str(toolchain.folder) if found else None,
        "install": toolchain.install_line,
    }


def _worth_telling(line: str) -> bool:
    return line.startswith(
        ("making", "unpacking", "importing", "another", "Collecting torch=", "Installing collected", "ERROR", "error")
    )
