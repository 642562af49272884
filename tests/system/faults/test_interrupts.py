"""A run that is told to stop, or is killed, in the middle of its map: what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jobs import REDUCER, make_pings, script
from samples import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ENGINES = ["local", pytest.param("ray", marks=pytest.mark.ray)]
HARNESS = b".ray_mr_harness"

MAPPER = """
import os, subprocess, time
def mapper(uuid, file, js):
    if js['n'] == 30 and os.path.exists({hold!r}):
        helper = subprocess.Popen(['sleep', '600'])
        open({begun!r}, 'w').close()
        time.sleep(600)
    return js['info']['OS'] + ' 1\\n'
"""
JOB = """
inputs: [in/**]
records: uuid-json
mapper: {script: mapper.py}
reducer: {script: reducer.py}
split_bytes: 1
output: out/result.txt
"""


class Run:
    """A command whose mapper stops half-way as long as the file ``hold`` is there."""

    def __init__(self, folder: Path, engine: str) -> None:
        self.folder, self.engine = folder, engine
        self.mark = uuid.uuid4().hex
        self.ray: dict[str, str] = {}
        self.hold, self.begun = folder / "hold", folder / "begun"
        make_pings(folder / "in", files=4)
        source = MAPPER.format(hold=str(self.hold), begun=str(self.begun))
        script(folder, "mapper.py", source)
        script(folder, "reducer.py", REDUCER)
        (folder / "job.yml").write_text(JOB)
        for name in ("out", "tmp"):
            (folder / name).mkdir()

    def start(self, *words: str) -> subprocess.Popen[str]:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environ |= {"TMPDIR": str(self.folder / "tmp"), "MARK": self.mark} | self.ray
        run = ["run", "job.yml", "--engine", self.engine, *words]
        command = [sys.executable, "-m", "ray_mr", *run]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def start_and_hold(self) -> subprocess.Popen[str]:
        """Start the command; return when its mapper is half-way."""
        self.hold.touch()
        process = self.start()
        wait_until(lambda: self.begun.exists() or process.poll() is not None)
        if process.poll() is not None:
            pytest.fail(f"the mapper did not begin: {process.communicate()[0]}")
        return process

    def processes(self, part: bytes = b"") -> dict[int, bytes]:
        """Command lines, by id, of all processes that the command has started."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes():
                    words = (entry / "cmdline").read_bytes()
                    if part in words:
                        found[int(entry.name)] = words
            except OSError:
                continue  # it has ended meanwhile, or is not ours
        return found

    def run_folders(self) -> list[Path]:
        """What a run has made in its temporary folder, less logs kept after a failure."""
        found = (self.folder / "tmp").glob("ray_mr-*/*")
        return [path for path in found if not (path.parent / "failed").exists()]


@pytest.fixture
def started(request: pytest.FixtureRequest) -> Iterator[Run]:
    """A run in a folder with a short name, as Ray's sockets want it; nothing of it lives on."""
    folder = Path(tempfile.mkdtemp(prefix="rmi-", dir="/tmp"))
    made = Run(folder, request.param)
    yield made
    for pid in made.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def stop_half_way(started: Run, number: signal.Signals, *, everyone: bool) -> None:
    """Start, wait until the mapper is half-way, send the signal, and look for what is left."""
    process = started.start_and_hold()
    assert started.processes(HARNESS)
    assert started.run_folders()
    if everyone:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    said = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 130, said
    assert "interrupted" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert "***" not in said, "Ray's own handler aborts the process 3 s after a SIGTERM"
    wait_until(lambda: not started.processes())
    assert started.run_folders() == []
    left = {path.name for path in (started.folder / "out").iterdir()}
    assert left - {".result.txt.ray-mr-state"} == {"report.json"}, "what --resume needs may stay"
    report = json.loads((started.folder / "out" / "report.json").read_text())
    assert (report["ok"], report["exit_code"]) == (False, 130)


@pytest.mark.parametrize("started", ENGINES, indirect=True)
def test_stopped_half_way(started: Run) -> None:
    """Ctrl-C (SIGINT to all) or SIGTERM to the command: 130, nothing is left.

    The same command succeeds afterwards.  Ctrl-C on Ray is in ``bad_input_cases/interrupts.py``.
    """
    if started.engine == "local":
        stop_half_way(started, signal.SIGINT, everyone=True)
        started.begun.unlink()
    stop_half_way(started, signal.SIGTERM, everyone=False)
    started.hold.unlink()
    process = started.start()
    said = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 0, said
    result = (started.folder / "out" / "result.txt").read_text()
    assert result == "Android 20\nDarwin 20\nLinux 20\nWINNT 20\n"
    assert started.run_folders() == []


def state(pid: int) -> str:
    """Letter of a process's state; T is stopped."""
    return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("started", ["local"], indirect=True)
def test_ctrl_z_stops_programs_too_and_they_go_on_together(started: Run) -> None:
    """Programs are not in the terminal's session, so the command passes Ctrl-Z on."""
    process = started.start_and_hold()

    def states() -> set[str]:
        return {state(pid) for pid in started.processes(HARNESS) if pid != process.pid}

    process.send_signal(signal.SIGTSTP)
    wait_until(lambda: state(process.pid) == "T")
    wait_until(lambda: states() == {"T"})
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: "T" not in states())
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 130, said
    wait_until(lambda: not started.processes())


@pytest.mark.parametrize("started", ENGINES, indirect=True)
def test_next_start_cleans_up(started: Run) -> None:
    """SIGKILL of the command: its children go with it, and nothing is published.

    The next run ends what else was left (processes, the run's folder, temporary files and the state
    beside the output), and goes on from what was kept.
    """
    process = started.start_and_hold()
    assert started.processes(HARNESS)
    process.kill()
    process.wait()
    wait_until(lambda: not started.processes(HARNESS))
    assert not (started.folder / "out" / "result.txt").exists()
    assert started.run_folders()
    started.hold.unlink()
    process = started.start("--resume")
    said = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 0, said
    wait_until(lambda: not started.processes(b"sleep"))
    assert started.run_folders() == []
    names = sorted(path.name for path in (started.folder / "out").iterdir())
    assert names == ["report.json", "result.txt"]
    result = (started.folder / "out" / "result.txt").read_text()
    assert result == "Android 20\nDarwin 20\nLinux 20\nWINNT 20\n"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("started", [pytest.param("ray", marks=pytest.mark.ray)], indirect=True)
@pytest.mark.parametrize("what", [b"raylet/raylet", b"gcs/gcs_server"])
def test_ray_itself_is_killed(started: Run, what: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL of Ray's own processes: exit code 7, and the report has every input.

    Where Ray ends the run's process itself, without a word, its parent is still there.  It would do
    so long after its GCS is gone; the run sees that at once.  Nothing is published, and the next
    run goes on.
    """
    monkeypatch.setattr(started, "ray", {"RAY_gcs_rpc_server_reconnect_timeout_s": "600"})
    process = started.start_and_hold()
    found = set(started.processes(what)) - {process.pid}
    assert found
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 7, said
    assert "--resume" in said.splitlines()[-1], said
    report = json.loads((started.folder / "out" / "report.json").read_text())
    assert (report["ok"], report["exit_code"]) == (False, 7)
    fates = Counter(row["fate"] for row in report["inputs"])
    assert fates.total() == 4
    assert fates["unknown"] == report["totals"]["unknown"] > 0, "what is missing is told"
    assert not (started.folder / "out" / "result.txt").exists()
    wait_until(lambda: not started.processes(HARNESS), 60)
    if b"gcs" in what:
        assert "its gcs_server on this machine has ended" in said
        return
    started.hold.unlink()
    process = started.start("--resume")
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    assert started.run_folders() == []
    result = (started.folder / "out" / "result.txt").read_text()
    assert result == "Android 20\nDarwin 20\nLinux 20\nWINNT 20\n"
