"""A process that a run cannot do without is missed at once."""

from __future__ import annotations

import os
import subprocess

import pytest

from ray_mr.engines.ray.gcs_watch import GcsWatch
from ray_mr.errors import EngineError


def test_ended() -> None:
    """Silent while it lives; then an error that names it, also of a child nobody waited for."""
    with (
        subprocess.Popen(["/bin/sleep", "600"]) as child,
        subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as other,
    ):
        vital = GcsWatch()
        vital.watch(["sleep"])
        other.kill()
        other.wait()
        vital.check()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(EngineError, match="its sleep on this machine has ended"):
            vital.check()
        vital.close()
        vital.check()
