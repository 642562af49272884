"""Pauses before something that failed for the moment is tried again: pure functions.

Pauses grow exponentially, each with a jitter, so that requests that failed together do not come
back together.  The jitter is a function of a name and numbers: the same run makes the same pauses.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Number of tries, and the pauses between them."""

    max_tries: int = 3
    """Number of tries including the first; at least 1."""
    first_pause_s: float = 1.0
    """Maximum seconds of the pause after the first try."""
    max_pause_s: float = 60.0
    """Maximum seconds of any pause."""
    seed: str = ""
    """Seed of the jitter."""

    def compute_pause_s(self, name: str, tries: int) -> float | None:
        """Return the seconds to wait after a number of tries, or ``None`` to give up.

        The jitter, which depends on ``name``, makes it between half and all of the maximum.
        """
        if tries >= self.max_tries:
            return None
        jitter = 0.5 + 0.5 * _hash_to_fraction(self.seed, name, tries)
        return self.compute_max_pause_s(tries) * jitter

    def compute_max_pause_s(self, tries: int) -> float:
        """Return the pause after a number of tries without jitter; it doubles with each try."""
        return min(self.first_pause_s * 2.0 ** min(tries - 1, 32), self.max_pause_s)


NO_RETRY = Backoff(max_tries=1)


def _hash_to_fraction(*words: object) -> float:
    """Return a number from 0 to 1 that depends on the words alone."""
    digest = hashlib.blake2b(repr(words).encode("utf-8", "backslashreplace"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") / 2**64
