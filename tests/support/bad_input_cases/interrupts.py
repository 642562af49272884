"""Commands that are stopped half-way: by Ctrl-C, once and twice, a signal, a closed terminal."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bad_input import Case, Told, command
from samples import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from bad_input import User

SUBJECT = "Commands that are stopped"
NEEDS_RAY = True
GONE_S = 5.0
"""The last process of a command ends so soon after it was told to stop."""
MEASURED = (
    "All that it has started is gone within 5 s. Measured on 2 CPUs for which 20 processes were "
    "waiting: 0.6 to 1.3 s on engine local, 2.7 to 4.3 s on engine ray."
)
MAPPER = """\
import subprocess, time
def mapper(file, line):
    if line == 'two':
        subprocess.Popen(['sleep', '600'])
        open('{begun}', 'w').close()
        time.sleep(600)
    return line + '\\n'
"""
FILES = {
    "in/1.txt": "one\n",
    "in/2.txt": "two\n",
    "job.yml": "inputs: [in/**]\nrecords: text\nmapper: {script: mapper.py}\nsplit_bytes: 1\n",
    "mapper.py": MAPPER,
}
SILENT = {
    "job.yml": "inputs: ['s3://my-bucket/in/']\nmapper: {language: binary, script: cat}\n",
}


@dataclass(frozen=True)
class Signals:
    """Runs a command until it is half-way, and sends signals to it and all it has started."""

    numbers: tuple[signal.Signals, ...]
    alone: bool = False
    """Not to what it has started."""
    pause_s: float = 0.1

    def __call__(self, user: User, case: Case) -> Told:
        """See ``Case.run``."""
        process = subprocess.Popen(
            command(user, case),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        half_way(user, process)
        began = time.monotonic()
        for number in self.numbers:
            (os.kill if self.alone else os.killpg)(process.pid, number)
            time.sleep(self.pause_s)
        output = process.communicate(timeout=PATIENCE_S)[0]
        gone(user, began)
        return Told(process.returncode, output)


def gone(user: User, began: float) -> None:
    """See that the last process of the command ends in time after the first signal.

    Twice the time, and as many times it as processes wait for each CPU: where 20 waited for two,
    what was measured was below 5 s still.
    """
    wait_until(lambda: not user.processes())
    allowed_s = GONE_S * 2 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert time.monotonic() - began < allowed_s


def close_terminal(user: User, case: Case) -> Told:
    """Runs a command in a terminal of its own, which goes away half-way."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        ["/usr/bin/setsid", "--ctty", *command(user, case)], stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    half_way(user, process)
    began = time.monotonic()
    os.close(ours)
    process.wait(PATIENCE_S)
    gone(user, began)
    return Told(process.returncode, "")


def half_way(user: User, process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Wait until the mapper, or whatever is waited for, has begun."""
    begun = user.folder.parent / "begun"
    wait_until(lambda: begun.exists() or process.poll() is not None)
    assert begun.exists(), process.communicate()


def begin(user: User) -> None:
    user.names["begun"] = str(user.folder.parent / "begun")


def silent_store(user: User) -> None:
    """An S3 endpoint that takes connections and never answers."""
    server = user.enter(socket.create_server(("127.0.0.1", 0)))
    user.monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
    user.monkeypatch.setenv("AWS_ACCESS_KEY_ID", "made-up")
    user.monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made-up")
    (user.folder.parent / "begun").touch()


def silent(user: User, case: Case) -> Told:
    """Ctrl-C in the middle of a request."""
    return interrupted_at("list: 1 pattern", user, case)


def starting(user: User, case: Case) -> Told:
    """Ctrl-C as Ray is being started; the words differ, as it may be up in time to be stopped."""
    return Told(interrupted_at("start: Ray", user, case).exit_code, "")


def interrupted_at(line: str, user: User, case: Case) -> Told:
    """Ctrl-C as soon as the command says this."""
    process = subprocess.Popen(
        command(user, case),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert any(said == f"{line}\n" for said in process.stderr), "it has ended before"
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=PATIENCE_S)[1]
    gone(user, began)
    return Told(process.returncode, output)


def stopped(name: str, engine: str, run: Signals) -> Case:
    words = f"ray-mr run job.yml --engine {engine}"
    says = ("ray-mr: error: interrupted: nothing was published",)
    return Case(
        f"{name}, engine {engine}",
        words,
        130,
        says,
        files=FILES,
        before=begin,
        run=run,
        note=MEASURED if name == "Ctrl-C" else "",
    )


def terminal(engine: str) -> Case:
    words = f"ray-mr run job.yml --engine {engine}"
    name, note = f"A terminal that is closed, engine {engine}", "It ends as with Ctrl-C."
    return Case(name, words, 130, (), files=FILES, before=begin, run=close_terminal, note=note)


INT, TERM = signal.SIGINT, signal.SIGTERM
CASES = [
    *(stopped("Ctrl-C", engine, Signals((INT,))) for engine in ("local", "ray")),
    *(stopped("Ctrl-C twice", engine, Signals((INT, INT))) for engine in ("local", "ray")),
    stopped("SIGTERM", "local", Signals((TERM,), alone=True)),
    stopped("SIGTERM to a whole group, many times", "local", Signals((TERM,) * 5, pause_s=0.02)),
    *(terminal(engine) for engine in ("local", "ray")),
    Case(
        "Ctrl-C while Ray starts",
        "ray-mr run job.yml --engine ray",
        130,
        (),
        files=FILES,
        before=begin,
        run=starting,
    ),
    Case(
        "Ctrl-C while a store is silent",
        "ray-mr run job.yml --engine local",
        130,
        ("ray-mr: error: interrupted: nothing was published",),
        files=SILENT,
        before=silent_store,
        run=silent,
    ),
]


def prepare(user: User) -> None:
    """Let the run start a Ray of its own, and show plain lines."""
    user.monkeypatch.delenv("RAY_ADDRESS", raising=False)
    user.monkeypatch.setenv("TERM", "dumb")
