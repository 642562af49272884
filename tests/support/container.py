"""Container conditions made with namespaces, mounts and cgroups, for tests.

No engine is needed, only root: a command gets its own view of the machine (a small ``/dev/shm``,
a read-only root, another user, limits of a cgroup), is process 1 in it, and all in it ends with it.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from paths import TOP

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CHECKOUT = TOP
HOST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUPS = Path("/sys/fs/cgroup")
NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
SPARE = "/mnt"
"""An existing folder without files, for mounts."""


def not_tested(why: str) -> None:
    """Skip loudly; in CI too, where it depends on the machine, and the summary names it."""
    pytest.skip(f"NOT TESTED: this machine cannot make the condition: {why}")


def need_namespaces() -> None:
    """Skip the test where namespaces cannot be made."""
    tried = subprocess.run(
        [*NAMESPACES, "mount", "-t", "tmpfs", "tmpfs", SPARE],
        check=False,
        capture_output=True,
        text=True,
    )
    if tried.returncode:
        not_tested(tried.stderr.strip())


@dataclass(frozen=True)
class Container:
    """Conditions under which a command runs."""

    folder: Path
    """Working folder, and the only one that can be written."""
    user: int = 0
    shm: str = "64m"
    """Size of ``/dev/shm``; docker's default."""
    tmp: str = ""
    """Size of ``/tmp``, if it is a file system of its own; ``none``: it cannot be written."""
    read_only: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    """Whole environment, beside PATH."""
    cgroups: Sequence[tuple[Path, str]] = ()
    """Folders of cgroups to be in, each with where it is to be seen (empty: as it is)."""

    def start(self, *words: str, stdout: int | None = None) -> subprocess.Popen[str]:
        """Start a command as process 1; stderr goes to stdout unless given."""
        stream = subprocess.PIPE if stdout is None else stdout
        return subprocess.Popen(
            [*NAMESPACES, "bash", "-ec", self._script(), "container", *words],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PATH": HOST_PATH},
        )

    def run(self, *words: str) -> tuple[int, str]:
        """Run a command; return its exit code and output."""
        with self.start(*words) as process:
            try:
                said, _ = process.communicate(timeout=240)
            except BaseException:
                process.kill()
                raise
        return process.returncode, said

    def ray_mr(self, *words: str) -> tuple[int, str]:
        """Run ``ray-mr``; return its exit code and output."""
        return self.run(sys.executable, "-m", "ray_mr", *words)

    def _script(self) -> str:
        programs = {CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)}
        kept = [*sorted(path.absolute() for path in programs), self.folder]
        closed = {folder for path in kept for folder in path.parents if _closed(folder)}
        covered = {folder for folder in closed if closed.isdisjoint(folder.parents)}
        if self.tmp:
            covered = {folder for folder in covered if Path("/tmp") not in folder.parents}
        lines = [f"echo 1 >{_q(path / 'cgroup.procs')}" for path, _ in self.cgroups]
        lines += [f"mount --bind {path} {seen}" for path, seen in self.cgroups if seen]
        lines += [f"mount -t tmpfs tmpfs {SPARE}"]
        for number, path in enumerate(kept):
            lines += [f"mkdir {SPARE}/{number}", f"mount --rbind {_q(path)} {SPARE}/{number}"]
        over = "mount -t tmpfs -o size=1m,mode=755 tmpfs"
        lines += [f"{over} {_q(path)}" for path in sorted(covered)]
        if self.tmp:
            size = "1m,mode=755" if self.tmp == "none" else f"{self.tmp},mode=1777"
            lines += [f"mount -t tmpfs -o size={size} tmpfs /tmp"]
        if self.read_only:
            lines += ["mount -o remount,ro,bind /"]
        for number, path in enumerate(kept):
            lines += [f"mkdir -p {_q(path)}", f"mount --rbind {SPARE}/{number} {_q(path)}"]
            if self.read_only and path != self.folder:
                lines += [f"mount -o remount,ro,bind {_q(path)}"]
        lines += [
            f"umount -l {SPARE}",
            f"mount -t tmpfs -o size={self.shm},mode=1777 tmpfs /dev/shm",
            f"cd {_q(self.folder)}",
        ]
        environment = {"PATH": HOST_PATH, **self.environment}
        pairs = " ".join(shlex.quote(f"{name}={value}") for name, value in environment.items())
        become = f"setpriv --reuid {self.user} --regid {self.user} --clear-groups"
        return "\n".join([*lines, f'exec {become if self.user else ""} env -i {pairs} "$@"'])


def _q(path: Path) -> str:
    return shlex.quote(str(path))


def _closed(folder: Path) -> bool:
    """Whether other users cannot look into the folder."""
    return folder.stat().st_mode & 0o005 != 0o005


# -- cgroups -----------------------------------------------------------------------------------


def _controller(name: str) -> Path:
    """Where a controller's cgroups are made; skips the test where they cannot be."""
    first = CGROUPS / name
    if (first / "cgroup.procs").exists():
        return first
    if name in _words(CGROUPS / "cgroup.subtree_control"):
        return CGROUPS
    not_tested(f"no cgroup controller {name!r}")
    raise AssertionError


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


@contextlib.contextmanager
def cgroup(controller: str, **settings: str) -> Iterator[Path]:
    """A fresh cgroup with these files written (dots as ``__``), removed at the end."""
    folder = _controller(controller) / f"ray-mr-test-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
        for name, value in settings.items():
            (folder / name.replace("__", ".")).write_text(value)
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        not_tested(f"cgroups cannot be made: {error}")
    try:
        yield folder
    finally:
        deadline = time.monotonic() + 30
        while _words(folder / "cgroup.procs") and time.monotonic() < deadline:
            time.sleep(0.05)
        for below in sorted(folder.rglob("*"), reverse=True):
            if below.is_dir():
                below.rmdir()
        folder.rmdir()


def version_1(controller: str) -> bool:
    """Whether this controller is of cgroup version 1."""
    return (CGROUPS / controller / "cgroup.procs").exists()
