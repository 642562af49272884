"""The Python harness as a module, for tests of its functions in this process."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from ray_mr.child.languages import HARNESSES, LANGUAGES


def load_harness() -> Any:
    """Load a fresh copy.

    The harness removes the script's folder from `sys.path`; the path is restored afterwards.
    """
    path = list(sys.path)
    file = HARNESSES / "python" / "joined.py"
    module = ModuleType("ray_mr_harness")
    module.__file__ = str(file)
    try:
        exec(compile(LANGUAGES["python"].read_harness(), file, "exec"), vars(module))  # noqa: S102
    finally:
        sys.path[:] = path
    return module
