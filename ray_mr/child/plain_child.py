"""A program without a harness: file names or lines on its stdin, text on its stdout."""

from __future__ import annotations

import contextlib
from typing import IO, TYPE_CHECKING

from ray_mr.counters import Counters
from ray_mr.errors import ChildError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from ray_mr.child.launch import LaunchSpec

RESULT_NAME = "result.txt"
SPOOL_NAME = ".stdout"
SPOOL_READ_BYTES = 1 << 20


class PlainChild:
    """A program without a harness: text on its stdin, text on its stdout."""

    def __init__(self, launch: LaunchSpec) -> None:
        launch.write_program()
        self._launch = launch
        self.counters = Counters()
        """What it counted, once it has ended well."""
        self.status = ""
        """Its last ``reporter:status:``."""

    def run(self, feed: Iterable[bytes], *, left: str, hint: str) -> Generator[bytes]:
        """Feed the child and yield its stdout as it comes; empty for a moment of silence.

        Args:
            feed: Its stdin.
            left: What it has not read if it ends before the end of its stdin, for a message.
            hint: What to do then.

        Raises:
            ChildError: It crashed or hung, or ended before it had read all of its stdin.
        """
        for _ in self._launch.prepare():
            yield b""
        with self._launch.start(feed) as process:
            for data in process.chunks():
                self.status = process.status
                yield data
            process.finish()
            self.counters.add_all(process.counters)
            if process.input_closed_early:
                raise ChildError(
                    f"{process.name} closed its stdin and ended before it {left}", hint
                )


def run_lines(child: PlainChild, lines: Iterable[bytes]) -> Generator[bytes]:
    """Output of a program that reads lines on stdin, as it comes; see ``PlainChild.run``.

    Args:
        child: The program.
        lines: Whole lines, many at a time.
    """
    return child.run(
        lines,
        left="had read every line",
        hint="read stdin to its end: `sed -n 1,10p` does where `head` does not",
    )


def run_files(
    launch: LaunchSpec, paths: Iterable[bytes], counters: Counters | None = None
) -> Iterator[bytes | None]:
    """Run a program that reads file names on stdin; yield its output once it has ended well.

    Yields ``None`` for each moment while it runs, and adds its counters to ``counters``.

    Raises:
        ChildError: It crashed or hung, or closed its stdin before it had every name.
    """
    child = PlainChild(launch)
    spool = launch.folder / SPOOL_NAME
    names = (path + b"\n" for path in paths)
    told = child.run(
        names, left="was told of every file", hint="read file names until the end of stdin"
    )
    with contextlib.closing(told) as output, spool.open("wb") as target:
        for data in output:
            target.write(data)
            yield None
    if counters is not None:
        counters.add_all(child.counters)
    result = launch.folder / RESULT_NAME
    with (result if result.is_file() else spool).open("rb") as made:
        yield from _pieces(made)


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while data := stream.read(SPOOL_READ_BYTES):
        yield data
