"""Folders that a run clears: only those that ray_mr has made, known by a mark inside.

Dead letters, failed attempts and the state for ``--resume`` have folders beside an output.  A new
run clears them, so their name alone is not enough: the mark is written first and removed last.
"""

from __future__ import annotations

from ray_mr.errors import JobError
from ray_mr.stores.publication import write_object
from ray_mr.stores.registry import writable_store_for

MARK = "_ray_mr_folder"
TEXT = b"ray_mr made this folder. A later run with the same output removes it.\n"


def claim(uri: str) -> None:
    """Mark a folder as ray_mr's, before anything else is written there.

    Args:
        uri: Ends in ``/``.
    """
    if not writable_store_for(uri).exists(uri + MARK):
        write_object(uri + MARK, TEXT)


def check(uri: str, mark: str = MARK) -> None:
    """Refuse a folder of this name that ray_mr has not made.

    Args:
        uri: Ends in ``/``; there may be no such folder.
        mark: Name of the object that is in every folder of this kind.

    Raises:
        JobError: Something is there, and not the mark.
        StoreError: The store cannot say.
    """
    store = writable_store_for(uri)
    if not (store.is_empty(uri) or store.exists(uri + mark)):
        raise JobError(
            f"{uri} was not made by ray_mr, and runs with this output keep their own files there: "
            f"it has no {mark}",
            "move it away, or choose another --output",
        )


def clear(uri: str, mark: str = MARK) -> None:
    """Remove a folder, the mark last.

    Raises:
        JobError: It is not ray_mr's.
        StoreError: The store refuses.
    """
    check(uri, mark)
    writable_store_for(uri).clear(uri, last=mark)
