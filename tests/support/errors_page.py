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
