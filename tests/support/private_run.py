"""A command on a private Ray that pauses half-way, so that a test can inspect it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from samples import paths_below, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

JOB = """
inputs: [in.txt]
mapper: {language: binary, script: mapper.sh, feed: lines}
reducer: sum
output: out.txt
"""
MAPPER = """#!/bin/sh
touch begun
while [ -e hold ]; do sleep 0.1; done
exec cat
"""
NOBODY = 65534


class PrivateRun:
    """A job and its user's folders; other users can enter the home and temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, uuid.uuid4().hex
        self.home, self.tmp = folder / "home", folder / "t"
        self.token = self.home / ".ray" / "auth_token"
        folder.chmod(0o755)
        self.home.mkdir()
        self.tmp.mkdir()
        self.tmp.chmod(0o1777)
        (folder / "in.txt").write_text("a\t1\n")
        (folder / "job.yml").write_text(JOB)
        mapper = MAPPER.replace("begun", str(folder / "begun")).replace("hold", str(self.hold))
        self.put_mapper(mapper)

    @property
    def hold(self) -> Path:
        return self.folder / "hold"

    def put_mapper(self, source: str) -> None:
        (self.folder / "mapper.sh").write_text(source)
        (self.folder / "mapper.sh").chmod(0o755)

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        environ = {name: value for name, value in os.environ.items() if "RAY_" not in name}
        environ |= {"TMPDIR": str(self.tmp), "HOME": str(self.home), "MARK": self.mark} | more
        return subprocess.Popen(
            [sys.executable, "-m", "ray_mr", "run", "job.yml", "--engine", "ray", *words],
            cwd=self.folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            umask=0o022,
        )

    def start_and_hold(self, **more: str) -> subprocess.Popen[str]:
        """Start the command; return when its mapper runs and waits."""
        self.hold.touch()
        process = self.start(**more)
        begun = self.folder / "begun"
        wait_until(lambda: begun.exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()[0]
        return process

    def processes(self, part: bytes = b"") -> list[int]:
        """Return processes of the command with this part in their command line."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (
                    entry.name.isdigit()
                    and self.mark.encode() in (entry / "environ").read_bytes()
                    and part in (entry / "cmdline").read_bytes()
                ):
                    found.append(int(entry.name))
        return found

    def sessions(self) -> list[Path]:
        return sorted(self.tmp.glob("ray_mr-r????????"))

    def files(self) -> list[Path]:
        return [path for path in paths_below(self.tmp) if not path.is_dir() or path.is_symlink()]

    def end(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.processes())
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def private_run() -> Iterator[PrivateRun]:
    """Yield a run in a folder with a name short enough for Ray's sockets; end it afterwards."""
    run = PrivateRun(Path(tempfile.mkdtemp(prefix="rmp-", dir="/tmp")))
    try:
        yield run
    finally:
        run.end()


def listening(pids: Sequence[int]) -> dict[str, str]:
    """Return the addresses at which processes listen, as in proc(5), with the program's name."""
    owners = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            for descriptor in Path("/proc", str(pid), "fd").iterdir():
                with contextlib.suppress(OSError):
                    owners[str(descriptor.readlink())] = name
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in owners:
                found[fields[1]] = owners[f"socket:[{fields[9]}]"]
    return found
