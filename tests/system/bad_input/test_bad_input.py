"""Every mistake and odd input of ``bad_input_cases``, as its user would meet it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import errors_page

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from bad_input import Case, User


def parameters() -> Iterator[object]:
    for module in errors_page.subjects():
        subject = module.__name__.rpartition(".")[2]
        needs = getattr(module, "FIXTURES", ())
        marks = [pytest.mark.ray] if getattr(module, "NEEDS_RAY", False) else []
        for case in module.CASES:
            yield pytest.param(needs, module, case, id=f"{subject}-{case}", marks=marks)


@pytest.mark.parametrize(
    ("surroundings", "module", "case"), list(parameters()), indirect=["surroundings"]
)
@pytest.mark.usefixtures("surroundings")
def test_mistake_gets_its_message_and_leaves_nothing(
    module: ModuleType, user: User, case: Case
) -> None:
    if hasattr(module, "prepare"):
        module.prepare(user)
    outcome = user.check(case)
    if hasattr(module, "check"):
        module.check(user, outcome)
