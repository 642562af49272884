"""The Python harness as a module, for tests of its functions in this process."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from ray_mr.child.languages import HARNESSES


def load_harness() -> Any:
    """Load a fresh copy.

    The harness removes the script's folder from `sys.path`; the path is restored afterwards.
    """
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("ray_mr_harness", HARNESSES / "python.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    return module
