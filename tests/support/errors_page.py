"""``docs/errors.md``: what every mistake gets, as the tests of bad input have seen it.

The page is made by the tests: each case compares its entry, and with ``RAY_MR_WRITE_ERRORS=1``
(``make errors-page``) writes it.
"""

from __future__ import annotations

import importlib
import os
import re
import textwrap
from typing import TYPE_CHECKING

from paths import DOCS

if TYPE_CHECKING:
    from types import ModuleType

    from bad_input import Case

PAGE = DOCS / "errors.md"
SUBJECTS = (
    "job_files",
    "stores",
    "web",
    "keys",
    "compressed",
    "records",
    "children",
    "lines",
    "functions",
    "outputs",
    "clusters",
    "interrupts",
)
"""Test modules with ``SUBJECT`` and ``CASES``, in the page's order."""
HEAD = """\
# Errors

What mistakes and odd inputs get: the command, its last words, its exit code. Made by
`make errors-page` from the tests of bad input, which also look that nothing was published where the
exit code is not 0, and that no process, partial file or temporary file was left.

Exit codes: 0 done, 1 a defect of ours, 2 the job is wrong, 3 credentials, 4 store, 5 data, 6 a
program of yours, 7 Ray, 8 the ledger does not balance, 130 interrupted.
"""
LONGEST_LINES = 12
_BEGIN = re.compile(
    r"(?m)^(?:ray-mr: error: |ray-mr: interrupted|failed: |Usage: |\w+(?:\.\w+)*Error: )"
)
_ENTRY = re.compile(r"(?m)^### (.*)\n(?s:.*?)(?=^##|\Z)")


def subjects() -> list[ModuleType]:
    """The test modules."""
    return [importlib.import_module(f"bad_input_cases.{name}") for name in SUBJECTS]


def entry(case: Case, output: str) -> str:
    """What the page says of a case.

    Args:
        case: The case.
        output: All that its command wrote, masked.
    """
    lines = [*textwrap.dedent(case.shown).strip("\n").splitlines(), f"$ {case.words}"]
    for name in re.findall(r"{(\w+)}", lines[-1]):
        lines[-1] = lines[-1].replace("{" + name + "}", f"my-{name}")
    lines += last_words(output)
    body = "".join(f"    {line}".rstrip() + "\n" for line in lines)
    said = f"Exit code {case.exit_code}. {case.note}".rstrip()
    return f"### {case.name}\n\n{said}\n\n{body}\n"


def last_words(output: str) -> list[str]:
    """The end of an output: from where it says what went wrong, or its last line."""
    if (found := _BEGIN.search(output)) is None:
        return output.splitlines()[-1:]
    lines = output[found.start() :].splitlines()
    if len(lines) > LONGEST_LINES:
        half = LONGEST_LINES // 2
        lines = [*lines[:half], "...", *lines[-half:]]
    return lines


def entries() -> dict[str, str]:
    """The page's entries by the names of their cases."""
    text = PAGE.read_text() if PAGE.exists() else ""
    return {found[1]: found[0].rstrip("\n") + "\n\n" for found in _ENTRY.finditer(text)}


def compare(case: Case, output: str) -> None:
    """See that the page's entry is what the case has got; or write it."""
    wanted = entry(case, output)
    if os.environ.get("RAY_MR_WRITE_ERRORS"):
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(rendered(entries() | {case.name: wanted}))
    assert entries().get(case.name, "") == wanted, (
        "docs/errors.md is not up to date: make errors-page"
    )


def rendered(known: dict[str, str]) -> str:
    """The page with those of the known entries that have a case."""
    text = HEAD
    for module in subjects():
        text += f"\n## {module.SUBJECT}\n\n"
        text += "".join(known.get(case.name, "") for case in module.CASES)
        text = text.rstrip("\n") + "\n"
    return text
