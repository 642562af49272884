"""What the tree of errors promises: each crosses a process, with its exit code; all are drawn."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from ray_mr import errors
from ray_mr.errors import RayMrError


def tree(top: type[RayMrError] = RayMrError) -> list[type[RayMrError]]:
    """A class and all below it."""
    return [top, *(each for below in top.__subclasses__() for each in tree(below))]


OURS = [each for each in tree() if each.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_crosses_a_process(kind: type[RayMrError]) -> None:
    """A pickled or copied error has the same class, message, hint, text and exit code."""
    for error in (kind("what \udcff went wrong", "what to do"), kind("only this")):
        for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - ours
            assert type(other) is kind
            assert (other.message, other.hint) == (error.message, error.hint)
            assert (str(other), other.exit_code) == (str(error), error.exit_code)
            assert other.retryable is error.retryable


def test_hint_is_on_its_own_line() -> None:
    """The hint stands on a line of its own, and only if there is one."""
    assert str(RayMrError("a", "b")) == "a\n  b"
    assert str(RayMrError("a")) == "a"


def test_head_is_the_tree() -> None:
    """The tree in the module's head names every class, in its place, with its exit code."""
    drawn = re.findall(r"^( +)(\w+) +(\d+)(?: |$)", errors.__doc__ or "", re.MULTILINE)
    above: list[tuple[int, str]] = []
    found = {}
    for indent, name, code in drawn:
        while above and above[-1][0] >= len(indent):
            above.pop()
        found[name] = (above[-1][1] if above else "Exception", int(code))
        above.append((len(indent), name))
    assert found == {each.__name__: (each.__bases__[0].__name__, each.exit_code) for each in OURS}


def test_exit_codes_are_those_documented() -> None:
    """Exit codes are those of the design, and none means success."""
    assert {each.exit_code for each in OURS} == {1, 2, 3, 4, 5, 6, 7, 8, 130}
