"""Benches on other machines: through a real OpenSSH server on this one, and by contract through a made-up adb."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from tests.bench import openssh
from tests.bench.openssh import OpenSsh
from typer.testing import CliRunner

from avsdk.bundle import open_bundle
from avsdk.errors import NotAvailable, Refused, UsageError
from avsdk_bench import remote, remote_agent, remote_boot
from avsdk_bench.cli import app
from avsdk_bench.energy import Meters
from avsdk_bench.plan import CellPlan, plans_for
from avsdk_bench.remote import Remote, packed_runtime
from avsdk_bench.remote_bench import bench_elsewhere
from avsdk_bench.remote_link import AdbLink, LinkLost, SshLink, link_from
from avsdk_bench.rounds import Settings
from avsdk_bench.scenario import Load

pytestmark = pytest.mark.network  # an OpenSSH server lets nobody in where this user is root in a namespace only
ROOT = Path(__file__).resolve().parent.parent.parent
SHORT = Settings(budget_s=1.0, window_s=0.01)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSsh]:
    if openssh.why_not():
        pytest.skip(openssh.why_not())
    with OpenSsh(tmp_path_factory.mktemp("ssh")) as found:
        yield found


@pytest.fixture
def ssh(server: OpenSsh, monkeypatch: pytest.MonkeyPatch) -> OpenSsh:
    """The server, with the client set up to get in."""
    monkeypatch.setenv("AVSDK_SSH_CONFIG", str(server.config))
    return server


def planned(bundle: Path, *, pipeline: bool = False) -> list[CellPlan]:
    return plans_for(open_bundle(bundle), [{"height": 16, "width": 20}], 1, pipeline=pipeline)


def test_a_bench_runs_there_and_only_json_comes_back(make_bundle, ssh: OpenSsh, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("onnxruntime")
    address, out = ssh.address_for(sys.executable), tmp_path / "r.json"
    words = ["bench", str(make_bundle("a")), "--on", address, "--threads", "1", "--budget-s", "1", "--out", str(out)]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    document = json.loads(result.stdout)
    name = f"ssh://{ssh.user}@{ssh.address}"
    assert [(row["status"], row["machine"], row["graph"]) for row in document["rows"]] == [
        ("measured", name, "net"), ("measured", name, "pipeline"),
    ]  # fmt: skip
    row = document["rows"][0]
    assert row["effective_precision"] == "fp32"
    assert row["n"] == sum(map(len, row["samples_ms"]))
    assert row["cold_start"]["spawn_ms"] > 0
    assert row["runtime"]["engine"] == "onnxruntime"
    assert document["elsewhere"][name]["host"]["cores"] >= 1
    assert ssh.jobs() == [], "the clean folder is gone"
    stored = {path.name for path in (ssh.folder / "cache/avsdk/remote").iterdir()}
    assert set(open_bundle(tmp_path / "a").manifest.files.values()) <= stored


@pytest.mark.parametrize("scenario", ["multi-stream", "offline", "server", "real-time", "soak"])
def test_every_scenario_is_served_there_as_it_is_here(make_bundle, ssh: OpenSsh, scenario: str) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("onnxruntime")
    load = Load(scenario, minutes=0.02)
    plan = replace(planned(make_bundle("a"))[0], load=load, natural_period_ms=20.0)
    method = replace(load.method(budget_s=1.0, rounds=5, seed=0), window_s=0.01)
    report, errors = bench_elsewhere([ssh.address_for(sys.executable)], [plan], method)
    assert not errors
    row = report.rows[0]
    assert (row.status, row.scenario, row.load["scenario"]) == ("measured", scenario, scenario)
    assert row.n == sum(map(len, row.samples_ms))
    assert row.throughput_per_s and row.throughput_per_s > 0
    keys = {"server": "qps", "real-time": "miss_rate", "soak": "rss_mb_per_h"}
    assert keys.get(scenario) in (None, *row.outcome)
    if scenario == "soak":
        assert row.outcome["rss_mb_per_h"] is not None, "the memory of the cell there is read"


def test_cold_starts_and_energy_come_from_there(make_bundle, ssh: OpenSsh) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("onnxruntime")
    report, errors = bench_elsewhere([ssh.address_for(sys.executable)], planned(make_bundle("a")), SHORT, cold=True)
    assert not errors
    row = report.rows[0]
    assert row.cold_starts is not None
    assert list(row.cold_starts) == ["cold", "warm"]
    assert all(times["total_ms"] > times["spawn_ms"] > 0 for times in row.cold_starts.values())
    assert row.energy is not None
    assert row.energy.get("unavailable") or row.energy["joules_per_item"] > 0
    assert ssh.jobs() == []


def test_only_what_is_missing_is_sent_and_what_was_damaged_is_sent_again(  # type: ignore[no-untyped-def]
    make_bundle, ssh: OpenSsh, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(ssh.folder / "cache", ignore_errors=True)
    bundle = open_bundle(make_bundle("b"))
    sent: list[str] = []
    original = SshLink.send

    def send(self: SshLink, path: Path, place: str) -> None:
        sent.append(place.rpartition("-")[2])
        if len(sent) == 2:
            raise LinkLost("the cable")
        original(self, path, place)

    monkeypatch.setattr(SshLink, "send", send)
    with Remote(link_from(ssh.address_for(sys.executable))) as machine:
        machine.start()
        folder = Path(machine.bundle(bundle))
        assert open_bundle(folder).manifest.files == bundle.manifest.files
        assert machine.bundle(bundle) == str(folder)
        assert len(sent) == len(set(sent)) + 1, "what had arrived is not sent again"
        store, digest = ssh.folder / "cache/avsdk/remote", bundle.manifest.files["model/net.onnx"]
        assert stat.S_IMODE(store.stat().st_mode) == 0o700
    sent.clear()
    (store / digest).write_bytes(b"other")
    with Remote(link_from(ssh.address_for(sys.executable))) as machine:
        machine.start()
        machine.bundle(bundle)
    assert sent == [digest[:16]]
    assert not list(store.glob("sent-*"))


def test_the_store_keeps_what_is_used_and_drops_what_is_a_month_old(  # type: ignore[no-untyped-def]
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = remote_boot.store()
    names = {text: sha256(text.encode()).hexdigest() for text in ("used", "old", "new")}
    for text, name in names.items():
        (folder / name).write_text(text)
        age = 0.0 if text == "new" else remote_boot.KEPT_S + 60
        os.utime(folder / name, (time.time() - age,) * 2)
    assert remote_boot.look(json.dumps([names["used"]]))["missing"] == []
    assert {path.read_text() for path in folder.iterdir()} == {"used", "new"}


def test_a_lost_link_is_made_again_and_a_request_runs_once(ssh: OpenSsh) -> None:
    notices: list[str] = []
    with Remote(link_from(ssh.address_for(sys.executable)), notice=notices.append) as machine:
        machine.start()
        assert machine._process is not None
        cut = threading.Timer(0.3, machine._process.kill)
        cut.start()
        line = json.dumps({"id": 99, "verb": "calibrate", "arguments": {"threads": 1}}).encode() + b"\n"
        first = machine._patiently(lambda: machine._exchange(line))
        cut.join()
        machine.hang_up()
        assert machine._patiently(lambda: machine._exchange(line)) == first, "kept, not computed again"
        machine._requests = 99
        assert machine.request("probe")["host"]["cores"] >= 1
    assert ssh.jobs() == []


def test_an_agent_that_is_gone_is_said_at_once(ssh: OpenSsh) -> None:
    with Remote(link_from(ssh.address_for(sys.executable)), patience_s=5) as machine:
        machine.start()
        machine.hang_up()
        job = machine._job
        shutil.rmtree(job)
        with pytest.raises(NotAvailable, match="the agent is gone"):
            machine.request("probe")
    agents = ["pgrep", "-f", f"remote_agent.*{job}"]
    while subprocess.run(agents, capture_output=True, check=False).stdout:  # it ends without its folder; else time-out
        time.sleep(0.1)


def test_an_engine_that_is_not_there_is_a_row_with_the_reason(make_bundle, ssh: OpenSsh) -> None:  # type: ignore[no-untyped-def]
    plan = replace(planned(make_bundle("a"))[0], engine="onnxruntime", device="cuda")
    report, errors = bench_elsewhere([ssh.address_for(sys.executable)], [plan], SHORT)
    assert report.rows[0].status == "unavailable"
    assert "cannot run on ssh://" in report.rows[0].reason
    assert list(errors) == [0]


def test_the_agent_runs_on_python_3_9(ssh: OpenSsh) -> None:
    python = os.environ.get("AVSDK_PYTHON39")
    if not python:
        pytest.skip("no Python 3.9 with numpy is named: AVSDK_PYTHON39=/path/to/python")
    with Remote(link_from(ssh.address_for(python))) as machine:
        machine.start()
        assert machine.request("probe")["host"]["python"].startswith("3.9.")
        assert machine.request("doctor", engine="onnxruntime", device="mars")["ok"] is False
        assert machine.request("calibrate", threads=1) > 0
        machine.request("quiet")
        assert machine.request("judge", rounds=1, void_rounds=0, switches_per_s=None)["rounds"] == 1


@pytest.mark.parametrize(
    ("python", "text"),
    [("/usr/bin/true", "answered ''"), ("no-such-python", "has no no-such-python"), ("old", "is Python 3.6")],
)
def test_a_machine_without_a_fitting_python_is_said(ssh: OpenSsh, tmp_path: Path, python: str, text: str) -> None:
    if python == "old":
        program = tmp_path / "old"
        program.write_text('#!/bin/sh\necho \'{"python": [3, 6, 9], "missing": [], "free_mb": 99}\'\n')
        program.chmod(0o755)
        python = str(program)
    with Remote(link_from(ssh.address_for(python))) as machine, pytest.raises(NotAvailable, match=text):
        machine.start()


def test_an_unknown_host_key_and_a_refused_user_are_said(ssh: OpenSsh, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    config = ssh.config.read_text()
    for change, text in (("known", "its key is not known here"), ("user", "does not let this user in")):
        other = tmp_path / change
        other.write_text(config.replace(f"{ssh.folder}/{change}", f"{tmp_path}/none"))
        monkeypatch.setenv("AVSDK_SSH_CONFIG", str(other))
        with Remote(link_from(ssh.address_for(sys.executable))) as machine, pytest.raises(NotAvailable, match=text):
            machine.start()


def test_a_machine_in_another_network_is_reached(make_bundle, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    if openssh.why_not():
        pytest.skip(openssh.why_not())
    with other_network() as (address, prefix), OpenSsh(tmp_path, address=address, prefix=prefix) as there:
        monkeypatch.setenv("AVSDK_SSH_CONFIG", str(there.config))
        with Remote(link_from(there.address_for(sys.executable))) as machine:
            machine.start()
            assert machine.name.endswith(f"@{address}")
            assert open_bundle(Path(machine.bundle(open_bundle(make_bundle("a"))))).manifest.engine == "onnxruntime"


@contextlib.contextmanager
def other_network() -> Iterator[tuple[str, tuple[str, ...]]]:
    """A network namespace joined to this one by a pair of virtual cards, removed afterwards."""
    name, card = f"avsdk{os.getpid()}", f"av{os.getpid()}"
    lines = (
        f"netns add {name}", f"link add {card} type veth peer name {card}b netns {name}",
        f"addr add 10.213.7.1/30 dev {card}", f"link set {card} up",
        f"-n {name} addr add 10.213.7.2/30 dev {card}b", f"-n {name} link set {card}b up", f"-n {name} link set lo up",
    )  # fmt: skip
    if shutil.which("ip") is None:
        pytest.skip("the program ip is not here")
    try:
        for line in lines:
            done = subprocess.run(["ip", *line.split()], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no second network here: ip {line}: {done.stderr.strip()}")
        yield "10.213.7.2", ("ip", "netns", "exec", name)
    finally:
        subprocess.run(["ip", "link", "del", card], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


_ADB = """#!{python}
# What adb promises: -s SERIAL push FILE PLACE, -s SERIAL shell -T 'COMMAND' with its input, output and exit code.
import os, shutil, subprocess, sys
assert sys.argv[1] == "-s"
if sys.argv[2] != "R58M-7":
    sys.exit("adb: device '%s' not found" % sys.argv[2])
if sys.argv[3] == "push":
    shutil.copyfile(sys.argv[4], sys.argv[5])
    sys.exit(0)
assert sys.argv[3:5] == ["shell", "-T"], sys.argv
there = {{**os.environ, "XDG_CACHE_HOME": "{folder}", "TMPDIR": "{folder}"}}
sys.exit(subprocess.run(["sh", "-c", sys.argv[5]], env=there).returncode)
"""


def test_android_goes_by_the_same_protocol_and_several_machines_at_once(  # type: ignore[no-untyped-def]
    make_bundle, ssh: OpenSsh, tmp_path: Path, monkeypatch
) -> None:
    pytest.importorskip("onnxruntime")
    programs, phone = tmp_path / "bin", tmp_path / "phone"
    programs.mkdir()
    phone.mkdir()
    (programs / "adb").write_text(_ADB.format(python=sys.executable, folder=phone))
    (programs / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    nobody = ssh.address_for(sys.executable).replace(f"@{ssh.address}", "@127.0.0.1:1")
    addresses = [f"adb://R58M-7?python={sys.executable}", "adb://absent", nobody]
    report, errors = bench_elsewhere(addresses, planned(make_bundle("a")), SHORT)
    assert [(row.status, row.machine) for row in report.rows] == [
        ("measured", "adb://R58M-7"), ("unavailable", "adb://absent"), ("unavailable", nobody.partition("?")[0]),
    ]  # fmt: skip
    assert "it is not connected" in str(errors[1])
    assert "nothing listens there" in report.rows[2].reason
    assert set(report.elsewhere) == {row.machine for row in report.rows}
    assert report.method.rounds >= 5
    assert not list(phone.glob("avsdk-*")), "neither jobs nor sent files stay"


@pytest.mark.parametrize(
    "address",
    [
        "", "host", "http://host", "ssh://", "ssh://-oProxyCommand=x", "ssh://a b", "ssh://host/path", "ssh://u:p@host",
        "ssh://host:0x1", "ssh://-l@host", "ssh://host?python=-c", "ssh://host?python=a;b", "adb://", "adb://-e",
        "adb://a b", "ssh://host;reboot", "ssh://$(reboot)", "ssh://host#x",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        link_from(address)


def test_an_address_becomes_words_that_ask_nothing_and_forward_nothing() -> None:
    link = link_from("ssh://pi@edge.local:2222?python=/opt/py thon/bin/python")
    assert isinstance(link, SshLink)
    assert (link.name, link.host, link.port) == ("ssh://pi@edge.local:2222", "pi@edge.local", 2222)
    words = link.words([link.python, "-c", "print('x')"])
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "ForwardAgent=no"} <= set(words)
    assert words[-3:] == ["--", "pi@edge.local", "'/opt/py thon/bin/python' -c 'print('\"'\"'x'\"'\"')'"]
    assert isinstance(link_from("adb://10.0.0.2:5555"), AdbLink)


def test_the_runtime_is_the_same_for_the_same_sources_and_small() -> None:
    packed = packed_runtime()
    assert packed == packed_runtime()
    assert len(packed) < 500_000
    names = zipfile.ZipFile(BytesIO(packed)).namelist()
    assert {"__main__.py", "avsdk/worker.py", "avsdk_bench/cell.py", "avsdk_bench/remote_agent.py"} <= set(names)


def test_what_runs_there_is_python_3_9_and_needs_nothing_that_is_not_sent() -> None:
    sent = remote.sent_modules()
    assert {"cell", "calibration", "noise", "facts"} <= set(sent)
    for name, file in sent.items():
        tree = ast.parse(file.read_text(), feature_version=(3, 9))
        imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not [item for item in imported if item.startswith(("avsdk_targets", "avsdk_train", "avsdk_export"))], (
            name
        )
        assert "strict=" not in file.read_text(), f"{name}: zip(strict=) is Python 3.10's"
    ast.parse(Path(remote_boot.__file__).read_text(), feature_version=(3, 6))


class Scripted(remote_agent.Agent):
    """An agent whose connection never was."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path / "store", tmp_path / "job")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"{", "JSONDecodeError"),
        (b"[]", "TypeError"),
        (b'{"id": 1, "verb": "_cells", "arguments": {}}', "no verb '_cells'"),
        (b'{"id": 1, "verb": "shut", "arguments": {}}', "no verb 'shut'"),
        (b'{"id": 1, "verb": "ask", "arguments": {"key": "9", "what": "run", "arguments": {"n": 1}}}', "KeyError"),
        (b'{"id": 1, "verb": "ask", "arguments": {"key": "0", "what": "close", "arguments": {}}}', "asked for 'close'"),
        (
            b'{"id": 1, "verb": "ask", "arguments": {"key": "0", "what": "__init__", "arguments": {}}}',
            "asked for '__i",
        ),
        (b'{"id": 1, "verb": "bundle", "arguments": {"name": "0", "files": {"../x": "ab"}}}', "leaves its folder"),
        (b'{"id": 1, "verb": "bundle", "arguments": {"name": "0", "files": {"x": "../ab"}}}', "leaves its folder"),
    ],
)
def test_the_agent_answers_nonsense_with_an_error(tmp_path: Path, line: bytes, text: str) -> None:
    assert text in json.dumps(remote_agent.answer(Scripted(tmp_path), line))


def test_the_agent_charges_turns_to_the_meter_that_is_there(tmp_path: Path) -> None:
    """A meter that counts 2 J in every turn; the machine of the test may have none."""

    class TwoJoules:
        method, scope, total = "invented", "all of it", 0.0

        def joules(self) -> float:
            return self.total

        def close(self) -> None:
            pass

    class Worked:
        def ask(self, what: str, **arguments: Any) -> Any:
            meter.total += 2.0
            return [5] * int(arguments["n"])

    meter, agent = TwoJoules(), Scripted(tmp_path)
    agent._meters = Meters(lambda gpu: meter)
    agent._cells["0"] = Worked()  # type: ignore[assignment]
    assert agent.meter("0", ["cpu"]) == {}
    for _ in range(3):
        agent.turn("0", 4, {"load": {}, "n": 4, "lead_in": 0, "seed": 0})
    facts = agent.energy("0")
    assert facts["method"] == "invented"
    assert facts["joules_per_item"] == pytest.approx(6.0 / 12)


def times(made: Callable[[int], list[Any]]) -> Callable[..., Any]:
    """An agent's answer to ``ask``: these durations for a run, nothing for the rest."""

    def ask(key: str, what: str, arguments: dict[str, Any]) -> Any:
        return {"$array": made(arguments["n"])} if what == "run" else {}

    return ask


class Lying(Remote):
    """A machine that answers what a test wants."""

    def __init__(self, **answers: Any) -> None:
        super().__init__(SshLink("ssh://liar", "python3", "liar", None))
        self._answers = answers

    def start(self) -> None:
        self._job = ""

    def request(self, verb: str, **arguments: Any) -> Any:
        found = self._answers.get(verb)
        return found(**arguments) if callable(found) else found


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"probe": {"host": {"cpu": 3}, "machine": {}, "threads": 1}},
        {"ask": times(lambda n: [1] * (n + 1))},
        {"ask": times(lambda n: ["1"] * n)},
        {"ask": times(lambda n: [-5] * n)},
        {"ask": times(lambda n: [10**30] * n)},
        {"turn": {"$array": [1000]}},
        {"meter": {}, "energy": None, "turn": {"$array": 7}},
        {"open": {"cold_start_ms": "nan?", "phases": {}, "input": ""}},
        {"ask": lambda **given: {"net": {"device": "cpu"}}},
    ],
)
def test_a_machine_that_lies_gives_no_numbers(make_bundle, monkeypatch, answers: dict[str, Any]) -> None:  # type: ignore[no-untyped-def]
    from avsdk.host import probe
    from avsdk.schema import encode

    honest: dict[str, Any] = {
        "probe": {"host": encode(probe()), "machine": {"kernel": "x"}, "threads": 1}, "doctor": {"ok": True},
        "open": {"cold_start_ms": 1.0, "phases": {}, "input": ""}, "bundle": "/x", "calibrate": 1.0,
        "ask": times(lambda n: [1000] * n), "meter": {"unavailable": "nothing counts"},
        "turn": lambda key, items, arguments: {"$array": [1000] * arguments["n"]},
    }  # fmt: skip
    monkeypatch.setattr(
        "avsdk_bench.remote_bench.Remote", lambda link, notice: Lying(**({**honest, **answers} if answers else {}))
    )
    report, errors = bench_elsewhere(["ssh://liar"], planned(make_bundle("a")), SHORT)
    assert [row.status for row in report.rows] == ["unavailable"]
    assert isinstance(errors[0], (Refused, NotAvailable, UsageError))


@pytest.mark.parametrize(
    ("code", "said", "kind", "text"),
    [
        (-9, "", LinkLost, "exit code -9"),
        (255, "client_loop: send disconnect: Broken pipe", LinkLost, "Broken pipe"),
        (255, "ssh: connect to host pi port 22: Connection timed out", LinkLost, "timed out"),
        (255, "ssh: Could not resolve hostname pi", NotAvailable, "its name is not known"),
        (127, "sh: 1: python3: not found", NotAvailable, "has no python3"),
        (1, "ModuleNotFoundError: No module named 'x'", NotAvailable, "python3 ended with 1"),
    ],
)
def test_what_passes_is_told_from_what_stays(code: int, said: str, kind: type[Exception], text: str) -> None:
    found = SshLink("ssh://pi", "python3", "pi", None).failure(code, said)
    assert type(found) is kind
    assert text in str(found)


def test_a_machine_is_named_once() -> None:
    with pytest.raises(UsageError, match="names a machine twice"):
        bench_elsewhere(["ssh://a", "ssh://a?python=python3.11"], [], SHORT)


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Remote(SshLink("ssh://far", "python3", "far", None), patience_s=0.0)

    def lost() -> None:
        raise LinkLost("cable")

    with pytest.raises(NotAvailable, match="lost for more than 0 s: cable"):
        machine._patiently(lost)
