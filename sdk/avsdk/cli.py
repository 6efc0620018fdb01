"""The command ``avsdk``: ``run`` and ``bundle`` here, other packages' commands through the group ``avsdk.commands``.

Errors are written in one place, ``main``: a command raises, and whoever typed it gets what failed, what was expected
and what to do, with the error's exit code; with ``--json`` as one document on standard output.
"""

# No "from __future__ import annotations" here: on Python 3.9 Typer cannot read options out of postponed annotations.

import os
import platform
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from avsdk import __version__, console
from avsdk.console import JsonOption, SetOption
from avsdk.errors import AvsdkError, UsageError

if TYPE_CHECKING:
    from avsdk.bundle import Manifest

_CLICK_ERROR: Any = typer.BadParameter.__mro__[2]  # Typer carries its own Click since 0.16; this is either one's
_INTERRUPTED = 130
_SUMMARY = "From a trained audio, video or image model to a measured, verified bundle for the hardware at hand."

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.", show_default=False)]
InputArgument = Annotated[
    Optional[list[Path]],
    typer.Argument(metavar="INPUT", help="Files, or folders of files.", show_default=False),
]
OutOption = Annotated[
    Optional[Path],
    typer.Option("--out", metavar="PATH", help="A file for one input, a folder for several.", show_default=False),
]
ThreadsOption = Annotated[
    Optional[int],
    typer.Option("--threads", min=1, help="Default: the cores this process may use.", show_default=False),
]
MemoryOption = Annotated[
    Optional[int],
    typer.Option(
        "--max-memory-mb",
        metavar="MB",
        min=1,
        help="Peak memory for a photograph: whole where it fits, else in bands, with the same answer.",
        show_default=False,
    ),
]

app = typer.Typer(name="avsdk", help=_SUMMARY, no_args_is_help=True, rich_markup_mode=None)
bundle_app = typer.Typer(help="Look into a bundle, and check it.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(bundle_app, name="bundle")


def _print_version(asked: bool) -> None:
    if asked:
        console.show(f"avsdk {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


@app.command()
def run(
    bundle: BundleArgument,
    inputs: InputArgument = None,
    out: OutOption = None,
    settings: SetOption = None,
    threads: ThreadsOption = None,
    max_memory_mb: MemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a bundle on pictures, videos or arrays.

    Settings of models for pictures: --set fit=resize scales a size that was not built, and back; batch=N frames of a
    video, or photos of one size, at once; max_megapixels=N, the largest picture decoded.
    """
    if out is None:
        raise UsageError("run got no --out", expected="--out PATH: a file for one input, a folder for several")
    from avsdk.running import RunReport, run_bundle

    chosen = console.settings_from(settings)
    if max_memory_mb is not None:
        chosen["max_memory_mb"] = str(max_memory_mb)
    report: RunReport = run_bundle(bundle, inputs or [], out, chosen, threads)
    for text in report.notices:
        console.notice(text)
    if as_json:
        console.print_json(report.to_json())
    else:
        _show_run(report)
    for failure in report.failures:
        sys.stderr.write(console.printable(f"error: {failure.error}") + "\n")
    if report.failures:
        raise typer.Exit(report.failures[0].error.exit_code)
    console.next_step(f"avsdk bench {bundle}")


def _show_run(report: Any) -> None:
    for graph in report.graphs:
        console.show(f"{graph['graph']}: {graph['engine']} on {graph['device']}, {graph['effective_precision']}")
    for result in report.results:
        times = ", ".join(f"{name} {value:.1f} ms" for name, value in result.latency_ms.items())
        count = f"{result.items} frames, each " if result.items > 1 else ""
        console.show(f"{result.source} -> {result.outputs[0]} ({count}{times})")


@bundle_app.command("show")
def show_bundle(bundle: BundleArgument, as_json: JsonOption = False) -> None:
    """Show what a bundle holds: model, target, precision, sizes, parity, files."""
    from avsdk.bundle import open_bundle
    from avsdk.schema import SCHEMA, encode

    opened = open_bundle(bundle)
    sizes = {name: opened.file(name).stat().st_size for name in opened.manifest.files}
    if as_json:
        console.print_json({"path": opened.path, "schema": SCHEMA, **encode(opened.manifest), "bytes": sizes})
        return
    _show_manifest(opened.manifest)
    rows = [(name, f"{size / 1e6:.3f}", opened.manifest.files[name][:12]) for name, size in sizes.items()]
    console.table(f"Files, {sum(sizes.values()) / 1e6:.1f} MB", ("file", "MB", "SHA-256"), rows)
    console.next_step(f"avsdk bundle verify {bundle} --run")


def _show_manifest(manifest: "Manifest") -> None:
    origin = " ".join(str(manifest.source[key]) for key in ("kind", "name") if key in manifest.source)
    facts = {
        "model": f"{manifest.spec.model} (from {origin})" if origin else manifest.spec.model,
        "target": f"{manifest.target} ({manifest.engine} on {manifest.device})",
        "precision": f"{manifest.precision}, effective {manifest.effective_precision}",
        "built with": ", ".join(f"{name} {version}" for name, version in manifest.built_with.items()),
        "parity": " ".join(filter(None, (manifest.parity.verdict, manifest.parity.reason))),
    }
    for name, value in facts.items():
        console.show(f"{name + ':':<12}{value}")
    rows = [
        (item.graph, item.precision, _sizes(item.shapes, manifest), ", ".join(item.files))
        for item in manifest.artifacts
    ]
    console.table("Artifacts", ("graph", "precision", "sizes", "files"), rows)
    _show_parity(manifest.parity.outputs)


def _sizes(shapes: Any, manifest: "Manifest") -> str:
    if shapes is not None:
        return ", ".join(f"{name}={size}" for name, size in shapes.items()) or "fixed"
    axes = {name: axis for graph in manifest.spec.graphs for name, axis in graph.axes.items()}
    return "; ".join(f"{name} {axis}" for name, axis in axes.items()) or "fixed"


def _show_parity(outputs: Any) -> None:
    if outputs:
        rows = [
            (item.graph, item.name, f"{item.max_abs:.2e}", f"{item.cosine:.7f}", f"{item.snr_db:.1f}", item.agreement)
            for item in outputs
        ]
        console.table("Parity", ("graph", "output", "max abs", "cosine", "SNR dB", "agreement"), rows)


@bundle_app.command("verify")
def verify_bundle_command(
    bundle: BundleArgument,
    execute: Annotated[bool, typer.Option("--run", help="Also run the golden samples and compare.")] = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every file's hash; with --run also what the artifacts compute and what executed them."""
    from avsdk.bundle import open_bundle

    opened = open_bundle(bundle)
    document: dict[str, Any] = {"path": opened.path, "files": len(opened.manifest.files), "hashes": "ok"}
    if execute:
        from avsdk.verify import emulation_of, verify_bundle

        verified = verify_bundle(bundle, threads=threads, **emulation_of(opened.manifest))
        document.update(parity=verified.parity, effective_precision=verified.effective_precision)
        verified.parity.require(where=str(bundle))
    if as_json:
        console.print_json(document)
        return
    console.show(f"{bundle}: {len(opened.manifest.files)} files, every hash is right")
    if execute:
        _show_parity(verified.parity.outputs)
        ran = ", ".join(f"{graph}: {precision}" for graph, precision in verified.effective_precision.items())
        parity = verified.parity
        reasons = f"; {parity.reason}" if parity.reason else ""
        detail = f"{parity.samples} samples, {parity.executed_on}; {ran}{reasons}" if ran else parity.reason
        console.show(f"parity: {parity.verdict} ({detail})")
    console.next_step(f"avsdk run {bundle} INPUT --out PATH" if execute else f"avsdk bundle verify {bundle} --run")


@cache
def root_app() -> typer.Typer:
    """The whole command line: this module's commands and those of every package that can be imported here."""
    from avsdk import plugins
    from avsdk.errors import NotAvailable

    absent = []
    for name in plugins.list_names("commands"):
        try:
            mounted: typer.Typer = plugins.load("commands", name)
            if sys.version_info < (3, 11):
                typer.main.get_command(mounted)  # reads the annotations of its commands, which may be too new
        except NotAvailable as error:
            absent.append(f"{name} ({error.__cause__ or error.failed})")
            continue
        except (AttributeError, SyntaxError, TypeError) as error:  # written for a newer Python than this one
            absent.append(f"{name} (does not load on Python {platform.python_version()}: {error})")
            continue
        app.registered_commands += mounted.registered_commands
        app.registered_groups += mounted.registered_groups
    if absent:
        app.info.epilog = "Commands that are absent here: " + "; ".join(absent)
    return app


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Entry point: run the command line and leave with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_exit_code(given))


def _exit_code(given: list[str]) -> int:
    try:
        command = typer.main.get_command(root_app())
        code = command.main(given, prog_name="avsdk", standalone_mode=False)
    except AvsdkError as error:
        return _fail(error, given)
    except _CLICK_ERROR as error:
        return _fail(_usage_error(error), given) if not _is_help(error) else _show_help(error)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("interrupted\n")
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001  (the last line of defence: a bug becomes exit code 1, not a traceback)
        if os.environ.get("AVSDK_TRACEBACK"):
            raise
        return _fail(_bug(error), given)
    return code if isinstance(code, int) else 0


def _fail(error: AvsdkError, given: Sequence[str]) -> int:
    if console.json_wanted(given):
        console.print_json(error.to_json())
    sys.stderr.write(console.printable(f"error: {error}") + "\n")
    return error.exit_code


def _usage_error(error: Any) -> UsageError:
    """Typer's own complaint as ours: what was wrong, how the command is used, and where its help is."""
    context = getattr(error, "ctx", None)
    usage = " ".join(context.get_usage().removeprefix("Usage:").split()) if context is not None else ""
    help_line = f"{context.command_path} --help" if context is not None else "avsdk --help"
    return UsageError(error.format_message(), expected=usage, fix=help_line)


def _is_help(error: Any) -> bool:
    return type(error).__name__ == "NoArgsIsHelpError"


def _show_help(error: Any) -> int:
    error.show()
    return UsageError.exit_code


def _bug(error: Exception) -> AvsdkError:
    return AvsdkError(
        f"this is a bug in avsdk: {type(error).__name__}: {error}",
        fix="set AVSDK_TRACEBACK=1, run the same command again, and report what it prints",
    )


if __name__ == "__main__":
    main()
