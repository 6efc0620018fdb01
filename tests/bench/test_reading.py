"""Reports: what is written meets the published schema, and what is read was checked against it first."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from avsdk.errors import Refused, UsageError
from avsdk_bench import reading, report_schema
from avsdk_bench.facts import machine, runtime_facts
from avsdk_bench.report import Report


def test_the_published_schema_is_that_of_the_dataclasses() -> None:
    assert report_schema.published() == report_schema.report_schema(), "run make report-schema"
    Draft202012Validator.check_schema(report_schema.published())


def test_a_report_survives_being_written_and_read(report: Report, tmp_path: Path) -> None:
    report.write(tmp_path / "r.json")
    assert reading.read_report(tmp_path / "r.json") == report
    Draft202012Validator(report_schema.published()).validate(json.loads((tmp_path / "r.json").read_text()))


def test_keys_of_a_newer_avsdk_are_passed_over(report: Report) -> None:
    document = report.to_json()
    document["later"] = document["rows"][0]["later"] = document["host"]["later"] = {"a": [1]}
    assert reading.report_from_json(document, where="r") == report


def damaged(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """The document with the value at ``rows.0.p50_ms``; ``DELETED`` takes the key out."""
    found = copy.deepcopy(document)
    *way, last = [int(word) if word.isdecimal() else word for word in path.split(".")]
    place: Any = found
    for step in way:
        place = place[step]
    if value == "DELETED":
        del place[last]
    else:
        place[last] = value
    return found


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("schema", 2, "schema 2"),
        ("rows", {}, "not of type array"),
        ("rows.0.p50_ms", "fast", "not of type number"),
        ("rows.0.p50_ms", True, "not of type number"),
        ("rows.0.p50_ms", -1.0, "less than 0"),
        ("rows.0.status", "best", "not one of"),
        ("rows.0.bundle", "DELETED", "lacks the key 'bundle'"),
        ("rows.0.bundle", "x" * 100_001, "100001 characters"),
        ("rows.0.p50_ci_ms", [1.0], "has 1 items"),
        ("rows.0.samples_ms", [[1.0], ["<script>"]], "samples_ms[1][0]"),
        ("rows.0.machine", "mars", "does not describe"),
        ("rows.0.p50_ci_ms", [3.0, 2.0], "ends before it begins"),
        ("rows.0.p50_ms", None, "no median"),
        ("comparisons.0.row", 99, "names row 99 of 2"),
        ("host.cores", 1.5, "not of type integer"),
    ],
)
def test_what_a_stranger_wrote_is_refused_by_name(report: Report, path: str, value: object, text: str) -> None:
    document = damaged(report.to_json(), path, value)
    with pytest.raises(Refused) as caught:
        reading.report_from_json(document, where="theirs.json")
    assert "theirs.json" in str(caught.value)
    assert text in str(caught.value)
    agrees = Draft202012Validator(report_schema.published()).is_valid(document)
    assert agrees == (text in ("does not describe", "ends before it begins", "no median", "names row 99 of 2"))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": 1, "rows": NaN}', "[" * 100_000, "\x00", "null"])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(Refused):
        reading.read_report(tmp_path / "r.json")


def test_bytes_and_sizes_are_refused_and_absence_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Refused, match="not text"):
        reading.read_report(tmp_path / "r.json")
    monkeypatch.setattr(reading, "MOST_BYTES", 2)
    with pytest.raises(Refused, match="at most 2"):
        reading.read_report(tmp_path / "r.json")
    with pytest.raises(UsageError, match="cannot be read"):
        reading.read_report(tmp_path / "absent.json")


def test_a_cell_without_an_engine_of_ours_has_facts_all_the_same() -> None:
    found = runtime_facts("")
    assert (found["version"], found["build"]) == ("", "")
    assert found["python"]


def test_the_state_of_a_machine_is_read_from_its_system(tmp_path: Path) -> None:
    files = {
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_min_freq": "800000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3700000\n",
        "sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "0,4-5\n",
        "sys/class/thermal/thermal_zone0/temp": "41500\n",
        "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
        "sys/fs/cgroup/memory.max": "1073741824\n",
        "sys/firmware/devicetree/base/model": "Raspberry Pi 5\0",
        "proc/cpuinfo": "processor : 0\nmicrocode : 0xa101148\nflags : fpu hypervisor sse\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = machine(tmp_path)
    assert (found.governor, found.frequency_mhz, found.threads_per_core) == ("performance", (800.0, 3700.0), 3)
    assert (found.microcode, found.hypervisor, found.cgroup_memory_mb) == ("0xa101148", "yes", 1024)
    assert (found.temperatures_c, found.board) == ({"thermal_zone0 x86_pkg_temp": 41.5}, "Raspberry Pi 5")
    nothing = machine(tmp_path / "empty")
    assert (nothing.governor, nothing.frequency_mhz, nothing.hypervisor, nothing.temperatures_c) == (None,) * 3 + ({},)
