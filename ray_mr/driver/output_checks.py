"""What a run may write, replace and delete at its output, looked at before anything is touched.

1. ``check_names``: whatever stands at one of these names is a plain file, a report of ray_mr, or
   a folder that ray_mr has made.
2. ``check_inputs``: no input, script or file of the job is among them, under whatever name.

Local files are compared by device and inode, so links and other spellings of a path do not matter;
objects of a bucket by their keys.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ray_mr.checkpoint.format import RUN, state_uri
from ray_mr.driver.publish import read_facts
from ray_mr.errors import JobError
from ray_mr.jobs.script import Script
from ray_mr.postmortem import dead_letters, replay
from ray_mr.storage.patterns import make_matcher
from ray_mr.stores import owned_folder
from ray_mr.stores.layout import (
    MANIFEST,
    SUCCESS,
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

Ident = tuple[int, int]


def list_own_folders(output: str) -> dict[str, str]:
    """Folders that runs with this output clear, with the mark that is in each."""
    return {
        state_uri(output): RUN,
        dead_letters.folder_uri(output): owned_folder.MARK,
        replay.folder_uri(output): owned_folder.MARK,
    }


def _names(output: str, parts: list[str]) -> Iterator[str]:
    """URIs at which runs with this output write, replace and delete, folders aside."""
    yield from parts
    yield from (locate_report(output), locate_failed_report(output), locate_record(output))
    if is_prefix(output):
        yield from (output + MANIFEST, output + SUCCESS)
    elif not is_numbered(output):
        yield output


def check_names(output: str) -> None:
    """Refuse an output where something stands that ray_mr has not made and would replace.

    Raises:
        JobError: There is such a thing.
        StoreError: The store cannot say.
    """
    store = writable_store_for(output)
    for uri in _names(output, find_parts(output)):
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
    """Refuse a job of which an input is plainly a part of its own output, before it is listed.

    Raises:
        JobError: There is such an input.
    """
    parts = find_parts(job.output)
    names = set(_names(job.output, parts))
    for pattern in job.inputs:
        if isinstance(pattern, str):
            matches = make_matcher(pattern)
            for uri in [*filter(matches, parts), *({pattern} & names)]:
                raise _is_input(uri)


def check_inputs(job: Job, objects: Iterable[StoredObject]) -> None:
    """Refuse a run that would write over, or delete, what it reads.

    Args:
        job: Its output is absolute.
        objects: All inputs.

    Raises:
        JobError: It would.
        StoreError: The store cannot say.
    """
    if "://" in job.output:
        _check_keys(job.output, objects)
    else:
        _check_files(job, objects)


def _check_keys(output: str, objects: Iterable[StoredObject]) -> None:
    names = set(_names(output, find_parts(output)))
    below = tuple(list_own_folders(output))
    for obj in objects:
        uri = obj.uri.removesuffix(f"?versionId={obj.locator}") if obj.locator else obj.uri
        if uri in names or uri.startswith(below):
            raise _is_input(obj.uri)


def _check_files(job: Job, objects: Iterable[StoredObject]) -> None:
    own = {ident for path in _files(job.output) if (ident := _ident(path)) is not None}
    if not own:
        return
    for obj in objects:
        if "://" not in obj.uri and _ident(obj.uri) in own:
            raise _is_input(obj.uri)
    steps = (job.mapper, job.combiner, job.reducer)
    scripts = [step.script for step in steps if isinstance(step, Script) and step.script]
    for path in [*scripts, *job.files]:
        if _ident(path) in own:
            raise JobError(
                f"{path} is a file of this job, and this run would write over it",
                "choose another --output",
            )


def _files(output: str) -> Iterator[str]:
    """Paths of what stands at the output, links followed."""
    yield from _names(output, find_parts(output))
    siblings = writable_store_for(output).list_siblings(_start(output))
    yield from (path for path in siblings if path.endswith(".part"))
    for folder in list_own_folders(output):
        for below, _, names in os.walk(folder):
            yield from (os.path.join(below, name) for name in names)  # noqa: PTH118


def _start(output: str) -> str:
    return output[: output.rfind("/") + 1] + "."


def _ident(path: str) -> Ident | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - there may be millions
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _is_input(uri: str) -> JobError:
    return JobError(
        f"{uri} is an input, and this run would write over it or delete it",
        "choose another --output",
    )
