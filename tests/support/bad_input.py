"""What the tests of bad input share: a user in a folder, what they type, and what must hold after.

A ``Case`` is one mistake or one odd input.  Each is run as its user would run it; then the exit
code, the message and the leftovers are looked at, and the entry in
``tests/system/bad_input/messages.md`` is compared (see ``errors_page``).  With few exceptions the
command runs in this process on engine ``local``, against a real S3 server, real files and real
children.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from click.testing import CliRunner

import errors_page
from ray_mr.cli.main import main
from ray_mr.stores import registry
from samples import PATIENCE_S, paths_below, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from s3_server import S3Server

T = TypeVar("T")
KEPT = (".ray-mr-state/", ".failed-attempts/", ".dead-letters/")
"""What a run that failed leaves on purpose: for `--resume`, `replay` and the user."""
OUR_THREADS = ("fetch-", "child-", "ray-runtime")


@dataclass(frozen=True)
class Told:
    """How a command ended."""

    exit_code: int
    output: str
    """All that it wrote, stdout before stderr."""


@dataclass(frozen=True)
class Case:
    """A mistake, what a user types, and what they get."""

    name: str
    """What is wrong, in words: heads the entry of ``tests/system/bad_input/messages.md``."""
    words: str
    """The command line as typed; names in braces are filled in by ``User.names``."""
    exit_code: int
    says: tuple[str, ...]
    """Parts of the message, every one of which must be there."""
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    """What is in the user's folder before; names in braces as above in text."""
    shown: str = ""
    """The part of the input that the page shows."""
    before: Callable[[User], object] | None = None
    """What else is to be done before, such as filling a bucket."""
    run: Callable[[User, Case], Told] | None = None
    """How the command is run; in this process if not given."""
    after: Callable[[User], object] | None = None
    """What else must hold afterwards."""
    result: bytes | None = None
    """The result that is there afterwards; ``None``: none that was not there before."""
    gone: tuple[str, ...] = ()
    """Files that were there before and are not afterwards."""
    note: str = ""
    """What else the page says."""

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


@dataclass
class User:
    """Somebody with a folder, in which the commands are given."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    request: pytest.FixtureRequest
    names: dict[str, str] = field(default_factory=dict)
    """What stands for the names in braces."""
    masks: dict[str, str] = field(default_factory=dict)
    """Texts that differ from run to run, with what the page has instead."""

    def __post_init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self.tmp = self.folder.parent / "tmp"
        for made in (self.folder, self.tmp):
            made.mkdir()
        self.monkeypatch.chdir(self.folder)
        self.monkeypatch.setenv("MARK_OF_THIS_TEST", self.mark)
        self.monkeypatch.setenv("TMPDIR", str(self.tmp))
        self.monkeypatch.setattr("tempfile.tempdir", str(self.tmp))
        self.masks |= {str(self.folder): "/home/me/job", str(self.tmp): "/tmp"}

    # ------------------------------------------------------------ before

    def bucket(self, objects: Mapping[str, bytes] = {}, name: str = "bucket") -> str:
        """A fresh bucket with these objects, as ``{bucket}``."""
        server: S3Server = self.request.getfixturevalue("s3")
        made = server.bucket()
        for key, content in objects.items():
            server.client.put_object(Bucket=made, Key=key, Body=content)
        self.names[name] = made
        self.masks |= {made: f"my-{name}", server.endpoint: "http://s3.example"}
        return made

    @property
    def server(self) -> S3Server:
        """The S3 server of the session."""
        server: S3Server = self.request.getfixturevalue("s3")
        return server

    def filled(self, text: str) -> str:
        """A text with its names in braces filled in."""
        for name, value in self.names.items():
            text = text.replace("{" + name + "}", value)
        return text

    def put(self, name: str, content: str | bytes) -> Path:
        """Write a file into the folder; a `.sh` may be run."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = self.filled(content).encode() if isinstance(content, str) else content
        path.write_bytes(data)
        path.chmod(0o755 if name.endswith(".sh") else 0o644)
        return path

    def enter(self, manager: AbstractContextManager[T]) -> T:
        """Enter a context for the time of the test."""
        self.request.addfinalizer(lambda: manager.__exit__(None, None, None))
        return manager.__enter__()

    def fresh_stores(self) -> None:
        """Let clients be made again from the present environment, now and afterwards."""
        registry._make_s3_of.cache_clear()
        self.request.addfinalizer(registry._make_s3_of.cache_clear)

    def small_disk(self, place: Path, size: str) -> None:
        """A disk of its own in this folder, for the time of the test; needs root."""
        place.mkdir(exist_ok=True)
        mount = ["/bin/mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"NOT TESTED: no disk can be mounted here: {done.stderr.strip()}")
        self.request.addfinalizer(lambda: subprocess.run(["/bin/umount", "-l", place], check=True))

    # ------------------------------------------------------------ the check

    def check(self, case: Case) -> Told:
        """Run a case and see that everything is as it promises, and as the page says."""
        if case.before is not None:
            case.before(self)
        for name, content in case.files.items():
            self.put(name, content)
        before = self._contents()
        outcome = (case.run or in_process)(self, case)
        message = self.masked(outcome.output)
        assert outcome.exit_code == case.exit_code, outcome.output
        for part in case.says:
            assert part in message, outcome.output
        before_it = message.partition("ray-mr: error:")[0]
        assert "Traceback (most recent call last):\n" not in before_it, outcome.output
        assert "a bug in ray_mr" not in message, outcome.output
        self._check_folder(before, case)
        self.check_nothing_is_left()
        if case.after is not None:
            case.after(self)
        errors_page.compare(case, self.masked(outcome.output))
        return outcome

    def masked(self, text: str) -> str:
        """A text without what differs from run to run."""
        for found, instead in self.masks.items():
            text = text.replace(found, instead)
        for pattern, instead in MASKS:
            text = re.sub(pattern, instead, text)
        return text

    def _contents(self) -> dict[str, bytes]:
        """All files but whole ones of what a failed run leaves on purpose."""
        found = {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in paths_below(self.folder)
            if path.is_file()
        }
        whole = {name for name in found if not name.endswith(".part")}
        kept = {name for name in whole if any(part in name for part in KEPT)}
        return {name: data for name, data in found.items() if name not in kept}

    def _check_folder(self, before: dict[str, bytes], case: Case) -> None:
        """Nothing in the folder was changed; there is a result only where one was promised."""
        after = self._contents()
        if (report := after.pop("report.json", None)) is not None and "report.json" not in before:
            assert json.loads(report)["exit_code"] == case.exit_code
        for name in [name for name in after if name.endswith("failed-report.json")]:
            assert json.loads(after.pop(name))["exit_code"] == case.exit_code
        if case.result is not None:
            assert after.pop("result.txt") == case.result
            before = {name: data for name, data in before.items() if name != "result.txt"}
        before = {name: data for name, data in before.items() if name not in case.gone}
        before.pop("report.json", None)
        assert after == before, sorted(set(after) ^ set(before))

    def check_nothing_is_left(self) -> None:
        """No child, no thread, no temporary file of the command is there any more."""
        wait_until(lambda: not self.processes())
        wait_until(lambda: not _threads())
        left = [str(path) for path in self.tmp.glob("ray_mr-*/*")]
        assert left == []

    def processes(self) -> dict[int, str]:
        """Command lines, by id, of processes that were started in this test and are there."""
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if not entry.name.isdigit() or int(entry.name) == os.getpid():
                    continue
                if self.mark.encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (
                        (entry / "cmdline").read_bytes().decode(errors="replace")
                    )
        return found

    def end_processes(self) -> None:
        """Whatever a failed test has left."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


MASKS = (
    (r"ray_mr-\d+/[0-9a-f]{12}", "ray_mr-1000/0123456789ab"),
    (r"\bafter \d+\.\d s", "after 1.2 s"),
    (r"\(process \d+\)", "(process 4711)"),
    (r"(\w)\1{49,}", r"\1\1\1..."),
    (r"(is none of (?:[^,;\n]+, ){3})[^;\n]+", r"\1..."),  # lists that grow
    (r"(?m)^ *[\^~]+ *\n", ""),  # marks below a line of a traceback, which differ by Python
)


def _threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith(OUR_THREADS)]


def in_process(user: User, case: Case) -> Told:
    """The command in this process."""
    program, *words = shlex.split(user.filled(case.words))
    assert program == "ray-mr"
    done = CliRunner().invoke(main, words, prog_name="ray-mr")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Told(done.exit_code, done.stdout + done.stderr)


def as_process(user: User, case: Case, *, before: Sequence[str] = ()) -> Told:
    """The command as a process of its own; ``before`` are words before its own."""
    done = subprocess.run(
        [*before, *command(user, case)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    return Told(done.returncode, done.stdout + done.stderr)


def command(user: User, case: Case) -> list[str]:
    """The words of a command that is to be a process."""
    program, *words = shlex.split(user.filled(case.words))
    start = {"ray-mr": ["-m", "ray_mr"], "python": []}[program]
    return [sys.executable, *start, *words]
