"""Shared by the benchmarks: runs of ray_mr and of peers, with their time, CPU and memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

os.environ.pop("PYTHONUNBUFFERED", None)
"""Removed for peers too, because ray_mr does not pass it to programs that write lines."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SETTLE_S = 10.0
ROLES = {
    "ray_mr_harness": "harness children",
    "mapper.py": "map programs",
    "reducer.py": "reduce programs",
    "ray::_ReducerActor": "reducers",
    "ray::DashboardAgent": "other Ray",
    "ray::RuntimeEnvAgent": "other Ray",
    "ray::": "Ray workers",
    "raylet": "raylet",
    "gcs_server": "gcs",
    "-m ray_mr": "driver",
    "ray/": "other Ray",
}
"""Role of a process by a part of its command line; the first match counts."""
PROGRAMS = {"Ray workers": "map programs", "reducers": "reduce programs"}
"""Role of a parent's children; it has the CPU time of those that ended between two samples."""


class Watch(threading.Thread):
    """CPU seconds by role and memory of a process and all below it, from /proc."""

    def __init__(self, pid: int, *, memory: bool = False) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._ended = threading.Event()
        self._memory = memory
        self._seen: dict[int, tuple[str, float, float]] = {}
        self._parents: dict[int, int] = {}
        self.most = dict.fromkeys([*ROLES.values(), "others"], 0)
        """Maximum private memory of one process of a role, in bytes, without the store."""
        self.samples: list[int] = []
        """Bytes of memory of all processes; shared pages, the store included, count once (PSS)."""
        self.peak: dict[str, list[int]] = {}
        """Memory of each process by role at the peak of all."""
        self.start()

    def run(self) -> None:
        """Sample until the end."""
        while not self._ended.wait(0.5):
            now: dict[str, list[int]] = {}
            for pid in _tree(self._pid):
                role, size = self._look(pid)
                now.setdefault(role, []).append(size)
            total = sum(map(sum, now.values()))
            if self._memory and total:
                self.peak = now if total >= max(self.samples, default=0) else self.peak
                self.samples.append(total)

    def _look(self, pid: int) -> tuple[str, int]:
        entry = Path(f"/proc/{pid}")
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            role = next((role for mark, role in ROLES.items() if mark in line), "others")
            if not line and pid in self._seen:  # it has ended, and nobody has asked yet
                role = self._seen[pid][0]
            fields = _fields(pid)
            if role == "harness children":  # whose they are tells which side they are on
                self._parents[pid] = int(fields[1])
            # A worker changes its name with its task: one process, one role, the last reading.
            own, waited_for = (sum(map(int, fields[at : at + 2])) / TICKS_PER_S for at in (11, 13))
            self._seen[pid] = role, own, waited_for
            self.most[role] = max(self.most[role], _own(entry))
            return role, _pss(entry) if self._memory else 0
        except OSError:
            return "others", 0

    def end(self) -> dict[str, float]:
        """Return CPU seconds by role."""
        self._ended.set()
        self.join()
        total = dict.fromkeys([*ROLES.values()], 0.0)
        for pid, (role, own, _) in self._seen.items():
            side = role
            if role == "harness children":
                parent, _, _ = self._seen.get(self._parents[pid], ("", 0, 0))
                side = PROGRAMS.get(parent, "map programs")
            if side != "others":
                total[side] += own
        del total["harness children"]
        for parent, programs in PROGRAMS.items():
            seen = sum(waited for role, _, waited in self._seen.values() if role == parent)
            total[programs] = max(total[programs], seen)
        return total


def _fields(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _tree(root: int) -> list[int]:
    """A process and all below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int(_fields(int(entry.name))[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _own(entry: Path) -> int:
    """Return the private memory of a process in bytes, without mapped files."""
    for line in (entry / "status").read_text(errors="replace").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


def _pss(entry: Path) -> int:
    """Return the proportional memory of a process in bytes: shared pages count once."""
    for line in (entry / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return 0


def ray_mr(
    job: Mapping[str, Any], folder: Path, *, memory: bool = False
) -> tuple[dict[str, float], Watch]:
    """Run a job in a process of its own.

    Returns:
        Seconds by stage, ``whole`` and ``steady`` among them, and what was seen meanwhile.
    """
    (folder / "job.yml").write_text(json.dumps(job))
    os.sync()  # what others have left to be written is not on our time
    began = time.monotonic()
    argv = [sys.executable, "-m", "ray_mr", "run", "job.yml", "--force"]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log)
    watch = Watch(process.pid, memory=memory)
    code = process.wait()
    whole = time.monotonic() - began
    watch.end()
    if code:
        raise SystemExit((folder / "log.txt").read_text())
    report = json.loads((folder / "report.json").read_text())
    return {"whole": whole, **report["seconds"]}, watch


IDLE = """
import sys, ray
from ray_mr.engines.ray import private_session, process_settings, sizing
session = private_session.Session()
process_settings.prepare_private(session)
options = sizing.make_options(sizing.measure_sizes(), session)
ray.init("local", include_dashboard=False, logging_level="ERROR", log_to_driver=False, **options)
print(flush=True)
sys.stdin.read()
ray.shutdown()
session.close()
"""


def idle_ray() -> int:
    """Return bytes of memory of an idle private Ray: workers, driver, all."""
    argv, pipe = [sys.executable, "-c", IDLE], subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as process:
        if process.stdout is not None:
            process.stdout.readline()
        time.sleep(SETTLE_S)
        return sum(_pss(Path(f"/proc/{pid}")) for pid in _tree(process.pid))


def print_memory(watch: Watch, idle_bytes: int) -> None:
    """Print the peak memory of all processes beyond an idle Ray, and by role at that time."""
    most = max(watch.samples, default=0)
    print(
        f"  memory: at most {most / 1e6:.0f} MB, {(most - idle_bytes) / 1e6:.0f} beyond "
        f"an idle Ray's {idle_bytes / 1e6:.0f}; then, each process:"
    )
    for role, sizes in sorted(watch.peak.items(), key=lambda item: -sum(item[1])):
        each = " ".join(f"{size / 1e6:.0f}" for size in sorted(sizes, reverse=True))
        print(f"    {role:20} {sum(sizes) / 1e6:6.0f} MB: {each}")


def run_peer(command: str, files: Sequence[str], data: Path, output: Path) -> float:
    """Run a peer's command; its result is ``{output}`` if the command names it, else its stdout.

    Returns:
        Seconds.
    """
    argv: list[str] = []
    for word in shlex.split(command):
        argv += files if word == "{files}" else [word.format(data=data, output=output)]
    os.sync()  # as for ray_mr
    began = time.monotonic()
    if "{output}" in command:
        subprocess.run(argv, check=True)
    else:
        with output.open("wb") as stream:
            subprocess.run(argv, check=True, stdout=stream)
    return time.monotonic() - began


def digest(path: Path) -> str:
    """Return a checksum of a file, or of all files below a folder in the order of their names."""
    found = hashlib.sha256()
    for each in sorted(path.iterdir()) if path.is_dir() else [path]:
        with each.open("rb") as stream:
            while data := stream.read(1 << 20):
                found.update(data)
    return found.hexdigest()[:16]


def format_times(name: str, times: Sequence[float], base: float) -> str:
    """Return a row: median, range, and the ratio to the base's median."""
    middle = statistics.median(times)
    span = f"{min(times):.1f} to {max(times):.1f}"
    ratios = f"this / base = {middle / base:.2f}, base / this = {base / middle:.2f}"
    return f"{name:24} {middle:7.1f} s  ({span})   {ratios}"


def print_profile(watches: Sequence[dict[str, float]]) -> None:
    """Print CPU seconds by role, the mean of some runs."""
    print("CPU seconds of a ray_mr run by process:")
    for role in sorted(watches[0], key=lambda role: -sum(each[role] for each in watches)):
        print(f"  {role:20} {sum(each[role] for each in watches) / len(watches):7.1f}")
