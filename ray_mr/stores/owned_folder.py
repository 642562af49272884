"""Folders that ray_mr owns, and that a run may therefore delete.

Dead letters, failed attempts and the state for ``--resume`` have folders beside an output, which
the next run deletes.  A user's folder may have the same name, so each of ray_mr's contains a mark:
an object that is written first (``claim``) and deleted last (``clear``).
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
        uri: Prefix that ends in ``/``.
    """
    if not writable_store_for(uri).exists(uri + MARK):
        write_object(uri + MARK, TEXT)


def check(uri: str, mark: str = MARK) -> None:
    """Check that a folder is ray_mr's or does not exist.

    Args:
        uri: Prefix that ends in ``/``.
        mark: Name of the object that every folder of this kind contains.

    Raises:
        JobError: The folder contains objects, but not the mark.
        StoreError: The store cannot list it.
    """
    store = writable_store_for(uri)
    if not (store.is_empty(uri) or store.exists(uri + mark)):
        raise JobError(
            f"{uri} was not made by ray_mr, and runs with this output keep their own files there: "
            f"it has no {mark}",
            "move it away, or choose another --output",
        )


def clear(uri: str, mark: str = MARK) -> None:
    """Delete a folder, its mark last.

    Raises:
        JobError: It is not ray_mr's.
        StoreError: The store refuses.
    """
    check(uri, mark)
    writable_store_for(uri).clear(uri, last=mark)
