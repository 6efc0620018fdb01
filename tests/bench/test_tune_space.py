"""What may be varied, what is proposed, and what is kept: with the real compilers' words and the real Optuna."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.bench.made_up import made_up_row

from avsdk.errors import NotAvailable, Refused, UnknownName, UsageError
from avsdk_bench.tune_choice import Limits, Tuned
from avsdk_bench.tune_ledger import Ledger, identity_of
from avsdk_bench.tune_proposals import Proposals
from avsdk_bench.tune_space import Configuration, Space, space_of, thread_counts
from avsdk_targets.target import resolve_list

optuna = pytest.importorskip("optuna", reason="pip install 'avsdk[bench]'")
pytest.importorskip("onnxruntime", reason="pip install 'avsdk[onnxruntime]'")

SIZES = [{"height": 8, "width": 8}, {"height": 16, "width": 16}]


def space(**chosen: object) -> Space:
    found = space_of(resolve_list("onnxruntime"), sizes=SIZES, **chosen)  # type: ignore[arg-type]
    return replace(found, threads=(1, 2))


def silent(text: str) -> None:
    del text


def test_the_space_is_what_the_compilers_declare() -> None:
    found = space()
    configurations = list(found.configurations())
    assert len({item.key for item in configurations}) == len(configurations) == 2 * 2 * 2**3
    assert {name for item in configurations for name in item.settings} == {
        "onnxruntime.optimisation", "onnxruntime.spinning", "onnxruntime.arena",
    }  # fmt: skip
    assert found.sizes[0] == SIZES[1]  # the largest is wanted most
    first = list(found.first())
    assert [(item.precision, item.threads, item.settings) for item in first] == [("fp32", 2, {})]
    assert found.left_out == ("int8 is left out: there is nothing to calibrate it on; give --calibration DIR",)
    fixed = space(fixed=["onnxruntime.arena"])
    assert len(list(fixed.configurations())) == len(configurations) / 2
    assert {item.precision for item in space(calibrated=True).configurations()} == {"fp32", "int8"}


def test_a_device_that_is_not_here_is_offered_without_settings_to_try() -> None:
    found = space_of(resolve_list("onnxruntime,raspberry-pi-5,quadro-rtx-6000"))
    assert {name: offer.here for name, offer in found.offers.items()} == {
        "onnxruntime": True, "raspberry-pi-5": False, "quadro-rtx-6000": False,
    }  # fmt: skip
    assert set(found.here(False).offers) == {"raspberry-pi-5", "quadro-rtx-6000"}
    assert all(not item.settings for item in found.here(False).configurations())
    assert "int8" not in found.offers["raspberry-pi-5"].precisions


def test_a_drawn_configuration_has_the_parameters_that_give_it_again() -> None:
    found = space()
    for item in found.configurations():
        assert found.holds(item)
        assert found.draw(optuna.trial.FixedTrial(found.parameters(item))) == item
    item = next(iter(found.configurations()))
    others = [
        replace(item, threads=7), replace(item, target="litert"), replace(item, sizes={"height": 4}),
        replace(item, settings={"onnxruntime.arena": "perhaps"}), replace(item, precision="bf16"),
    ]  # fmt: skip
    assert not any(map(found.holds, others))


@pytest.mark.parametrize(
    ("targets", "chosen", "kind", "text"),
    [
        ("onnxruntime", {"precisions": ["int9"]}, UnknownName, "did you mean 'int8'"),
        ("onnxruntime", {"precisions": ["int8"]}, UsageError, "--calibration DIR"),
        ("onnxruntime", {"precisions": ["fp16"]}, NotAvailable, "onnxruntime has no fp16"),
        ("torch:cpu", {}, NotAvailable, "makes no bundle"),
        ("nervana-nnp-i", {}, NotAvailable, "built in int8 alone"),
    ],
)
def test_what_cannot_be_tuned_is_said(targets: str, chosen: dict[str, list[str]], kind: type, text: str) -> None:
    with pytest.raises(kind, match=text):
        space_of(resolve_list(targets), **chosen)  # type: ignore[arg-type]


def test_threads_double_up_to_what_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avsdk_bench.tune_space.host.default_threads", lambda: 6)
    assert thread_counts(None) == (1, 2, 4, 6)
    assert thread_counts(3) == (3,)


def measured(item: Configuration, p50_ms: float) -> Tuned:
    return Tuned(item, "screened", (made_up_row(p50_ms=p50_ms, threads=item.threads),), 100.0)


def test_every_configuration_is_proposed_once_and_then_none() -> None:
    found = space()
    proposals = Proposals(found, [], Limits(), seed=1)
    seen = []
    while (item := proposals.next()) is not None:
        seen.append(item)
        proposals.tell([measured(item, 10.0 / item.threads)] if len(seen) % 3 else [Tuned(item, "rejected")])
    assert sorted(item.key for item in seen) == sorted(item.key for item in found.configurations())
    assert seen[0] == next(iter(found.first()))


def test_what_is_known_is_not_proposed_again() -> None:
    found = space()
    known = [measured(item, 5.0) for item in list(found.configurations())[:-1]]
    proposals = Proposals(found, known, Limits(min_snr_db=20), seed=1)
    last = proposals.next()
    assert last == list(found.configurations())[-1]
    assert proposals.next() is None


def test_the_sampler_learns_where_fast_ones_are() -> None:
    """Of a space of 256 it has seen the best after 60, more often than chance: two settings matter, the rest do not."""
    found = replace(space(), threads=tuple(range(1, 17)))
    proposals = Proposals(found, [], Limits(), seed=0)
    fast = 0
    for tried in range(60):
        item = proposals.next()
        assert item is not None
        well = item.threads == 12 and "onnxruntime.spinning" in item.settings
        fast += well and tried > 0
        proposals.tell([measured(item, 100.0 - (60 if well else 5 * (item.threads == 12)))])
    assert fast >= 3  # of the 8 that there are; chance finds 1.9


def test_a_ledger_keeps_what_was_measured_for_the_same_machine_and_model(tmp_path: Path) -> None:
    identity = identity_of("net.onnx", "abc", {"settings": {}})
    item = next(iter(space().configurations()))
    ledger = Ledger(tmp_path, identity, silent)
    ledger.add([measured(item, 10.0)])
    ledger.add([measured(item, 11.0)])
    said: list[str] = []
    again = Ledger(tmp_path, identity, said.append)
    assert again.entries == ledger.entries
    assert again.entries[item.key].latency_ms == pytest.approx(11.0, rel=0.05)
    assert "1 configurations are known" in said[0]
    other = Ledger(tmp_path, {**identity, "cpu": "another"}, said.append)
    assert not other.entries
    assert "of another model, machine or version" in said[1]
    assert identity_of("net.onnx", "abd", {})["fingerprint"] != identity["fingerprint"]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2}', '{"schema": 1, "identity": {}, "entries": [{}]}'])
def test_a_damaged_ledger_is_refused(text: str, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, {}, silent)
    ledger.add([])
    assert json.loads(ledger.path.read_text())["entries"] == []
    ledger.path.write_text(text)
    with pytest.raises(Refused, match=ledger.path.name):
        Ledger(tmp_path, {}, silent)
