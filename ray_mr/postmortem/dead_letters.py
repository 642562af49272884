"""Dead letters: records of which a program died, whole and with all that is known of them.

They stand in a folder of the output's own beside it, two objects a record: its raw bytes, and JSON
that says where they come from and what happened.  The same job leaves the same letters.
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
    """Where the dead letters of a run with this output stand; ends in ``/``."""
    return f"{output}dead-letters/" if is_prefix(output) else f"{output}.dead-letters/"


def write_dead_letter(
    output: str, obj: StoredObject, poison: PoisonRecord, error: RayMrError
) -> str:
    """Write a letter; its URI, without the end that tells its two objects apart.

    Raises:
        StoreError: It cannot be written there.
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
