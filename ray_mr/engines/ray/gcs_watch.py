"""Detection of the death of a private Ray's GCS.

Ray takes a minute to notice that its GCS has died, and then ends the driver without a message.
``GcsWatch.watch`` opens a process descriptor for it; ``check``, which the engine calls at each
``wait``, reports its end as an ``EngineError``.
"""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path
from typing import TYPE_CHECKING

from ray_mr.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WATCHED_PROGRAMS = ("gcs_server",)
"""Names of programs; without the raylet, whose end lets Ray end the driver before any check."""


class GcsWatch:
    """Watches child processes by the name of their program."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}  # by process descriptor
        self._poll = select.poll()

    def watch(self, programs: Sequence[str] = WATCHED_PROGRAMS) -> None:
        """Watch the children that run these programs; without effect before Linux 5.3."""
        for pid, name in _list_children():
            if name in programs:
                with contextlib.suppress(OSError):
                    descriptor = os.pidfd_open(pid)
                    self._names[descriptor] = name
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


def _list_children() -> Iterator[tuple[int, str]]:
    """Yield the process ids of this process's children and their programs' names; see proc(5)."""
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            head, _, fields = (path / "stat").read_text(errors="replace").rpartition(")")
        except OSError:
            continue
        if int(fields.split()[1]) == os.getpid():
            yield int(path.name), head.partition("(")[2]
