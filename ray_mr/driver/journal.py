"""What a driver has done so far, in memory that outlives its process.

``aftermath`` makes a report of it.  It is gone with its last reader, and never on a disk: addresses
of inputs may hold passwords.  Nothing heavy is imported here, for it would be twice in memory; see
``cli/supervisor.py``.
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
    from collections.abc import Iterable, Iterator

    from ray_mr.errors import RayMrError
    from ray_mr.model import AttemptEnd, FetchRetries
    from ray_mr.planning.plan import Plan


LARGE_BYTES = 4 << 10
"""Larger entries are compressed: names of counters and inputs are much alike."""


class Journal:
    """Written by a driver, read by its parent when it is gone."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.memfd_create("ray_mr-journal"), "w+b")
        self._full = False
        self._heard, self._said = os.pipe()

    def put(self, *entry: Any) -> None:
        """Add an entry.  A journal without room ends here: the run is worth more than it."""
        if self._full:
            return
        try:
            data = pickle.dumps(entry)
            if len(data) > LARGE_BYTES:
                data = pickle.dumps(zlib.compress(data, 1))
            self._file.write(data)
            self._file.flush()
        except OSError:
            self._full = True

    def end(self) -> None:
        """Say that all is told, and nothing is left to do but to end; a full disk matters not."""
        os.write(self._said, b".")

    def has_ended(self) -> bool:
        """Whether that was said since we asked last."""
        os.set_blocking(self._heard, False)
        try:
            return bool(os.read(self._heard, 1))
        except BlockingIOError:
            return False

    def ledger(self, plan: Plan) -> Ledger:
        """A ledger of this plan, of which every entry is written down."""
        # Values of env may be secrets, which are in no file.
        self.put("plan", replace(plan, job=plan.job.model_copy(update={"env": {}})))
        return _Written(plan, self)

    def entries(self) -> Iterator[tuple[str, list[Any]]]:
        """What is written, as far as it can be read."""
        self._file.seek(0)
        with contextlib.suppress(EOFError, pickle.UnpicklingError):
            while True:
                entry = pickle.load(self._file)  # noqa: S301 - our own process wrote it
                if isinstance(entry, bytes):
                    entry = pickle.loads(zlib.decompress(entry))  # noqa: S301 - as above
                name, *values = entry
                yield name, values


class _Written(Ledger):
    def __init__(self, plan: Plan, journal: Journal) -> None:
        super().__init__(plan)
        self._journal = journal

    def tried(self, positions: Iterable[int]) -> None:
        known = list(positions)
        self._journal.put("tried", known)
        super().tried(known)

    def fetched(self, fetch_retries: Iterable[FetchRetries]) -> None:
        known = list(fetch_retries)
        if known:
            self._journal.put("fetched", known)
        super().fetched(known)

    def delayed(self, positions: Iterable[int], error: RayMrError, pause_s: float) -> None:
        known = list(positions)
        self._journal.put("delayed", known, error, pause_s)
        super().delayed(known, error, pause_s)

    def failed(self, position: int, error: RayMrError) -> None:
        self._journal.put("failed", position, error)
        super().failed(position, error)

    def committed(self, end: AttemptEnd) -> None:
        self._journal.put("committed", end)
        super().committed(end)

    def withdrawn(self, end: AttemptEnd) -> None:
        self._journal.put("withdrawn", end)
        super().withdrawn(end)
