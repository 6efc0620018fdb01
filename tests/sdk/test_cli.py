from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from avsdk import __version__, cli, console, plugins
from avsdk.bundle import open_bundle
from avsdk.errors import DiskFull, NotAvailable, UsageError

MakeBundle = Callable[..., Path]
Avsdk = Callable[..., tuple[int, str, str]]


@pytest.fixture
def avsdk(capsys: pytest.CaptureFixture[str]) -> Avsdk:
    """``avsdk("bundle", "show", path)`` -> exit code, stdout, stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main([str(item) for item in arguments])
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[BaseException], None]]:
    """``failing(error)``: from now on there is a command ``fail`` that raises it."""
    app = typer.Typer(rich_markup_mode=None)
    raised: list[BaseException] = []

    @app.callback()
    def root() -> None:
        """Make ``fail`` a command of its own."""

    @app.command()
    def fail(as_json: console.JsonOption = False) -> None:
        raise raised[0]

    monkeypatch.setattr(cli, "root_app", lambda: app)
    yield raised.append


def test_version(avsdk: Avsdk) -> None:
    assert avsdk("--version")[:2] == (0, f"avsdk {__version__}\n")


def test_help_names_the_commands(avsdk: Avsdk) -> None:
    code, said, _ = avsdk("--help")
    assert code == 0
    for name in ("run", "bundle", *(["export", "bench"] if sys.version_info >= (3, 11) else [])):
        assert f"  {name} " in said


def test_help_imports_no_runtime_and_draws_nothing() -> None:
    heavy = "numpy onnx onnxruntime openvino torch cv2 av rich matplotlib scipy"
    program = (
        "import sys\nfrom avsdk.cli import main\n"
        f"try: main(['--help'])\nfinally: print('loaded', sorted(set(sys.modules) & set({heavy.split()!r})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "loaded []"
    assert done.stderr == ""


def test_importing_avsdk_loads_numpy_at_most() -> None:
    program = (
        "import sys, numpy\nbefore = set(sys.modules)\nimport avsdk\n"
        "print(sorted({n.partition('.')[0] for n in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['avsdk']"


def test_a_misspelt_command_gets_the_nearest(avsdk: Avsdk) -> None:
    code, said, aside = avsdk("bundel", "show")
    assert (code, said) == (2, "")
    assert "Did you mean 'bundle'" in aside


def test_usage_errors_are_documents_too(avsdk: Avsdk) -> None:
    code, said, aside = avsdk("bundle", "show", "--json", "--nonsense")
    document = json.loads(said)
    assert code == document["code"] == 2
    assert document["error"] == "UsageError"
    assert "--nonsense" in document["reason"]
    assert document["fix"] == "avsdk bundle show --help"
    assert document["reason"] in aside


def test_nothing_typed_shows_the_help(avsdk: Avsdk) -> None:
    code, said, aside = avsdk()
    assert code == 2
    assert "Commands:" in said + aside


@pytest.mark.parametrize(
    ("error", "code"),
    [(UsageError("no", expected="yes", fix="try"), 2), (NotAvailable("no", fix="try"), 3), (DiskFull("no"), 3)],
)
def test_errors_end_with_their_own_code(
    avsdk: Avsdk, failing: Callable[[BaseException], None], error: Any, code: int
) -> None:
    failing(error)
    found, said, aside = avsdk("fail")
    assert (found, said) == (code, "")
    assert aside == f"error: {error}\n"
    found, said, aside = avsdk("fail", "--json")
    assert found == code
    assert json.loads(said) == error.to_json()
    assert aside == f"error: {error}\n"


def test_a_bug_is_short_and_exit_code_1(avsdk: Avsdk, failing: Callable[[BaseException], None]) -> None:
    failing(ZeroDivisionError("division by zero"))
    code, said, aside = avsdk("fail", "--json")
    assert code == json.loads(said)["code"] == 1
    assert "this is a bug in avsdk: ZeroDivisionError: division by zero" in aside
    assert "AVSDK_TRACEBACK=1" in aside
    assert "Traceback" not in aside


def test_a_bug_shows_its_traceback_when_asked(
    failing: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVSDK_TRACEBACK", "1")
    failing(ZeroDivisionError("division by zero"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["fail"])


def test_an_interrupt_is_130(avsdk: Avsdk, failing: Callable[[BaseException], None]) -> None:
    failing(KeyboardInterrupt())
    assert avsdk("fail")[0] == 130


def test_exit_codes_of_commands_pass(avsdk: Avsdk, failing: Callable[[BaseException], None]) -> None:
    failing(typer.Exit(4))
    assert avsdk("fail")[0] == 4


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImportError("No module named 'onnx'"), "targets (No module named 'onnx')"),
        (AttributeError("no StrEnum"), f"targets (does not load on Python {platform.python_version()}: no StrEnum)"),
    ],
)
def test_packages_that_cannot_be_imported_are_named(
    avsdk: Avsdk, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def load(group: str, name: str) -> Any:
        if isinstance(error, ImportError):
            raise NotAvailable(f"{name} cannot be imported") from error
        raise error

    monkeypatch.setattr(plugins, "list_names", lambda group: ("targets",))
    monkeypatch.setattr(plugins, "load", load)
    monkeypatch.setattr(cli.app.info, "epilog", None)
    monkeypatch.setattr(cli, "root_app", cli.root_app.__wrapped__)
    code, said, _ = avsdk("--help")
    assert code == 0
    assert f"Commands that are absent here: {reason}" in " ".join(said.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str) -> None:
    script = Path(sys.executable).with_name("avsdk")
    if not script.exists():
        pytest.skip("the command avsdk is not installed: pip install -e . --no-deps")
    done = subprocess.run([script, "--show-completion", shell], capture_output=True, text=True)
    assert done.returncode == 0
    assert "_AVSDK_COMPLETE" in done.stdout
    asked = {"_AVSDK_COMPLETE": "complete_bash", "COMP_WORDS": "avsdk bun", "COMP_CWORD": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([script], capture_output=True, text=True, env=asked)
    assert done.stdout.split() == ["bundle"]


# -- bundle show, bundle verify ----------------------------------------------------------------------------------------


def test_bundle_show(make_bundle: MakeBundle, avsdk: Avsdk) -> None:
    code, said, aside = avsdk("bundle", "show", make_bundle(shapes=[{"batch": 1, "height": 64, "width": 64}]))
    assert code == 0
    for part in ("tiny/invert", "fp32, effective fp32", "height=64", "model/transform.onnx", "not_run made by hand"):
        assert part in said
    assert aside.startswith("next: avsdk bundle verify")


def test_bundle_show_as_json(make_bundle: MakeBundle, avsdk: Avsdk) -> None:
    bundle = make_bundle()
    document = json.loads(avsdk("bundle", "show", bundle, "--json")[1])
    assert document["path"] == str(bundle)
    assert document["spec"]["model"] == "tiny/invert"
    assert document["bytes"]["model/transform.onnx"] == (bundle / "model" / "transform.onnx").stat().st_size
    assert document["files"] == dict(open_bundle(bundle).manifest.files)


def test_bundle_verify_checks_hashes(make_bundle: MakeBundle, avsdk: Avsdk) -> None:
    bundle = make_bundle()
    code, said, _ = avsdk("bundle", "verify", bundle)
    assert code == 0
    assert "2 files, every hash is right" in said
    (bundle / "golden" / "transform.npz").write_bytes(b"other")
    code, said, _ = avsdk("bundle", "verify", bundle, "--json")
    assert code == 5
    assert "golden/transform.npz" in json.loads(said)["reason"]


def test_bundle_verify_runs_the_golden_samples(make_bundle: MakeBundle, avsdk: Avsdk) -> None:
    code, said, _ = avsdk("bundle", "verify", make_bundle(), "--run", "--json", "--threads", "1")
    document = json.loads(said)
    assert code == 0
    assert document["parity"]["verdict"] == "pass"
    assert document["parity"]["outputs"][0]["snr_db"] > 100
    assert document["effective_precision"] == {"transform": "fp32"}


def test_bundle_verify_finds_other_numbers(make_bundle: MakeBundle, avsdk: Avsdk) -> None:
    import numpy as np

    from avsdk.bundle import write_manifest

    bundle = make_bundle()
    with np.load(bundle / "golden" / "transform.npz") as stored:
        image = stored["in.0.image"]
    np.savez(bundle / "golden" / "transform.npz", **{"in.0.image": image, "out.0.styled": 254 - image})
    write_manifest(bundle, open_bundle_without_hashes(bundle))
    code, said, aside = avsdk("bundle", "verify", bundle, "--run", "--json", "--threads", "1")
    assert code == 4
    assert json.loads(said)["error"] == "ParityFailed"
    assert "SNR" in aside


def open_bundle_without_hashes(bundle: Path) -> Any:
    from avsdk.bundle import Manifest
    from avsdk.schema import check_schema, decode

    document = json.loads((bundle / "manifest.json").read_text())
    return decode(Manifest, check_schema(document, where="manifest"), where="manifest")


# -- console -----------------------------------------------------------------------------------------------------------


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": Path("x"), "d": "ü"})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": "x", "d": "ü"}


def test_nothing_printed_can_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.show("a\x1b[31mb\u202e")
    console.notice("c\x07d")
    console.table("t\x1b]0;x", ("h\x1b",), [("[bold]cell\x1b[0m",), (None,)])
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "\x07" not in said.err
    assert "\\x1b[31m" in said.out
    assert "[bold]cell" in said.out
    assert "\\u202e" in said.out


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    console.table("title", ("column",), [("cell",)])
    said = capsys.readouterr().out
    assert "\x1b[3" not in said
    assert "cell" in said


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [(["run", "--json"], True), (["run"], False), (["run", "--", "--json"], False), ([], False)],
)
def test_json_wanted(arguments: list[str], wanted: bool) -> None:
    assert console.json_wanted(arguments) is wanted


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("frames", 3) as advance:
        advance(2)
    said = capsys.readouterr()
    assert said.out + said.err == ""


def test_settings_from_pairs() -> None:
    assert console.settings_from(["a=b", "c = d=e"]) == {"a": "b", "c": "d=e"}
    assert console.settings_from(None) == {}
    for wrong in ("a", "=b"):
        with pytest.raises(UsageError, match="KEY=VALUE"):
            console.settings_from([wrong])
