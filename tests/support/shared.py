"""Data that lies beside the checkout, in ``../shared``, and is no part of the project.

A test that needs it is skipped where it is absent, and the skip names it (``-ra`` shows it).  With
``RAY_MR_NEED_SHARED=1`` the test fails instead: where the data ought to be, nothing is left out.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from paths import TOP

if TYPE_CHECKING:
    from pathlib import Path

SHARED = TOP.parent / "shared"


def shared(name: str) -> Path:
    """A file or folder of ``../shared``; skips the test where it is absent."""
    path = SHARED / name
    if path.exists():
        return path
    reason = f"NOT TESTED: {path} is absent: it stands beside the checkout, not in it"
    if os.environ.get("RAY_MR_NEED_SHARED"):
        pytest.fail(f"{reason}, and RAY_MR_NEED_SHARED is set", pytrace=False)
    if os.environ.get("CI"):
        reason += " (under CI; RAY_MR_NEED_SHARED=1 makes this a failure)"
    pytest.skip(reason)


def real_pings() -> list[Path]:
    """The two files of five real pings, in order; see ``shared``."""
    files = sorted(shared("data/telemetry").rglob("*.lzma"))
    assert len(files) == 2
    return files
