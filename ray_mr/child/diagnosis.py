"""Words for messages about a program that has failed: how it ended, and what to do about it."""

from __future__ import annotations

import re
import signal

LEFTOVER_HINT = "start a process that is to go on with `> /dev/null &`, or wait for it"
"""Advice where a program's descendants hold its output."""
SILENCE_HINT = "it said nothing on stderr: let it say there why it ends"
"""Advice where a program fails without a word."""
_AWS_ERROR = re.compile(
    r"You must specify a region|Unable to locate credentials|Could not load credentials from any "
    r"providers|Region is missing"
)
"""Errors of boto3 and of the AWS SDK for JavaScript."""
_AWS_HINT = (
    "programs do not see AWS_* variables: `env` in the job passes AWS_DEFAULT_REGION and the like"
)


def describe_exit(code: int) -> str:
    """Return a return code of ``subprocess`` in words, such as "ended with exit code 3"."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (often the kernel, out of memory)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def find_advice(words: str) -> str:
    """Return what to do about a program that fails with these words; empty if unknown."""
    return _AWS_HINT if _AWS_ERROR.search(words) else ""
