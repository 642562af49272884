"""How long to wait before something that failed for the moment is asked for again: pure functions.

Pauses grow, and each name has a jitter of its own, so that what failed together does not come back
together.  The jitter is a function of names and numbers: the same run waits the same times.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often something is tried, and what the pauses between the tries are."""

    tries: int = 3
    """In all; at least 1."""
    first_s: float = 1.0
    """Longest pause after the first try."""
    most_s: float = 60.0
    """Longest pause of all."""
    seed: str = ""
    """Another seed, other jitter."""

    def pause_s(self, name: str, tried: int) -> float | None:
        """Seconds to wait after ``tried`` tries, from half to all of the longest pause.

        ``None``: it was tried often enough.
        """
        if tried >= self.tries:
            return None
        return self.longest_s(tried) * (0.5 + 0.5 * _fraction(self.seed, name, tried))

    def longest_s(self, tried: int) -> float:
        """The pause after ``tried`` tries without its jitter: doubled each time, up to the most."""
        return min(self.first_s * 2.0 ** min(tried - 1, 32), self.most_s)


NO_RETRY = Backoff(tries=1)


def _fraction(*words: object) -> float:
    """A number from 0 to 1 that depends on the words alone."""
    digest = hashlib.blake2b(repr(words).encode("utf-8", "backslashreplace"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") / 2**64
