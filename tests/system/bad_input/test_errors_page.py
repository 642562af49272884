"""The page of errors, and its place beside the tests."""

from __future__ import annotations

import re

import pytest

import errors_page
from bad_input import Case
from paths import SUPPORT
from ray_mr.errors import summarize_message


def test_every_case_has_its_entry() -> None:
    """The page has an entry for each case, in their order, and no other; each name is unique."""
    names = [case.name for module in errors_page.subjects() for case in module.CASES]
    assert len(set(names)) == len(names)
    assert list(errors_page.entries()) == names
    assert errors_page.PAGE.read_text() == errors_page.rendered(errors_page.entries())


WITH_A_PLACE = re.compile(
    r"\w\.yml:\d+: |--[a-z-]+: .*; did you mean |, such as |interrupted: |: write s3:|: name it "
)
"""What says by itself where to look and what is allowed there."""


def test_every_error_has_advice() -> None:
    """Where a command ends with an error, its message has lines that say what to do.

    Where the user's program failed, the end of its stderr or its traceback may take their place.
    """
    without = []
    for name, text in errors_page.entries().items():
        _, mark, message = text.partition("    ray-mr: error: ")
        lines = message.rstrip().splitlines()
        if mark and len(lines) == 1 and not WITH_A_PLACE.search(lines[0]):
            without.append((name, lines))
    assert without == []


def test_every_subject_is_listed() -> None:
    """No test module of bad input is left out of the page."""
    there = {path.stem for path in (SUPPORT / "bad_input_cases").glob("[a-z]*.py")}
    assert set(errors_page.SUBJECTS) == there


def test_an_entry_that_is_not_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that changed is noticed."""
    monkeypatch.delenv("RAY_MR_WRITE_ERRORS", raising=False)
    case = Case("An unknown key", "ray-mr run job.yml --engine local", 2, ())
    with pytest.raises(AssertionError, match="make messages"):
        errors_page.compare(case, "ray-mr: error: something else")


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("", ""),
        ("x raised KeyError: 'y'\nTraceback:\n  z", "x raised KeyError: 'y'"),
        ("x died; the end of its stderr:\na\nb", "x died; the end of its stderr: b"),
    ],
)
def test_summarize_message_quotes_last_line(message: str, line: str) -> None:
    """A message in one line ends with the last line of stderr."""
    assert summarize_message(message) == line
