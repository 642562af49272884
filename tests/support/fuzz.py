"""Fuzzing: a fixed number of seeds in ``make test``, RAY_MR_FUZZ_S seconds a door in ``make fuzz``.

Every round is bounded: in CPU time and in time (a hang ends in a traceback), and in memory.  A
failure names its seed; ``RAY_MR_FUZZ_SEED`` runs that one alone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import re
import resource
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

SHORT = 60
ROUND_CPU_S = 30.0
"""What a round may compute: hundreds of times what it takes."""
ROUND_S = 240.0
"""After this the process ends, with the place of each thread on stderr: nothing else helps where
a call into C does not come back, or somebody waits for ever."""
MOST_MEMORY_BYTES = 256 << 20
"""By which a test may make the process grow."""


class Hang(BaseException):
    """No ``Exception``: what is fuzzed must not take it for one of its own."""


def seeds(number: int = SHORT, share: float = 1.0) -> Iterator[random.Random]:
    """A generator for each round, seeded; a failure shows the seed.

    Args:
        number: Rounds in ``make test``.
        share: Of a door's seconds in ``make fuzz``: a door's tests share them.
    """
    one = os.environ.get("RAY_MR_FUZZ_SEED")
    seconds = float(os.environ.get("RAY_MR_FUZZ_S", "0")) * share
    begun = time.monotonic()
    # Long runs begin elsewhere each time, or they would find nothing new.
    seed = int(one) if one else random.SystemRandom().randrange(1 << 48) if seconds else 0
    done, before = 0, _peak_bytes()
    well = False
    try:
        while done < (1 if one else number) or (time.monotonic() < begun + seconds and not one):
            with _bounded():
                yield random.Random(seed)
            grown = _peak_bytes() - before
            assert grown < MOST_MEMORY_BYTES, f"the process has grown by {grown:,} bytes"
            seed, done = seed + 1, done + 1
        well = True
    finally:
        if not well:
            print(f"RAY_MR_FUZZ_SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
        print(f"fuzz: {done} rounds in {time.monotonic() - begun:.0f} s")  # noqa: T201


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """End a round that does not end."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Hang(f"a round has computed for {ROUND_CPU_S} s")

    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, ROUND_CPU_S)
    faulthandler.dump_traceback_later(ROUND_S, exit=True, file=_stderr)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        faulthandler.cancel_dump_traceback_later()


_stderr = os.fdopen(os.dup(2), "w")  # pytest's own capture begins later
_NUMBERS = [
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0xFFFF,
    1 << 16,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
]
_DIGITS = re.compile(rb"[0-9]+")


def mutated(random_: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """The data with a few changes: flips, cuts, repeats, odd numbers, pieces of others."""
    result = bytearray(data)
    for _ in range(random_.choice([1, 1, 1, 2, 3, 8])):
        at = random_.randrange(len(result) + 1) if result else 0
        if random_.random() < 0.4:  # heads are where the claims are
            at = min(at, random_.randrange(24))
        size = random_.choice([1, 1, 2, 4, 8, 64, 1000])
        match random_.randrange(9):
            case 0:
                flip = 1 << random_.randrange(8)
                result[at : at + 1] = bytes(each ^ flip for each in result[at : at + 1])
            case 1:
                result[at : at + size] = random_.randbytes(size)
            case 2:
                del result[at : at + random_.choice([size, size, len(result)])]
            case 3:
                result[at:at] = result[at : at + size] * random_.choice([1, 2, 50])
            case 4:
                result[at : at + size] = random_.choice([b"\xff", b"\0"]) * size
            case 5:
                other = random_.choice(others)
                start = random_.randrange(len(other) + 1)
                result[at:at] = other[start : start + size]
            case 6:  # a whole member, frame or line of another kind after this one
                result += random_.choice(others)
            case _:
                _put_number(random_, result, at)
    return bytes(result)


def _put_number(random_: random.Random, data: bytearray, at: int) -> None:
    """Another number in the place of one in digits, or where one of a format may be."""
    number = random_.choice(_NUMBERS)
    if (found := list(_DIGITS.finditer(data))) and random_.random() < 0.5:
        begin, end = random_.choice(found).span()
        data[begin:end] = random_.choice([b"%d", b"-%d", b"%d.5", b"0%d"]) % number
        return
    width = random_.choice([1, 2, 3, 4, 8])
    small = number % (1 << 8 * width)
    big = random_.random() < 0.5
    data[at : at + width] = small.to_bytes(width, "big" if big else "little")


_CHANGES = {
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.link": (0, 1),
    "os.symlink": (1,),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "shutil.rmtree": (0,),
}
"""Audit events that change files, and which of their arguments are paths."""


class Watch:
    """Tells which files outside a folder this process would make, change or remove.

    An audit hook cannot be taken away again: this one does nothing once it is closed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._on = False
        self.outside: list[str] = []

    def __enter__(self) -> list[str]:
        self._on = True
        sys.addaudithook(self._hook)
        return self.outside

    def __exit__(self, *_: object) -> None:
        self._on = False

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            self._look(event, args[0])
        elif event in _CHANGES:
            for index in _CHANGES[event]:
                self._look(event, args[index])

    def _look(self, event: str, path: object) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            whole = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - `..` is the point
            relative = not os.fsdecode(path).startswith("/")  # shutil walks by descriptors
            inside = whole.startswith(self._folder + "/") or whole in (self._folder, os.devnull)
            if not inside and not (relative and "/" not in os.fsdecode(path)):
                self.outside.append(f"{event} {whole}")
