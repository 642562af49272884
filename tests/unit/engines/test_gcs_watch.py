"""The end of a watched process."""

from __future__ import annotations

import os
import subprocess

import pytest

from ray_mr.engines.ray.gcs_watch import GcsWatch
from ray_mr.errors import EngineError


def test_watched_process_that_ends_is_named_in_an_error() -> None:
    """Also if it was not waited for; the end of other children does not matter."""
    with (
        subprocess.Popen(["/bin/sleep", "600"]) as child,
        subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as other,
    ):
        watch = GcsWatch()
        watch.watch(["sleep"])
        other.kill()
        other.wait()
        watch.check()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(EngineError, match="its sleep on this machine has ended"):
            watch.check()
        watch.close()
        watch.check()
