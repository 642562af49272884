"""Work for threads of its own, so that the loop of a run never waits for a store.

What is done there tells of its own errors; here is only when it is done, and for how long anybody
waits for it.  An error that nobody thought of is raised where it is waited for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TICK_S = 0.25


class Background:
    """Does one thing after the other, a few at a time.

    Args:
        threads: How many things at a time.
        most: How many may wait.
        name: Of the threads.
    """

    def __init__(self, threads: int, most: int, name: str) -> None:
        self._threads, self._most, self._name = threads, most, name
        self._waiting: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._started = self._busy = 0
        self._closed = False
        self._defect: BaseException | None = None

    def put(self, act: Callable[[], None], check: Callable[[], None]) -> None:
        """Have something done; without effect once we are closed.

        Args:
            act: What to do.
            check: Called again and again while too many wait; what it raises ends the waiting.
        """
        with self._changed:
            while len(self._waiting) >= self._most:
                self._changed.wait(TICK_S)
                check()
            if self._closed:
                return
            self._waiting.append(act)
            self._changed.notify_all()
            if self._started < self._threads:
                self._started += 1
                # A daemon: a store that is silent must not keep the process from its end.
                threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                act = self._waiting.popleft()
                self._busy += 1
                self._changed.notify_all()
            try:
                act()
            except BaseException as error:  # noqa: BLE001 - raised by drain
                self._defect = error
            finally:
                del act  # what it holds is not needed while we wait
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()

    def drain(self, check: Callable[[], None]) -> None:
        """Wait until all is done.

        Args:
            check: Called again and again meanwhile; what it raises ends the waiting.
        """
        while not self._is_done_within(TICK_S):
            check()
        if self._defect is not None:
            raise self._defect

    def close(self, seconds: float) -> bool:
        """Wait so long at most; what has not begun then never does.  Whether all is done."""
        done = self._is_done_within(seconds)
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        return done

    def _is_done_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        with self._changed:
            while self._waiting or self._busy:
                left = until - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True
