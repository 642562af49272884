"""Functions given as mapper or reducer that cannot go where they are to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bad_input import Case, as_process

if TYPE_CHECKING:
    from bad_input import User

SUBJECT = "Functions"
PROGRAM = """\
import sys, threading
import ray_mr

{source}
try:
    job = ray_mr.Job(inputs=["in.txt"], records="text", mapper={mapper}, reducer={reducer})
    ray_mr.run(job, engine="local")
except ray_mr.RayMrError as error:
    sys.stderr.write(f"ray-mr: error: {{error}}\\n")
    sys.exit(error.exit_code)
"""


def function(
    name: str, source: str, code: int, *says: str, mapper: str = "mapper", reducer: str = "None"
) -> Case:
    """A Python program that runs a job with functions."""
    program = PROGRAM.format(source=source, mapper=mapper, reducer=reducer)
    return Case(
        name,
        "python count.py",
        code,
        says,
        files={"in.txt": "one\n", "count.py": program},
        run=as_process,
        shown="\n".join(f"count.py: {line}" for line in source.splitlines()),
        note="In a Python program, this is the text of the error that is raised.",
    )


LOCKED = """\
lock = threading.Lock()
def mapper(file, line):
    with lock:
        return line + "\\n"
"""
OPENED = """\
seen = open("seen.txt", "w")
def mapper(file, line):
    print(line, file=seen)
"""
LARGE = """\
table = bytes(20_000_000)
def mapper(file, line):
    return str(len(table)) + "\\n"
"""
FINE = """\
def mapper(file, line):
    return line + " 1\\n"
lock = threading.Lock()
def reduce(key, values):
    with lock:
        return key
"""
CASES = [
    function(
        "A function that does not pickle",
        LOCKED,
        2,
        "ray-mr: error: function mapper cannot be sent to the workers",
        "cannot pickle '_thread.lock' object",
        "inside the function",
    ),
    function(
        "A function with an open file",
        OPENED,
        2,
        "function mapper cannot be sent to the workers",
        "inside the function",
    ),
    function(
        "A reduce function that does not pickle",
        FINE,
        2,
        "function reduce cannot be sent to the workers",
        reducer="reduce",
    ),
    function(
        "A function with 20 MB of data around it",
        LARGE,
        2,
        "mapper: ",
        "over 16.0 MiB",
        "it travels with every task",
    ),
    function(
        "A mapper that is no function",
        "mapper = 7\n",
        2,
        "mapper",
    ),
]


def prepare(user: User) -> None:
    """Create the file that the functions look for."""
    (user.folder / "seen.txt").touch()
