"""Side files of results: files of earlier runs that a listing passes over as inputs.

A run writes more than its result.  Beside ``os.txt`` it writes ``os.txt.report.json`` and maybe
``os.txt.dead-letters/`` and ``os.txt.failed-attempts/``.  Beside the parts in a folder with
``_SUCCESS`` it writes ``manifest.json``, ``report.json`` and the same two folders.

How callers use it: ``Selection(pattern, exists).get_remark(name)`` for each listed name.

How it works inside: a listing passes over a side file if its result exists, unless the pattern
itself contains the side file's word (``out/*.report.json``).  ``list_results`` lists the results
that a name can belong to; ``exists`` is called only for names that look like side files.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ray_mr.model import SIDE_FILE
from ray_mr.storage.patterns import Pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUCCESS, MANIFEST, REPORT = "_SUCCESS", "manifest.json", "report.json"
"""Names of the marks and the report of a result; see ``stores/layout.py``."""
FOLDERS = ("dead-letters", "failed-attempts")
DEFAULT_RESULTS = ("result.txt", "result-00000.txt")
"""Results whose report is ``report.json``."""
FIRST_PART = "00000"
MAX_DASHES = 4
"""Maximum positions in a name at which the number of a part is looked for."""
MAX_CACHED_ANSWERS = 64
"""Maximum answers of ``exists`` that are cached; objects of one folder share a result."""


class Selection:
    """The objects that a pattern selects for reading.

    Args:
        pattern: See ``Pattern``.
        exists: Returns whether an object has exactly this name, in the form of the pattern.
    """

    def __init__(self, pattern: str, exists: Callable[[str], bool]) -> None:
        self.pattern = Pattern(pattern)
        self._words = [word for word in (MANIFEST, REPORT, *FOLDERS) if word not in pattern]
        self._exists = functools.lru_cache(MAX_CACHED_ANSWERS)(exists)

    def get_remark(self, name: str) -> str | None:
        """Return "" for a name to read, ``None`` for no match, else why it is passed over."""
        verdict = self.pattern.match(name)
        if verdict == "" and any(word in name for word in self._words) and self._is_side_file(name):
            return SIDE_FILE
        return verdict

    def _is_side_file(self, name: str) -> bool:
        for word in self._words:
            for results in list_results(name, word):
                visible = (result for result in results if not _is_mark(result))
                if all(map(self._matches, visible)) and all(map(self._exists, results)):
                    return True
        return False

    def _matches(self, name: str) -> bool:
        return self.pattern.match(name) == ""


def _is_mark(name: str) -> bool:
    return name.endswith((f"/{SUCCESS}", f"/{MANIFEST}")) or name in (SUCCESS, MANIFEST)


def list_results(name: str, word: str) -> Iterator[tuple[str, ...]]:
    """Yield the results that a name can be a side file of.

    Args:
        name: Full name, folders included.
        word: ``manifest.json``, ``report.json``, or one of ``FOLDERS``.

    Yields:
        Tuples of names; the name is a side file if all names of one tuple exist.
    """
    if word in FOLDERS:
        head, separator, _ = name.partition(f"{word}/")
        matches = bool(separator)
    else:
        head, matches = name.removesuffix(word), name.endswith(word)
    folder, base = head[: head.rfind("/") + 1], head[head.rfind("/") + 1 :]
    if not matches or (base and not base.endswith(".")):
        return
    if base:
        if word == MANIFEST:
            return
        yield from _list_files(folder, base.removesuffix("."))
    elif word == REPORT:
        yield folder + SUCCESS, folder + MANIFEST
        yield from ((folder + result,) for result in DEFAULT_RESULTS)
    else:
        yield (folder + SUCCESS,)


def _list_files(folder: str, base: str) -> Iterator[tuple[str]]:
    """Yield the names of a result of one file, or of the first of its numbered parts."""
    yield (folder + base,)
    if "*" in base:
        yield (folder + base.replace("*", FIRST_PART),)
    dashes = [at + 1 for at, letter in enumerate(base) if letter == "-"][-MAX_DASHES:]
    yield from ((f"{folder}{base[:at]}{FIRST_PART}{base[at:]}",) for at in dashes)
