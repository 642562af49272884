"""Small builders that tests share: compressed content, programs of the user, settings, rows."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard
from hypothesis import settings

from ray_mr.child.launch import LaunchSpec
from ray_mr.child.process import Limits
from ray_mr.jobs.program import Program, ProgramFile
from ray_mr.shuffle.rows import RowBatch, encode_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# A busy machine is no defect: tests that promise a time measure it themselves.
settings.register_profile("samples", deadline=None)
settings.load_profile("samples")

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gz": lambda data: gzip.compress(data, mtime=0),
    "bz2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE, preset=0),
    "zst": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
}
"""One member of each codec."""

PATIENT = Limits(timeout_s=None, stall_s=60.0)
PATIENCE_S = 90.0
"""How long a test waits for what must come: only one that fails waits so long."""


def ident(number: int) -> str:
    """A uuid of 36 characters."""
    return f"{number:08x}-1111-2222-3333-444444444444"


def python(source: str, *arguments: str, name: str = "script.py", **siblings: str) -> Program:
    """A Python script fed records; keywords are modules beside it."""
    files = [ProgramFile(name, textwrap.dedent(source).encode(), executable=False)]
    files += [
        ProgramFile(f"{module}.py", textwrap.dedent(text).encode(), executable=False)
        for module, text in siblings.items()
    ]
    return Program("python", name, tuple(files), arguments, "records", function=False)


SUFFIXES = {"python": ".py", "javascript": ".js"}


def function_of(language: str, source: str, *arguments: str, stream: bool = False) -> Program:
    """A script of any language with a harness, fed records."""
    name = f"script{SUFFIXES[language]}"
    file = ProgramFile(name, textwrap.dedent(source).encode(), executable=False)
    return Program(language, name, (file,), arguments, "records", function=False, stream=stream)


def shell(source: str, *arguments: str, head: str = "#!/bin/sh") -> Program:
    """A shell script fed file names."""
    content = f"{head}\n{textwrap.dedent(source)}".encode()
    return Program(
        "binary",
        "script.sh",
        (ProgramFile("script.sh", content, executable=True),),
        arguments,
        "files",
        function=False,
    )


def make_launch(
    folder: Path,
    program: Program,
    *,
    limits: Limits = PATIENT,
    env: Mapping[str, str] | None = None,
) -> LaunchSpec:
    """Make the folder of a program; return how the program is started in it."""
    folder.mkdir(exist_ok=True)
    return LaunchSpec(program, folder, env or {}, limits)


def rows(pairs: Iterable[tuple[bytes, bytes]]) -> RowBatch:
    """Rows of these keys and values."""
    items = list(pairs)
    return encode_pairs([key for key, _ in items], [value for _, value in items])


def pairs_of(made: RowBatch) -> list[tuple[bytes, bytes]]:
    """The keys and values of rows, each as often as it is there."""
    return [
        pair
        for piece in made.expand()
        for pair in zip(piece.keys().to_pylist(), piece.values().to_pylist(), strict=True)
    ]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def paths_below(folder: Path) -> list[Path]:
    """All paths below a folder, sorted; another process may remove some meanwhile.

    ``Path.rglob`` raises where a folder goes while it is read; ``os.walk`` passes it over.
    """
    return sorted(
        Path(root, name) for root, folders, files in os.walk(folder) for name in (*folders, *files)
    )


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Wait until something holds; fail if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


def open_files() -> int:
    """How many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counts itself, the same each time
