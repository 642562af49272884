"""What runs that were killed have left on this machine, and its end."""

from __future__ import annotations

import shutil

from ray_mr.child.process import kill_marked
from ray_mr.workdir import dead_runs


def sweep() -> None:
    """End their processes and remove their folders."""
    for folder in dead_runs():
        kill_marked(f"{folder}/")
        shutil.rmtree(folder, ignore_errors=True)
