"""Removal of what killed runs have left on this machine."""

from __future__ import annotations

from ray_mr.system.processes import kill_processes_in
from ray_mr.system.scratch import find_dead_runs, remove_dead_run


def sweep() -> None:
    """Kill the processes of dead runs and remove their folders."""
    for folder in find_dead_runs():
        kill_processes_in(folder)
        remove_dead_run(folder)
