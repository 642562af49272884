"""Layout of a result: the URIs of its parts, its marks and its report.

A result is one of three things, as ``output`` alone shows:

- a file: ``/out/os.txt``;
- numbered files, one for each part: ``/out/os-*.txt`` (``is_numbered``);
- a prefix: ``/out/`` or ``s3://bucket/out/`` (``is_prefix``), with ``part-00000`` and so on,
  ``manifest.json`` and ``_SUCCESS``.  A prefix without ``_SUCCESS`` holds no result.
"""

from __future__ import annotations

import os
import re

from ray_mr.storage.side_files import MANIFEST, REPORT, SUCCESS
from ray_mr.stores.registry import writable_store_for

FAILED_REPORT = f"failed-{REPORT}"
REPORTS = (REPORT, FAILED_REPORT)
_DEFAULT_NAME = re.compile(r"result(-\*)?\.txt")
"""Names of results where the user has chosen no other."""


def is_prefix(output: str) -> bool:
    """Return whether a result is parts below a prefix."""
    return output.endswith("/")


def is_numbered(output: str) -> bool:
    """Return whether a result is a file for each part, ``name-*.txt``."""
    return "://" not in output and "*" in output[output.rfind("/") + 1 :]


def locate_part(output: str, part: int) -> str:
    """Return the URI of a part; a result of one file holds all parts."""
    if is_numbered(output):
        head, _, last = output.rpartition("/")
        return f"{head}/{last.replace('*', f'{part:05d}', 1)}" if head else last
    return output + format_part_name(part) if is_prefix(output) else output


def format_part_name(part: int) -> str:
    """Return a name like ``part-00000``."""
    return f"part-{part:05d}"


def locate_report(output: str) -> str:
    """Return the URI of a run's report: beside the file, or below the prefix.

    It is ``report.json`` beside ``result.txt`` and its parts, as TaskCluster's artifacts have it.
    Beside ``os.txt`` it is ``os.txt.report.json``: a folder may hold the results of several runs.
    """
    return _locate_beside(output, REPORT)


def locate_failed_report(output: str) -> str:
    """Return the URI of a failed run's report while an older result and its report stay."""
    return _locate_beside(output, FAILED_REPORT)


def _locate_beside(output: str, file: str) -> str:
    folder, name = _split(output)
    head = "" if not name or _DEFAULT_NAME.fullmatch(name) else name.replace("*", "") + "."
    return f"{folder}{head}{file}"


def locate_record(output: str) -> str:
    """Return the URI of a publication's record while it is carried out; see ``publication``."""
    folder, name = _split(output)
    return f"{folder}.{name}.ray-mr-publishing" if name else f"{folder}_ray_mr_publishing"


def locate_change(output: str, name: str) -> str | None:
    """Return the URI of a name in a publication's record.

    Returns:
        ``None`` if no publication at this output may change an object of this name.
    """
    folder, own = _split(output)
    uri = folder + name
    if uri in (locate_report(output), locate_failed_report(output)):
        return uri
    if not (is_prefix(output) or is_numbered(output)):
        return resolve_link(output) if name == own else None
    mark = is_prefix(output) and name in (MANIFEST, SUCCESS)
    return uri if mark or _make_part_pattern(output).fullmatch(name) else None


def _split(output: str) -> tuple[str, str]:
    """Return the folder, with its ``/``, and the name; the name of a prefix is empty."""
    end = output.rfind("/") + 1
    return output[:end], output[end:]


def find_parts(output: str) -> list[str]:
    """Return the URIs of all existing parts, of whichever run, in order.

    Raises:
        JobError: The store can only be read.
        StoreError: The store cannot list them.
    """
    store = writable_store_for(output)
    if not (is_prefix(output) or is_numbered(output)):
        return [output] if store.exists(output) else []
    start = f"{output}part-" if is_prefix(output) else output[: output.rindex("*")]
    pattern = _make_part_pattern(output)
    uris = store.list_siblings(start)
    return [uri for uri in uris if pattern.fullmatch(uri.rpartition("/")[2])]


def _make_part_pattern(output: str) -> re.Pattern[str]:
    """Return the pattern of part names of any run with this output."""
    head, tail = "part-", ""
    if is_numbered(output):
        head, tail = _split(output)[1].split("*", 1)
    return re.compile(f"{re.escape(head)}[0-9]{{5}}{re.escape(tail)}", re.DOTALL)


def resolve_link(output: str) -> str:
    """Return the file to write for a local output of one file: a link's target, or itself."""
    return os.path.realpath(output) if "://" not in output and os.path.islink(output) else output  # noqa: PTH114
