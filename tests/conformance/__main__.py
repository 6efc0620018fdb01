"""``make conformance``: the whole suite through every engine that is installed, compared with what is expected.

    python -m tests.conformance [--engine NAME ...] [--accept] [--page FILE]

Ends with 1 where a case failed or passed that was not expected to. ``--accept`` writes the expected failures anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.conformance.expected import load_expected, surprises, write_expected
from tests.conformance.report import page, summary
from tests.conformance.runner import Outcome, run_cases, suite_cases

from avsdk import plugins
from avsdk.session import session_class

ENGINES = ("onnxruntime", "openvino", "litert")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    results: dict[str, tuple[Outcome, ...]] = {}
    absent: dict[str, str] = {}
    wrong = 0
    with TemporaryDirectory(prefix="avsdk-conformance-") as folder:
        cases = suite_cases(Path(folder))
        _say(f"{len(cases)} cases")
        for engine in options.engine or ENGINES:
            reason = missing(engine)
            if reason:
                absent[engine] = reason
                _say(f"{engine}: not run: {reason}")
                continue
            results[engine] = run_cases(engine, Path(folder), cases, _Dots())
            _say(f"\n{summary(engine, results[engine])}")
            expected = load_expected(engine)
            if options.accept:
                write_expected(expected, engine, results[engine])
                expected = load_expected(engine)
            failed, passed = surprises(results[engine], expected)
            wrong += len(failed) + len(passed)
            for line in failed:
                _say(f"  failed: {line}")
            for line in passed:
                _say(f"  passed: {line}")
    if options.page:
        options.page.write_text(page(results, absent), encoding="utf-8")
    _say("as expected" if not wrong else f"{wrong} cases are not as expected")
    return 1 if wrong else 0


def missing(engine: str) -> str:
    """Why an engine cannot be run through the suite here; empty where it can."""
    state = session_class(engine).availability("cpu")
    verdict = plugins.load("compilers", engine)().check("cpu", "host", "fp32")
    return str(state.reason if not state.ok else verdict.reason)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class _Dots:
    def __init__(self) -> None:
        self._count = 0

    def __call__(self, outcome: Outcome) -> None:
        self._count += 1
        if self._count % 100 == 0:
            sys.stdout.write(".")
            sys.stdout.flush()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--engine", action="append", choices=ENGINES, help="only this one; may be repeated")
    parser.add_argument("--accept", action="store_true", help="write the lists of expected failures anew")
    parser.add_argument("--page", type=Path, help="write the counts into this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
