"""Drivers that are killed, or that harm others, at a moment: the side of the test."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fault_world import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ray_mr.jobs.job import Job


class Work(Protocol):
    """A job, and a folder for what the driver says."""

    folder: Path

    @property
    def job(self) -> Job:
        """What the driver runs."""


class Driver:
    """Runs drivers in processes of their own.

    Args:
        environ: What they have beside our own environment: the address of a Ray.
        within: A command that runs the command after it somewhere else.
    """

    def __init__(self, environ: dict[str, str], within: Sequence[str] = ()) -> None:
        program = Path(__file__).with_name("fault_moments.py")
        self._maker = subprocess.Popen(
            [*within, sys.executable, str(program)],
            env=os.environ | environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = 0
        self._heard = b""

    def start(
        self,
        world: Work,
        moment: str = "",
        *,
        command: str = "",
        on: str = "",
        how: dict[str, Any] | None = None,
        machine: str = "",
        **environ: str,
    ) -> None:
        """Start one, which at this moment runs a command, or dies; see ``fault_moments``.

        ``how``: arguments of ``run``; ``machine``: the name of another machine than this.
        """
        assert self._maker.stdin is not None
        wanted = json.loads(world.job.model_dump_json(exclude_unset=True))
        self.said = world.folder / "said"
        order = {"job": wanted, "moment": moment, "environ": environ, "said": str(self.said)}
        order |= {"command": command, "on": on, "how": how or {"engine": "ray"}, "machine": machine}
        self._maker.stdin.write(json.dumps(order).encode() + b"\n")
        self._maker.stdin.flush()
        self.pid = self._told()

    def wait(self) -> int:
        """How it ended."""
        return self._told()

    def _told(self) -> int:
        assert self._maker.stdout is not None
        while b"\n" not in self._heard:  # a driver's id and its end may come together
            ready, _, _ = select.select([self._maker.stdout], [], [], 2 * PATIENCE_S)
            assert ready, "no driver ended"
            self._heard += os.read(self._maker.stdout.fileno(), 32)
        number, _, self._heard = self._heard.partition(b"\n")
        return int(number)

    def close(self) -> None:
        self._maker.kill()
        self._maker.communicate()
