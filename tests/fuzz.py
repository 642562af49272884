"""Fuzzing: a fixed number of seeds in ``make test``, RAY_MR_FUZZ_S seconds in ``make fuzz``.

A failure names its seed; ``RAY_MR_FUZZ_SEED`` runs that one alone.
"""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORT = 60


def seeds(number: int = SHORT) -> Iterator[random.Random]:
    """A generator for each round, seeded; the seed is printed, so that a failure shows it."""
    one = os.environ.get("RAY_MR_FUZZ_SEED")
    seconds = float(os.environ.get("RAY_MR_FUZZ_S", "0"))
    end = time.monotonic() + seconds
    # Long runs begin elsewhere each time, or they would find nothing new.
    seed = int(one) if one else random.SystemRandom().randrange(1 << 48) if seconds else 0
    done = 0
    while done < number or (time.monotonic() < end and not one):
        print(f"RAY_MR_FUZZ_SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
        yield random.Random(seed)
        seed, done = seed + 1, done + 1
        if one:
            return


def mutated(random_: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """The data with a few changes: flips, cuts, repeats, large numbers, pieces of others."""
    result = bytearray(data)
    for _ in range(random_.choice([1, 1, 1, 2, 3, 8])):
        at = random_.randrange(len(result) + 1) if result else 0
        if random_.random() < 0.4:  # heads are where the claims are
            at = min(at, random_.randrange(24))
        size = random_.choice([1, 1, 2, 4, 8, 64, 1000])
        match random_.randrange(7):
            case 0 if at < len(result):
                result[at] ^= 1 << random_.randrange(8)
            case 1:
                result[at : at + size] = random_.randbytes(size)
            case 2:
                del result[at : at + size]
            case 3:
                result[at:at] = result[at : at + size] * random_.choice([1, 2, 50])
            case 4:
                result[at : at + size] = random_.choice([b"\xff", b"\0"]) * size
            case 5:
                other = random_.choice(others)
                start = random_.randrange(len(other) + 1)
                result[at:at] = other[start : start + size]
            case _:
                del result[at:]
    return bytes(result)
