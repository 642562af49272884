"""Keys of a plan's objects: the paths below ``s3/`` under which programs see their inputs.

How the plan uses it:

1. ``make_keys_distinct`` gives each object a key of its own, by adding buckets or whole paths.
2. ``find_key_fault`` says why a key cannot be a path.
3. ``find_folder_keys`` finds keys such as ``a`` beside ``a/b``, which S3 can have and a disk
   cannot; ``check_one_folder`` refuses them where all inputs have to be below one folder.

Questions about all keys are answered by sorting them in little memory (``system/spill.py``); keys
that come in order are not sorted.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from ray_mr.errors import JobError
from ray_mr.planning.object_list import ObjectList
from ray_mr.system.spill import sort_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_mr.model import StoredObject

MAX_COMPONENT_BYTES = 255
"""Maximum length of a file name in the usual Linux file systems."""
_BREAKING = {
    "\0": "a NUL character",
    "\n": "a line break",
    "\r": "a line break",
    "//": "an empty name between slashes, or after the last",
}
"""Texts that no path may hold, with their names; children get paths as lines."""


def make_keys_distinct(objects: ObjectList) -> ObjectList:
    """Return the objects under keys that are all different.

    If two objects have the same key, each key gets its bucket in front.  If that does not separate
    them (local folders), each key becomes the whole path.

    Raises:
        JobError: Two objects have the same whole path.
    """
    if _has_distinct_keys(objects):
        return objects
    for make_key in (_make_bucket_key, _make_path_key):
        renamed = ObjectList(replace(obj, key=make_key(obj)) for obj in objects)
        if _has_distinct_keys(renamed):
            return renamed
    paths = sort_rows((_make_path_key(obj),) for obj in objects)
    repeated = next(one for (one,), (other,) in itertools.pairwise(paths) if one == other)
    raise JobError(f"two inputs would both be the file {repeated}", "read them in two runs")


def _has_distinct_keys(objects: ObjectList) -> bool:
    return all(one < other for (one, _), (other, _) in itertools.pairwise(_sort_by_key(objects)))


def _sort_by_key(objects: ObjectList) -> Iterator[tuple[str, int]]:
    """Yield keys and their objects' numbers, in the order of the keys."""
    if all(one < other for one, other in itertools.pairwise(objects.keys())):
        return zip(objects.keys(), itertools.count())
    return sort_rows(zip(objects.keys(), itertools.count()))


def _make_path_key(obj: StoredObject) -> str:
    return obj.uri.partition("://")[2] or obj.uri.lstrip("/")


def _make_bucket_key(obj: StoredObject) -> str:
    return f"{_make_path_key(obj).partition('/')[0]}/{obj.key}"


def find_key_fault(key: str) -> str:
    """Return why a key cannot be a path below a folder; an empty text if it can."""
    if key.startswith("/"):
        return "is an absolute path"
    for text, name in _BREAKING.items():
        if text in f"/{key}/":
            return f"has {name}"
    try:
        parts = key.encode("utf-8", "surrogateescape").split(b"/")
    except UnicodeEncodeError:
        return "cannot be a file name"
    if dots := next((part for part in parts if part in {b".", b".."}), None):
        return f"has the component {dots.decode()!r}"
    if (longest := max(map(len, parts))) > MAX_COMPONENT_BYTES:
        return f"has a component of {longest} bytes, over {MAX_COMPONENT_BYTES}"
    return ""


def check_one_folder(objects: ObjectList) -> None:
    """Check that all objects can be files below one folder, for a reducer that reads files.

    Raises:
        JobError: An object would have to be a file and a folder.
    """
    if numbers := find_folder_keys(objects):
        name = objects[min(numbers)].key
        raise JobError(
            f"{name} and {name}/... are both inputs: a reducer that reads files cannot have both",
            "name fewer inputs, or let it read lines (`feed: lines`)",
        )


def find_folder_keys(objects: ObjectList) -> set[int]:
    """Return the numbers of objects whose keys are folders of others, as ``a`` is of ``a/b``."""
    numbers: set[int] = set()
    prefixes: list[tuple[str, int]] = []  # earlier keys with which this one begins
    for key, number in _sort_by_key(objects):
        while prefixes and not key.startswith(prefixes[-1][0]):
            prefixes.pop()
        numbers.update(each for prefix, each in prefixes if key[len(prefix) :].startswith("/"))
        prefixes.append((key, number))
    return numbers
