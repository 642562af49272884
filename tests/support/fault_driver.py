"""Driver processes that are killed, or kill others, at a moment: the test's side."""

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
    """A job, and a folder for the output of its driver."""

    folder: Path

    @property
    def job(self) -> Job:
        """Job that the driver runs."""


class Driver:
    """Runs drivers in processes of their own.

    Args:
        environ: Environment variables to add, such as the address of a Ray.
        within: Prefix of the command, which runs the rest elsewhere.
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
        self._buffer = b""

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
        """Start a driver that dies at a moment, or runs a command; see ``fault_moments``.

        Args:
            world: Job and folder.
            moment: Name of the moment; empty for none.
            command: Command to run at the moment; empty to die.
            on: See ``fault_moments``.
            how: Arguments of ``run``.
            machine: Name of another machine, on which the driver believes to be.
            environ: Environment variables to add.
        """
        assert self._maker.stdin is not None
        job = json.loads(world.job.model_dump_json(exclude_unset=True))
        self.said = world.folder / "said"
        order = {"job": job, "moment": moment, "environ": environ, "said": str(self.said)}
        order |= {"command": command, "on": on, "how": how or {"engine": "ray"}, "machine": machine}
        self._maker.stdin.write(json.dumps(order).encode() + b"\n")
        self._maker.stdin.flush()
        self.pid = self._read_number()

    def wait(self) -> int:
        """Return the exit code."""
        return self._read_number()

    def _read_number(self) -> int:
        assert self._maker.stdout is not None
        while b"\n" not in self._buffer:  # a driver's id and its end may come together
            ready, _, _ = select.select([self._maker.stdout], [], [], 2 * PATIENCE_S)
            assert ready, "no driver ended"
            self._buffer += os.read(self._maker.stdout.fileno(), 32)
        number, _, self._buffer = self._buffer.partition(b"\n")
        return int(number)

    def close(self) -> None:
        self._maker.kill()
        self._maker.communicate()
