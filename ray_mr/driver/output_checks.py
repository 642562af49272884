"""Checks of a run's output, made before anything is touched: a run deletes only its own files.

1. ``check_names``: whatever stands at the names of the result, its reports and its folders was made
   by ray_mr, or is a plain file in place of a result.
2. ``check_patterns``, before the listing: no input is plainly a part of the output.
3. ``check_inputs``, after the listing: no input, script or file of the job is among the files that
   the run writes, replaces or deletes, under whatever name.

Local files are compared by device and inode, so links and other spellings of a path do not matter.
Objects of a bucket are compared by their keys.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ray_mr.checkpoint.format import RUN, locate_state
from ray_mr.driver.publish import read_facts
from ray_mr.errors import JobError
from ray_mr.jobs.script import Script
from ray_mr.postmortem import dead_letters, replay
from ray_mr.storage.patterns import make_matcher
from ray_mr.storage.side_files import MANIFEST, SUCCESS
from ray_mr.stores import owned_folder
from ray_mr.stores.layout import (
    find_parts,
    is_numbered,
    is_prefix,
    locate_failed_report,
    locate_record,
    locate_report,
)
from ray_mr.stores.registry import writable_store_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ray_mr.jobs.job import Job
    from ray_mr.model import StoredObject
    from ray_mr.planning.plan import Plan

Inode = tuple[int, int]
"""Device and inode number of a local file."""


def make_absolute(output: str) -> str:
    """Return an output as an absolute path, or as a URI with its scheme in small letters."""
    scheme, mark, rest = output.partition("://")
    if mark and scheme.lower() != "file":
        return f"{scheme.lower()}://{rest}"
    path = unquote(rest, errors="surrogateescape") if mark else output
    # Not Path.resolve: a link stays a link, and a prefix keeps its last slash.
    return os.path.abspath(path).rstrip("/") + "/" * path.endswith("/")  # noqa: PTH100


def list_own_folders(output: str) -> dict[str, str]:
    """Return the folders that runs with this output clear, each with the file that marks it."""
    return {
        locate_state(output): RUN,
        dead_letters.locate_folder(output): owned_folder.MARK,
        replay.locate_folder(output): owned_folder.MARK,
    }


def _list_names(output: str, parts: list[str]) -> Iterator[str]:
    """Yield the URIs that runs with this output write, replace and delete, without folders."""
    yield from parts
    yield from (locate_report(output), locate_failed_report(output), locate_record(output))
    if is_prefix(output):
        yield from (output + MANIFEST, output + SUCCESS)
    elif not is_numbered(output):
        yield output


def check_names(output: str) -> None:
    """Refuse an output at which a run would replace something that ray_mr has not made.

    Raises:
        JobError: There is such a thing.
        StoreError: The store cannot be read.
    """
    store = writable_store_for(output)
    for uri in _list_names(output, find_parts(output)):
        kind = store.get_kind(uri)
        if kind not in ("", "a link") and not (uri == output and kind == "a folder"):
            raise JobError(
                f"{uri} is {kind}, and this run would write a file in its place",
                "choose another --output",
            )
    for uri in (locate_report(output), locate_failed_report(output)):
        if store.exists(uri) and "exit_code" not in read_facts(uri):
            raise JobError(
                f"{uri} is not a report of ray_mr, and this run would write over it",
                "choose another --output, or move the file away",
            )
    for uri, mark in list_own_folders(output).items():
        owned_folder.check(uri, mark)


def check_patterns(job: Job) -> None:
    """Refuse a job with an input pattern that matches its own output.

    Raises:
        JobError: There is such an input.
    """
    parts = find_parts(job.output)
    names = set(_list_names(job.output, parts))
    for pattern in job.inputs:
        if isinstance(pattern, str):
            matches = make_matcher(pattern)
            for uri in [*filter(matches, parts), *({pattern} & names)]:
                raise _make_input_error(uri)


def check_inputs(job: Job, plan: Plan) -> None:
    """Refuse a run that would write over, or delete, one of its inputs, scripts or files.

    Args:
        job: Has an absolute output.
        plan: Has all inputs.

    Raises:
        JobError: It would.
        StoreError: The store cannot be read.
    """
    objects = (item.object for split in plan.splits for item in split.inputs)
    if "://" in job.output:
        _check_keys(job.output, objects)
    else:
        _check_files(job, objects)


def _check_keys(output: str, objects: Iterable[StoredObject]) -> None:
    names = set(_list_names(output, find_parts(output)))
    below = tuple(list_own_folders(output))
    for obj in objects:
        uri = obj.uri.removesuffix(f"?versionId={obj.locator}") if obj.locator else obj.uri
        if uri in names or uri.startswith(below):
            raise _make_input_error(obj.uri)


def _check_files(job: Job, objects: Iterable[StoredObject]) -> None:
    own = {inode for path in _list_files(job.output) if (inode := _find_inode(path)) is not None}
    if not own:
        return
    for obj in objects:
        if "://" not in obj.uri and _find_inode(obj.uri) in own:
            raise _make_input_error(obj.uri)
    steps = (job.mapper, job.combiner, job.reducer)
    scripts = [step.script for step in steps if isinstance(step, Script) and step.script]
    for path in [*scripts, *job.files]:
        if _find_inode(path) in own:
            raise JobError(
                f"{path} is a file of this job, and this run would write over it",
                "choose another --output",
            )


def _list_files(output: str) -> Iterator[str]:
    """Yield the paths of all files at the output; links are followed."""
    yield from _list_names(output, find_parts(output))
    siblings = writable_store_for(output).list_siblings(_make_sibling_prefix(output))
    yield from (path for path in siblings if path.endswith(".part"))
    for folder in list_own_folders(output):
        for below, _, names in os.walk(folder):
            yield from (os.path.join(below, name) for name in names)  # noqa: PTH118


def _make_sibling_prefix(output: str) -> str:
    return output[: output.rfind("/") + 1] + "."


def _find_inode(path: str) -> Inode | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - there may be millions
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _make_input_error(uri: str) -> JobError:
    return JobError(
        f"{uri} is an input, and this run would write over it or delete it",
        "choose another --output",
    )
