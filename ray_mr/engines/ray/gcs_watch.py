"""Detection of the death of a private Ray's GCS.

Ray takes a minute to notice that its GCS has died, and then ends the driver without a message.
``GcsWatch.watch`` opens a process descriptor for it; ``check``, which the engine calls at each
``wait``, reports its end as an ``EngineError``.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING

from ray_mr.errors import EngineError
from ray_mr.system.process_table import read_entries

if TYPE_CHECKING:
    from collections.abc import Sequence

WATCHED_PROGRAMS = ("gcs_server",)
"""Names of programs; without the raylet, whose end lets Ray end the driver before any check."""


class GcsWatch:
    """Watches child processes by the name of their program."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}  # by process descriptor
        self._poll = select.poll()

    def watch(self, programs: Sequence[str] = WATCHED_PROGRAMS) -> None:
        """Watch the children that run these programs; without effect before Linux 5.3."""
        for entry in read_entries():
            if entry.parent == os.getpid() and entry.name in programs:
                with contextlib.suppress(OSError):
                    descriptor = os.pidfd_open(entry.pid)
                    self._names[descriptor] = entry.name
                    self._poll.register(descriptor, select.POLLIN)

    def check(self) -> None:
        """Check that all watched processes live.

        Raises:
            EngineError: One of them has ended.
        """
        for descriptor, _ in self._poll.poll(0):
            raise EngineError(
                f"Ray cannot go on: its {self._names[descriptor]} on this machine has ended",
                "the machine may be out of memory; go on with --resume",
            )

    def close(self) -> None:
        """Stop watching."""
        for descriptor in self._names:
            self._poll.unregister(descriptor)
            os.close(descriptor)
        self._names.clear()
