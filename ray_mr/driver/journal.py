"""Journal of a run, in memory that outlives the driver's process.

Ray ends a driver without a word when its raylet or its GCS is lost.  The parent of the driver's
process (``cli/supervisor.py``) then makes the report from the journal:

1. The parent creates a ``Journal`` and forks.  Both processes share its memory file and its pipe.
2. The driver appends an entry for everything that changes the report: ``append``, and each call of
   the ledger that ``make_ledger`` returns.
3. The driver calls ``mark_end`` when nothing is left to do but to exit.
4. When the driver has exited, the parent looks whether it ``has_ended``.  If not, a ``RunHistory``
   (``crash_report``) repeats the entries of ``read_entries``.

The file is never on a disk, since URIs of inputs may hold passwords, and it is freed with the last
process that has it open.  This module imports nothing heavy: the parent would hold it in memory
a second time.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray_mr.driver.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_mr.planning.plan import Plan

MIN_COMPRESSED_BYTES = 4 << 10
"""Entries larger than this are compressed: names of counters and inputs are much alike."""


class Journal:
    """Entries written by a driver and read by its parent process."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.memfd_create("ray_mr-journal"), "w+b")
        self._is_full = False
        self._end_reader, self._end_writer = os.pipe()

    def append(self, name: str, *values: Any) -> None:
        """Append an entry; without effect once the memory is full, which does not end the run."""
        if self._is_full:
            return
        try:
            data = pickle.dumps((name, *values))
            if len(data) > MIN_COMPRESSED_BYTES:
                data = pickle.dumps(zlib.compress(data, 1))
            self._file.write(data)
            self._file.flush()
        except OSError:
            self._is_full = True

    def mark_end(self) -> None:
        """Note that nothing is left to do but to exit; works without free memory, too."""
        os.write(self._end_writer, b".")

    def has_ended(self) -> bool:
        """Return whether ``mark_end`` was called since the last call."""
        os.set_blocking(self._end_reader, False)
        try:
            return bool(os.read(self._end_reader, 1))
        except BlockingIOError:
            return False

    def make_ledger(self, plan: Plan) -> Ledger:
        """Return a ledger of this plan that appends each of its entries."""
        # Values of env may be secrets, which are in no file.
        self.append("plan", replace(plan, job=plan.job.model_copy(update={"env": {}})))
        return Ledger(plan, self.append)

    def read_entries(self) -> Iterator[tuple[str, list[Any]]]:
        """Yield name and values of each entry; a last entry that is cut short is left out."""
        self._file.seek(0)
        with contextlib.suppress(EOFError, pickle.UnpicklingError):
            while True:
                entry = pickle.load(self._file)  # noqa: S301 - our own process wrote it
                if isinstance(entry, bytes):
                    entry = pickle.loads(zlib.decompress(entry))  # noqa: S301 - as above
                name, *values = entry
                yield name, values
