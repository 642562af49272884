"""Threads that work in the background, so that the loop of a run never waits for a store.

1. ``put`` queues a function and waits only while too many are queued.
2. ``drain`` waits until all are done; ``close`` waits for a limited time, then drops the rest.

A function handles its own expected errors. An unexpected exception is raised by ``drain``.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TICK_S = 0.25
"""Seconds between two calls of a caller's ``check`` while it waits."""


class Background:
    """A queue of functions, and the threads that call them.

    Args:
        threads: Maximum number of functions that run at a time.
        max_waiting: Maximum number of functions in the queue.
        name: Name of the threads.
    """

    def __init__(self, threads: int, max_waiting: int, name: str) -> None:
        self._threads, self._max_waiting, self._name = threads, max_waiting, name
        self._waiting: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._started = self._busy = 0
        self._closed = False
        self._error: BaseException | None = None

    def put(self, act: Callable[[], None], check: Callable[[], None]) -> None:
        """Queue a function; no effect after ``close``.

        Args:
            act: The function.
            check: Called every ``TICK_S`` while the queue is full; an exception ends the wait.
        """
        with self._changed:
            while len(self._waiting) >= self._max_waiting:
                self._changed.wait(TICK_S)
                check()
            if self._closed:
                return
            self._waiting.append(act)
            self._changed.notify_all()
            if self._started < self._threads:
                self._started += 1
                # A daemon: a store that does not answer must not keep the process from exiting.
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
                self._error = error
            finally:
                del act  # frees what it holds before the next wait
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()

    def drain(self, check: Callable[[], None]) -> None:
        """Wait until all functions have returned.

        Args:
            check: Called every ``TICK_S`` meanwhile; an exception ends the wait.

        Raises:
            BaseException: A function raised it.
        """
        while not self._wait_until_done(TICK_S):
            check()
        if self._error is not None:
            raise self._error

    def close(self, seconds: float) -> bool:
        """Wait for at most ``seconds``, then drop the functions that have not begun.

        Returns:
            Whether all functions have returned.
        """
        done = self._wait_until_done(seconds)
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        return done

    def _wait_until_done(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._waiting or self._busy:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                self._changed.wait(remaining)
        return True
