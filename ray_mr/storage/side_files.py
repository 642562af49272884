"""What a listing reads of the names that it finds: data, neither hidden names nor side files.

A run writes more than its result: beside ``os.txt`` stand ``os.txt.report.json`` and maybe
``os.txt.dead-letters/`` and ``os.txt.failed-attempts/``; beside the parts in a folder with
``_SUCCESS`` stand ``manifest.json``, ``report.json`` and the same two folders.

A listing passes over such a side file where its result exists, unless the pattern itself has the
side file's word (``out/*.report.json``).  ``Selection.remark`` decides; ``there`` is asked only
about names that look like side files.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ray_mr.model import SIDE_FILE
from ray_mr.storage.patterns import Pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUCCESS, MANIFEST, REPORT = "_SUCCESS", "manifest.json", "report.json"
FOLDERS = ("dead-letters", "failed-attempts")
USUAL = ("result.txt", "result-00000.txt")
"""Results whose report is ``report.json``."""
FIRST_PART = "00000"
MAX_DASHES = 4
"""Maximum places at which the number of a part is looked for in a name."""
REMEMBERED = 64
"""Answers of ``there`` that are kept: below one folder, many objects ask for the same result."""


class Selection:
    """A pattern, and what it reads.

    Args:
        pattern: See ``Pattern``.
        there: Returns whether an object has this very name, in the form that the pattern has.
    """

    def __init__(self, pattern: str, there: Callable[[str], bool]) -> None:
        self.pattern = Pattern(pattern)
        self._words = [word for word in (MANIFEST, REPORT, *FOLDERS) if word not in pattern]
        self._there = functools.lru_cache(REMEMBERED)(there)

    def remark(self, name: str) -> str | None:
        """Return "" for a name to read, ``None`` for no match, else why it is passed over."""
        verdict = self.pattern.verdict(name)
        if verdict == "" and any(word in name for word in self._words) and self._is_side(name):
            return SIDE_FILE
        return verdict

    def _is_side(self, name: str) -> bool:
        for word in self._words:
            for results in list_results(name, word):
                listed = (result for result in results if not _is_mark(result))
                if all(map(self._matches, listed)) and all(map(self._there, results)):
                    return True
        return False

    def _matches(self, name: str) -> bool:
        return self.pattern.verdict(name) == ""


def _is_mark(name: str) -> bool:
    return name.endswith((f"/{SUCCESS}", f"/{MANIFEST}")) or name in (SUCCESS, MANIFEST)


def list_results(name: str, word: str) -> Iterator[tuple[str, ...]]:
    """Names that make a name the side file of a result, where all of one tuple exist.

    Args:
        name: With its folders.
        word: ``manifest.json``, ``report.json``, or one of ``FOLDERS``.
    """
    if word in FOLDERS:
        head, found, _ = name.partition(f"{word}/")
    else:
        head, found = name.removesuffix(word), name if name.endswith(word) else ""
    folder, base = head[: head.rfind("/") + 1], head[head.rfind("/") + 1 :]
    if not found or (base and not base.endswith(".")):
        return
    if base:
        if word == MANIFEST:
            return
        yield from _files(folder, base.removesuffix("."))
    elif word == REPORT:
        yield folder + SUCCESS, folder + MANIFEST
        yield from ((folder + result,) for result in USUAL)
    else:
        yield (folder + SUCCESS,)


def _files(folder: str, base: str) -> Iterator[tuple[str]]:
    """A result of one file, or the first of its numbered parts."""
    yield (folder + base,)
    if "*" in base:
        yield (folder + base.replace("*", FIRST_PART),)
    dashes = [at + 1 for at, letter in enumerate(base) if letter == "-"][-MAX_DASHES:]
    yield from ((f"{folder}{base[:at]}{FIRST_PART}{base[at:]}",) for at in dashes)
