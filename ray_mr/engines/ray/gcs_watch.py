"""The processes of a Ray of our own that a run cannot do without, watched while they live.

Ray itself takes a minute to notice that its GCS is gone, and then ends the driver without a word.
Nothing here knows Ray but the names of its programs.
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

PROGRAMS = ("gcs_server",)
"""Not the raylet: where that is gone Ray ends the driver at its next step, a clean-up too."""


class GcsWatch:
    """Watches children of this process by their program's name."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._poll = select.poll()

    def watch(self, programs: Sequence[str] = PROGRAMS) -> None:
        """Watch those children that run these programs; kernels before 5.3 cannot."""
        for pid, name in _children():
            if name in programs:
                with contextlib.suppress(OSError):
                    descriptor = os.pidfd_open(pid)
                    self._names[descriptor] = name
                    self._poll.register(descriptor, select.POLLIN)

    def check(self) -> None:
        """Look whether all live.

        Raises:
            EngineError: One has ended.
        """
        for descriptor, _ in self._poll.poll(0):
            raise EngineError(
                f"Ray cannot go on: its {self._names[descriptor]} on this machine has ended",
                "the machine may be out of memory; go on with --resume",
            )

    def close(self) -> None:
        """Watch nothing any more."""
        for descriptor in self._names:
            self._poll.unregister(descriptor)
            os.close(descriptor)
        self._names.clear()


def _children() -> Iterator[tuple[int, str]]:
    """Processes that this one has started, and their programs' names; proc(5)."""
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            head, _, fields = (path / "stat").read_text(errors="replace").rpartition(")")
        except OSError:
            continue
        if int(fields.split()[1]) == os.getpid():
            yield int(path.name), head.partition("(")[2]
