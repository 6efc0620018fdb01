"""The quick part of the suite that CI runs: a fixed sample through each engine. ``make conformance`` runs it all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.conformance.__main__ import missing
from tests.conformance.cases import CaseName
from tests.conformance.expected import Expected, load_expected, reason_for, surprises
from tests.conformance.report import agreement, confusion, page
from tests.conformance.runner import Outcome, run_cases, suite_cases
from tests.conformance.under_test import require_close

SHARE = 10
LEAST_AGREEMENT = {"onnxruntime": 1.0, "openvino": 0.969}
"""What the preflight reaches on the sample; docs/conformance.md has it for all cases."""

Sample = tuple[Path, tuple[CaseName, ...]]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    folder = tmp_path_factory.mktemp("cases")
    return folder, suite_cases(folder, SHARE)


@pytest.fixture(scope="module")
def results() -> dict[str, tuple[Outcome, ...]]:
    return {}


def outcomes_of(engine: str, sample: Sample, results: dict[str, tuple[Outcome, ...]]) -> tuple[Outcome, ...]:
    reason = missing(engine)
    if reason:
        pytest.skip(f"{engine}: {reason}")
    if engine not in results:
        results[engine] = run_cases(engine, *sample)
    return results[engine]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_sample_fails_where_it_is_expected_to_and_nowhere_else(
    engine: str, sample: Sample, results: dict[str, tuple[Outcome, ...]]
) -> None:
    expected = load_expected(engine)
    if not expected.failures:
        pytest.skip(f"{expected.file.name} has not been written: python -m tests.conformance --accept")
    outcomes = outcomes_of(engine, sample, results)
    assert len(outcomes) > 150
    assert surprises(outcomes, expected) == ([], [])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_preflight_agrees_with_the_compile(
    engine: str, sample: Sample, results: dict[str, tuple[Outcome, ...]]
) -> None:
    outcomes = outcomes_of(engine, sample, results)
    apart = [f"{item.case}: {item.predicted}, {item.stage}: {item.why or item.reason}" for item in outcomes
             if (item.predicted != "no_path") != item.compiled]  # fmt: skip
    assert agreement(outcomes) >= LEAST_AGREEMENT[engine], "\n".join(apart)


def outcome(name: str, stage: str, *, reason: str = "", predicted: str = "ok") -> Outcome:
    return Outcome(CaseName("node", name, 13), stage, reason, predicted, "", 0.0)


def test_an_unexpected_pass_is_a_failure_too(tmp_path: Path) -> None:
    expected = Expected(tmp_path / "x.toml", "1", {"node/a": "lacks it", "node/c": "ONNX Runtime asks the system for"})
    failed, passed = surprises([outcome("a", "passed"), outcome("b", "run"), outcome("c", "passed")], expected)
    assert [line.partition(":")[0] for line in failed] == ["node/b"]
    assert [line.partition(":")[0] for line in passed] == ["node/a"]


def test_a_case_that_kills_its_worker_is_named_and_the_next_one_runs(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cases = sample
    monkeypatch.setattr("tests.conformance.runner.EngineUnderTest", Dying)
    first, second = run_cases("onnxruntime", folder, cases[:2])
    assert (first.case, first.stage) == (cases[0], "crashed")
    assert "SIGSEGV" in first.reason
    assert (second.case, second.stage) == (cases[1], "crashed")


class Dying:
    """Stands in for an engine whose native code dies."""

    def __init__(self, engine: str, cases: str) -> None: ...

    def run(self, name: str) -> Mapping[str, object]:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGSEGV)
        return {}


@pytest.mark.parametrize(
    ("found", "reference", "told"),
    [
        (np.float32([1, 2]), np.float32([[1, 2]]), "shape"),
        (np.float64([1, 2]), np.float32([1, 2]), "dtype"),
        (np.float32([1, 2.1]), np.float32([1, 2]), "largest error"),
        ([np.float32([1])], [np.float32([1]), np.float32([1])], "items"),
        (np.float32([np.nan]), np.float32([1]), "largest error"),
    ],
)
def test_a_wrong_answer_does_not_pass(found: object, reference: object, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        require_close("y", reference, found, {"rtol": 1e-3, "atol": 1e-7})


def test_reasons_are_words() -> None:
    told = reason_for(outcome("a", "compile", reason="Summary: -- No conversion rule found for operations: Foo-13"))
    assert told == "OpenVINO's reader has no Foo-13"


def test_the_page_holds_counts_and_the_confusion_matrix() -> None:
    outcomes = [outcome("a", "passed"), outcome("b", "compile", predicted="no_path"), outcome("c", "compile")]
    assert confusion(outcomes) == {(True, True): 1, (False, False): 1, (True, False): 1}
    text = page({"onnxruntime": outcomes}, {"litert": "the toolchain is not installed"})
    assert "| 1 of 3 |" in text
    assert "| onnxruntime | 1 | 1 | 1 | 0 | 66.7% |" in text
    assert "not run: the toolchain is not installed" in text
