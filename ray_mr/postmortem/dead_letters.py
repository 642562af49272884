"""Dead letters: records at which a program died, kept whole beside the output.

``write_dead_letter`` writes two objects for a record into the folder of ``locate_folder``::

    out.txt.dead-letters/part.gz-1a2b3c4d-line-17.record   the record's raw bytes
    out.txt.dead-letters/part.gz-1a2b3c4d-line-17.json     its object, line and error

Names depend on the record alone, so a repeated run leaves the same dead letters.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from ray_mr.stores import owned_folder
from ray_mr.stores.layout import is_prefix
from ray_mr.stores.publication import write_object
from ray_mr.system import strict_json

if TYPE_CHECKING:
    from ray_mr.errors import RayMrError
    from ray_mr.model import PoisonRecord, StoredObject

MAX_NAME_CHARS = 60


def locate_folder(output: str) -> str:
    """Return the folder of the dead letters of a run with this output; it ends in ``/``."""
    return f"{output}dead-letters/" if is_prefix(output) else f"{output}.dead-letters/"


def write_dead_letter(
    output: str, obj: StoredObject, poison: PoisonRecord, error: RayMrError
) -> str:
    """Write a dead letter; return its URI without the suffixes of its two objects.

    Args:
        output: The run's output.
        obj: Object of the record.
        poison: The record.
        error: Error with which the program died.

    Raises:
        StoreError: It cannot be written.
    """
    digest = hashlib.sha256(obj.uri.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", obj.uri.rpartition("/")[2])[:MAX_NAME_CHARS]
    uri = f"{locate_folder(output)}{stem}-{digest}-line-{poison.line}"
    facts = {
        "object": obj.uri,
        "etag": obj.etag,
        "line": poison.line,
        "bytes": len(poison.data),
        "error": type(error).__name__,
        "message": error.message,
    }
    owned_folder.claim(locate_folder(output))
    write_object(f"{uri}.record", poison.data)
    write_object(f"{uri}.json", strict_json.dumps(facts, indent=1).encode() + b"\n")
    return uri
