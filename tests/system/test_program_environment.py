"""What programs inherit: on Ray the same as on engine local, whatever Ray sets for its workers."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from private_run import PrivateRun, private_run
from ray_mr.child import inherited
from ray_mr.child.start import make_environment
from samples import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB = """
inputs: [in.txt]
mapper: {language: binary, script: mapper.sh, feed: lines}
reducer: {language: binary, script: mapper.sh, feed: lines}
output: out.txt
"""
LOOK = """#!/bin/bash
exec 3> FOLDER/$mapred_task_is_map.txt
env -0 >&3
echo "umask $(umask); nice $(nice)" >&3
(ulimit -Sa; ulimit -Ha) >&3
grep -E '^(Sig(Blk|Ign)|Cap|NoNewPrivs)' /proc/self/status >&3
exec cat
"""
ATTEMPT = re.compile(r"mapred.*|job_local_dir|CHILD_OF_RAY_MR|PWD|_")
"""Names of variables whose values differ from attempt to attempt."""
TAKEN = {
    "PYTHONBREAKPOINT": "0",
    "OMP_NUM_THREADS": "7",
    "SPT_NOENV": "mine",
    "CUDA_VISIBLE_DEVICES": "3",
    "MIMALLOC_ALLOW_LARGE_OS_PAGES": "0",
    "LC_ALL": "POSIX",
    "OPENBLAS_NUM_THREADS": "5",
    "PYTHONPATH": "/nowhere",
    "LD_LIBRARY_PATH": "/nowhere",
}
"""Variables that Ray, ray_mr or libraries set in processes of theirs, with a user's values."""


@pytest.fixture
def private() -> Iterator[PrivateRun]:
    with private_run() as made:
        (made.folder / "job.yml").write_text(JOB)
        made.put_mapper(LOOK.replace("FOLDER", str(made.folder)))
        yield made


def seen(private: PrivateRun, engine: str, environ: dict[str, str]) -> dict[str, object]:
    """What the mapper and the reducer of a run have seen."""
    process = private.start("--engine", engine, "--force", **environ)
    said = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 0, said
    found: dict[str, object] = {}
    for program in ("true", "false"):
        *entries, rest = (private.folder / f"{program}.txt").read_text().split("\0")
        values = dict(entry.split("=", 1) for entry in entries)
        found[program] = {
            name: "" if ATTEMPT.fullmatch(name) else value for name, value in values.items()
        }
        found[f"{program} limits"] = rest.splitlines()
    return found


@pytest.mark.ray
@pytest.mark.parametrize(
    "environ",
    [{}, TAKEN, {"PYTHONBREAKPOINT": "ray.util.rpdb._driver_set_trace"}],
    ids=["unset", "taken", "below a session with Ray"],
)
def test_program_on_ray_inherits_what_it_does_on_local(
    private: PrivateRun, environ: dict[str, str]
) -> None:
    """Environment, limits, nice level, umask and signals are equal, for mappers and reducers."""
    on_local = seen(private, "local", environ)
    on_ray = seen(private, "ray", environ)
    assert on_ray == on_local
    for program in ("true", "false"):
        inside = on_ray[program]
        assert isinstance(inside, dict)
        if environ == TAKEN:
            assert {name: inside.get(name) for name in TAKEN} == TAKEN
        assert not [name for name in inside if name.startswith("RAY_")]
        if environ != TAKEN:
            assert not {"PYTHONBREAKPOINT", "OMP_NUM_THREADS", "SPT_NOENV"} & set(inside)


def test_program_of_a_session_with_ray_has_no_debugger_of_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the caller has called ``ray.init``, Ray's debugger does not reach programs."""
    monkeypatch.setenv("PYTHONBREAKPOINT", "ray.util.rpdb._driver_set_trace")
    assert "PYTHONBREAKPOINT" not in make_environment({})
    monkeypatch.setenv("PYTHONBREAKPOINT", "mine.set_trace")
    assert make_environment({})["PYTHONBREAKPOINT"] == "mine.set_trace"


def test_inherited_environment_is_that_which_was_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THIS_PROCESS", "1")
    inherited.set_environment({"OF_ANOTHER": "2", "RAY_X": "3"})
    try:
        assert make_environment({"MORE": "4"}) == {
            "OF_ANOTHER": "2",
            "PYTHONHASHSEED": "0",
            "MORE": "4",
        }
    finally:
        inherited.set_environment(None)
    assert make_environment({})["OF_THIS_PROCESS"] == os.environ["OF_THIS_PROCESS"]
