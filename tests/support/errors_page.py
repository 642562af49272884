"""The snapshot of all error messages, ``tests/system/bad_input/messages.md``.

The tests of bad input write it: each case compares its entry with what its command printed, and
with ``RAY_MR_WRITE_ERRORS=1`` (``make messages``) replaces the entry.
"""

from __future__ import annotations

import importlib
import os
import re
import textwrap
from typing import TYPE_CHECKING

from paths import SUPPORT

if TYPE_CHECKING:
    from types import ModuleType

    from bad_input import Case

PAGE = SUPPORT.parent / "system" / "bad_input" / "messages.md"
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
# Error messages

A snapshot: for each case of the tests of bad input, the command, the end of its output and its exit
code. `make messages` writes it. The tests also check that a failed command publishes nothing and
leaves no process, partial file or temporary file. The page for users is docs/errors.md.
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
        "tests/system/bad_input/messages.md is not up to date: make messages"
    )


def rendered(known: dict[str, str]) -> str:
    """The page with those of the known entries that have a case."""
    text = HEAD
    for module in subjects():
        text += f"\n## {module.SUBJECT}\n\n"
        text += "".join(known.get(case.name, "") for case in module.CASES)
        text = text.rstrip("\n") + "\n"
    return text
