"""Runs of ray_mr and of peers for all benchmarks: their time, processor time and memory."""

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
"""Unset for peers too: ray_mr does not pass it to programs that write lines."""
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
"""Role of a process, by a part of its command line; the first match counts."""
PROGRAMS = {"Ray workers": "map programs", "reducers": "reduce programs"}
"""Role of the children of a role: a parent has the CPU time of those that ended between samples."""


class Watch(threading.Thread):
    """Samples CPU seconds by role, and memory, of a process and its descendants, from /proc."""

    def __init__(self, pid: int, *, memory: bool = False) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._ended = threading.Event()
        self._memory = memory
        self._processes: dict[int, tuple[str, float, float]] = {}
        self._parents: dict[int, int] = {}
        self.max_bytes = dict.fromkeys([*ROLES.values(), "others"], 0)
        """Maximum bytes of memory of one process, by role, without shared memory."""
        self.samples: list[int] = []
        """Bytes of memory of all processes (PSS: shared memory counts once)."""
        self.peak: dict[str, list[int]] = {}
        """Bytes of memory of each process, by role, at the maximum of all together."""
        self.start()

    def run(self) -> None:
        """Take samples until the end."""
        while not self._ended.wait(0.5):
            now: dict[str, list[int]] = {}
            for pid in _list_tree(self._pid):
                role, size = self._sample(pid)
                now.setdefault(role, []).append(size)
            total = sum(map(sum, now.values()))
            if self._memory and total:
                self.peak = now if total >= max(self.samples, default=0) else self.peak
                self.samples.append(total)

    def _sample(self, pid: int) -> tuple[str, int]:
        entry = Path(f"/proc/{pid}")
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            role = next((role for mark, role in ROLES.items() if mark in line), "others")
            if not line and pid in self._processes:  # a zombie
                role = self._processes[pid][0]
            fields = _read_stat(pid)
            if role == "harness children":  # the parent decides between map and reduce
                self._parents[pid] = int(fields[1])
            # A worker changes its name with its task: the last role counts.
            own, waited_for = (sum(map(int, fields[at : at + 2])) / TICKS_PER_S for at in (11, 13))
            self._processes[pid] = role, own, waited_for
            self.max_bytes[role] = max(self.max_bytes[role], _read_anonymous_bytes(entry))
            return role, _read_pss_bytes(entry) if self._memory else 0
        except OSError:
            return "others", 0

    def end(self) -> dict[str, float]:
        """Stop, and return CPU seconds by role."""
        self._ended.set()
        self.join()
        total = dict.fromkeys([*ROLES.values()], 0.0)
        for pid, (role, own, _) in self._processes.items():
            side = role
            if role == "harness children":
                parent, _, _ = self._processes.get(self._parents[pid], ("", 0, 0))
                side = PROGRAMS.get(parent, "map programs")
            if side != "others":
                total[side] += own
        del total["harness children"]
        for parent, programs in PROGRAMS.items():
            seen = sum(waited for role, _, waited in self._processes.values() if role == parent)
            total[programs] = max(total[programs], seen)
        return total


def _read_stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _list_tree(root: int) -> list[int]:
    """Return a process and its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int(_read_stat(int(entry.name))[1])
    tree = [root]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def _read_anonymous_bytes(entry: Path) -> int:
    """Return the bytes of a process's anonymous memory."""
    for line in (entry / "status").read_text(errors="replace").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


def _read_pss_bytes(entry: Path) -> int:
    """Return the bytes of a process's proportional memory (PSS)."""
    for line in (entry / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return 0


def run_ray_mr(
    job: Mapping[str, Any], folder: Path, *, memory: bool = False
) -> tuple[dict[str, float], Watch]:
    """Run a job in a process of its own.

    Returns:
        Seconds by stage, with ``whole`` and ``steady``, and the watch.
    """
    (folder / "job.yml").write_text(json.dumps(job))
    os.sync()  # earlier writes do not count
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


def measure_idle_ray() -> int:
    """Return the bytes of memory of all processes of an idle private Ray."""
    argv, pipe = [sys.executable, "-c", IDLE], subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as process:
        if process.stdout is not None:
            process.stdout.readline()
        time.sleep(SETTLE_S)
        return sum(_read_pss_bytes(Path(f"/proc/{pid}")) for pid in _list_tree(process.pid))


def print_memory(watch: Watch, idle_bytes: int) -> None:
    """Print the maximum memory of all processes, also without an idle Ray, and each by role."""
    maximum = max(watch.samples, default=0)
    print(
        f"  memory: at most {maximum / 1e6:.0f} MB, {(maximum - idle_bytes) / 1e6:.0f} beyond "
        f"an idle Ray's {idle_bytes / 1e6:.0f}; then, each process:"
    )
    for role, sizes in sorted(watch.peak.items(), key=lambda item: -sum(item[1])):
        each = " ".join(f"{size / 1e6:.0f}" for size in sorted(sizes, reverse=True))
        print(f"    {role:20} {sum(sizes) / 1e6:6.0f} MB: {each}")


def run_peer(command: str, files: Sequence[str], data: Path, output: Path) -> float:
    """Run a peer's command; its result is ``{output}`` if the command names it, else its output.

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


def compute_digest(path: Path) -> str:
    """Return a checksum of a file, or of all files in a folder in the order of their names."""
    sha256 = hashlib.sha256()
    for each in sorted(path.iterdir()) if path.is_dir() else [path]:
        with each.open("rb") as stream:
            while data := stream.read(1 << 20):
                sha256.update(data)
    return sha256.hexdigest()[:16]


def format_times(name: str, times: Sequence[float], base: float) -> str:
    """A row: median, range, and how that is to the median of what it is compared with."""
    middle = statistics.median(times)
    span = f"{min(times):.1f} to {max(times):.1f}"
    ratios = f"this / base = {middle / base:.2f}, base / this = {base / middle:.2f}"
    return f"{name:24} {middle:7.1f} s  ({span})   {ratios}"


def print_profile(watches: Sequence[dict[str, float]]) -> None:
    """Print CPU seconds by role, as the mean of all runs."""
    print("CPU seconds of a ray_mr run by process:")
    for role in sorted(watches[0], key=lambda role: -sum(each[role] for each in watches)):
        print(f"  {role:20} {sum(each[role] for each in watches) / len(watches):7.1f}")
