"""Programs without a harness: file names or lines on their stdin, text on their stdout.

* Feed ``lines``, ``run_lines``: the program reads lines and writes lines, which are passed on as
  they come.
* Feed ``files``, ``run_files``: the program reads file names and leaves its output in
  ``result.txt`` or on stdout. The output stays on disk until the program has ended well.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ray_mr.counters import Counters
from ray_mr.errors import ChildError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from ray_mr.child.launch import LaunchSpec

RESULT_NAME = "result.txt"
STDOUT_NAME = ".stdout"
"""File that holds the stdout of a program of feed ``files`` until its end."""
READ_BYTES = 1 << 20


class PlainChild:
    """A program without a harness: text on its stdin, text on its stdout."""

    def __init__(self, launch: LaunchSpec) -> None:
        launch.write_program()
        self._launch = launch
        self.counters = Counters()
        """Its counters; filled when it has ended well."""
        self.status = ""
        """Its last ``reporter:status:``."""

    def run(self, feed: Iterable[bytes], *, unread: str, hint: str) -> Generator[bytes]:
        """Feed the child and yield its stdout as it comes; empty for a moment of silence.

        Args:
            feed: Its stdin.
            unread: End of the message if it ends early: "it ended before it ...".
            hint: Advice in that case.

        Raises:
            ChildError: It crashed or hung, or ended before it had read all of its stdin.
        """
        for _ in self._launch.run_setup():
            yield b""
        with self._launch.start(feed) as process:
            for data in process.read_chunks():
                self.status = process.status
                yield data
            process.finish()
            self.counters.add_all(process.counters)
            if process.input_closed_early:
                raise ChildError(
                    f"{process.name} closed its stdin and ended before it {unread}", hint
                )


def run_lines(child: PlainChild, lines: Iterable[bytes]) -> Generator[bytes]:
    """Yield the output of a program that reads lines, as it comes; see ``PlainChild.run``.

    Args:
        child: The program.
        lines: Items of one or more whole lines.
    """
    return child.run(
        lines,
        unread="had read every line",
        hint="read stdin to its end: `sed -n 1,10p` does where `head` does not",
    )


def run_files(
    launch: LaunchSpec, paths: Iterable[bytes], counters: Counters | None = None
) -> Iterator[bytes | None]:
    """Run a program that reads file names on stdin; yield its output once it has ended well.

    Yields ``None`` for each moment while it runs, and adds its counters to ``counters``.

    Raises:
        ChildError: It crashed or hung, or closed its stdin before it had read every name.
    """
    child = PlainChild(launch)
    stdout = launch.folder / STDOUT_NAME
    names = (path + b"\n" for path in paths)
    running = child.run(
        names, unread="had read every file name", hint="read file names until the end of stdin"
    )
    with contextlib.closing(running) as output, stdout.open("wb") as target:
        for data in output:
            target.write(data)
            yield None
    if counters is not None:
        counters.add_all(child.counters)
    result = launch.folder / RESULT_NAME
    with (result if result.is_file() else stdout).open("rb") as stream:
        while data := stream.read(READ_BYTES):
            yield data
