"""A long run under every fault at once, compared with the truth: ``make soak``.

    PYTHONPATH=.:tests/support .venv/bin/python tests/support/soak.py --objects 20000 --seconds 1200
    (the same) --bad 0.01

Pings in a real S3 server behind a proxy that harms 2 % of all requests; ``ray-mr run`` on a Ray of
its own, where a program is killed every 5 s, a Ray worker every 20 s, a reducer twice, and the
driver once, after which ``--resume`` goes on.  At the end the result is that of ``truth.json`` less
exactly the objects that were made bad; nothing runs any more and nothing is left over.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo import make_pings
from fault_proxy import fault_proxy
from s3_server import S3Server, s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fault_proxy import FaultProxy

FAULTS = ["throttle", "busy", "gateway", "reset", "truncate", "corrupt", "lose-answer"]
SLOW_FAULTS = ["stall"]
"""Each costs a read time-out of a minute: in long runs only, and one where others are ten."""
FAULT_SHARE = 0.02
CHILD_EVERY_S = 5.0
WORKER_EVERY_S = 20.0
LONG_S = 300.0
PINGS = 4
LEFT_S = 90.0
"""What is killed is gone so much later."""
MAPPER = """
import time
seen = set()
def mapper(uuid, file, js):
    if file not in seen:
        seen.add(file)
        time.sleep({delay_s})
    yield js['info']['OS'], 1
"""


@dataclass
class Told:
    """What happened, for the figures."""

    killed: Counter[str] = field(default_factory=Counter)
    faults: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    starts: int = 0
    report: dict[str, Any] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        totals = self.report.get("totals", {})
        attempts = [row["attempts"] for row in self.report.get("inputs", [])]
        return {
            "seconds": round(self.seconds),
            "starts of the driver": self.starts,
            "killed": dict(self.killed),
            "faults": self.faults,
            "totals": totals,
            "attempts of an input, at most": max(attempts, default=0),
            "inputs with a wait or a cause": sum(
                "causes" in row for row in self.report.get("inputs", [])
            ),
        }


class Soak:
    """One soak; ``run`` raises AssertionError where a promise is broken."""

    def __init__(
        self, server: S3Server, folder: Path, *, objects: int, seconds: float, bad: float, seed: int
    ) -> None:
        self.server, self.folder, self.seed = server, folder, seed
        self.objects, self.limit_s = objects, seconds
        self.mark = uuid.uuid4().hex
        self.rng = random.Random(seed)
        self.bucket = server.bucket()
        self.told = Told()
        self._make(bad)
        self._write_job(seconds)

    def _make(self, bad: float) -> None:
        data = self.folder / "data"
        make_pings.make_pings(data, files=self.objects, pings=PINGS, seed=self.seed)
        truth = json.loads((data / "truth.json").read_text())["files"]
        keys = sorted(truth)
        compressed = [key for key in keys if key.endswith((".gz", ".xz", ".lzma"))]
        self.bad = set(self.rng.sample(compressed, round(bad * self.objects)))
        expected: Counter[str] = Counter()
        for key in set(keys) - self.bad:
            expected.update(truth[key]["os"])
        self.expected = dict(expected)

        def put(key: str) -> None:
            body = (data / key).read_bytes()
            if key in self.bad:
                body = body[: len(body) // 2]
            more = {"ChecksumAlgorithm": "CRC32"} if len(key) % 2 else {}
            self.server.client.put_object(Bucket=self.bucket, Key=f"in/{key}", Body=body, **more)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, keys))

    def _write_job(self, seconds: float) -> None:
        slots = len(os.sched_getaffinity(0))
        delay_s = seconds * slots / self.objects / 2
        (self.folder / "mapper.py").write_text(MAPPER.format(delay_s=round(delay_s, 4)))
        # A split takes about three seconds: kills every five hit most of them, never all.
        share = max(1, round(3 / max(delay_s, 0.001)))
        (self.folder / "job.json").write_text(
            json.dumps(
                {
                    "name": "soak",
                    "inputs": [f"s3://{self.bucket}/in/"],
                    "mapper": {"script": "mapper.py"},
                    "reducer": "sum",
                    "reducers": 2,
                    "records": "uuid-json",
                    "output": f"s3://{self.bucket}/out/",
                    "attempts": 30,
                    "split_bytes": share * 4096,
                    "max_failed_inputs": len(self.bad),
                    "memory": "64MiB",
                }
            )
        )

    # ------------------------------------------------------------ harm

    def fate(self, method: str, path: str, before: int) -> str:
        """Harm a share of all requests, by a hash of what they are."""
        words = repr((self.seed, method, path.partition("?")[0], before)).encode()
        number = int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "big")
        if number % 10_000 >= FAULT_SHARE * 10_000 or before > 3:
            return ""
        kinds = 10 * FAULTS + (SLOW_FAULTS if self.limit_s >= LONG_S else [])
        return kinds[number // 10_000 % len(kinds)]

    def processes(self, part: str = "") -> list[int]:
        """Ids of the run's processes whose command line has a part."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes():
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    if words and part.encode() in words:
                        found.append(int(entry.name))
        return found

    def kill(self, what: str, part: str) -> bool:
        """SIGKILL one process of a kind, if there is any."""
        found = sorted(self.processes(part))
        if not found:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.rng.choice(found), signal.SIGKILL)
            self.told.killed[what] += 1
        return True

    def harm(self, over: threading.Event) -> None:
        """Kill children and workers by the clock, and reducers twice in the middle."""
        began = time.monotonic()
        child_s, worker_s = CHILD_EVERY_S, WORKER_EVERY_S
        reducers_s = [0.3 * self.limit_s, 0.7 * self.limit_s]
        while not over.wait(0.25):
            now = time.monotonic() - began
            if now >= child_s and self.kill("child", ".ray_mr_harness"):
                child_s = now + CHILD_EVERY_S
            if now >= worker_s and self.kill("worker", "ray::run_attempt"):
                worker_s = now + WORKER_EVERY_S
            if reducers_s and now >= reducers_s[0] and self.kill("reducer", "ray::_ReducerActor"):
                reducers_s.pop(0)

    # ------------------------------------------------------------ the run

    def start(self, endpoint: str, *words: str) -> subprocess.Popen[str]:
        """Start ``ray-mr run``."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
        environ |= self.server.environment | {
            "AWS_ENDPOINT_URL": endpoint,
            "MARK": self.mark,
            "TMPDIR": str(self.folder / "t"),
        }
        (self.folder / "t").mkdir(exist_ok=True)
        self.told.starts += 1
        command = [sys.executable, "-m", "ray_mr", "run", str(self.folder / "job.json"), *words]
        with (self.folder / f"said-{self.told.starts}").open("w") as said:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def said(self) -> str:
        """What the last start has said."""
        return (self.folder / f"said-{self.told.starts}").read_text()

    def kept(self) -> int:
        """Finished splits that are kept."""
        return sum("piece-" in name for name in self.names("out/_ray_mr_state/"))

    def run(self) -> Told:
        """Run it all, and check every promise."""
        began = time.monotonic()
        over = threading.Event()
        with fault_proxy(self.server.endpoint, self.fate) as proxy:
            harm = threading.Thread(target=self.harm, args=(over,), daemon=True)
            harm.start()
            try:
                code = self._driven(proxy)
            finally:
                over.set()
                harm.join()
            self.told.faults = {
                f"{kind} {method}": n for (kind, method), n in sorted(proxy.fired.items())
            }
        self.told.seconds = time.monotonic() - began
        assert code == 0, self.said()
        self.check()
        return self.told

    def _driven(self, proxy: FaultProxy) -> int:
        """The driver, killed once half-way and resumed; its exit code."""
        process = self.start(proxy.endpoint)
        until = time.monotonic() + self.limit_s / 2
        while process.poll() is None and (time.monotonic() < until or not self.kept()):
            time.sleep(0.25)
        assert process.poll() is None, f"it ended before it was killed: {self.said()}"
        process.kill()
        process.wait()
        self.told.killed["driver"] += 1
        process = self.start(proxy.endpoint, "--resume")
        return process.wait(timeout=20 * self.limit_s + 600)

    # ------------------------------------------------------------ what is promised

    def names(self, prefix: str = "") -> list[str]:
        """Keys in the bucket."""
        pages = self.server.client.get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"] for page in found for item in page.get("Contents", ())]

    def get(self, key: str) -> bytes:
        """An object's bytes."""
        answer = self.server.client.get_object(Bucket=self.bucket, Key=key)
        return bytes(answer["Body"].read())

    def check(self) -> None:
        """Compare with the truth, and look for what is left."""
        assert "going on: " in self.said(), self.said()
        lines = b"".join(self.get(f"out/part-{part:05d}") for part in range(2)).decode()
        found = {key: int(value) for key, value in (line.split() for line in lines.splitlines())}
        assert found == self.expected, f"{found} is not {self.expected}"
        self.told.report = report = json.loads(self.get("out/report.json"))
        assert report["totals"]["inputs"] == self.objects
        assert report["totals"]["unknown"] == 0
        failed = {row["uri"] for row in report["inputs"] if row["fate"] == "failed"}
        assert failed == {f"s3://{self.bucket}/in/{key}" for key in self.bad}
        assert all(row["cause"] for row in report["inputs"] if row["fate"] == "failed")
        self._check_left()

    def _check_left(self) -> None:
        known = ["part-", "manifest.json", "_SUCCESS", "report.json", "failed-attempts/"]
        # Failed inputs can be tried again: the state for that stays where there are some.
        known += ["_ray_mr_state/"] if self.bad else []
        allowed = tuple(f"out/{name}" for name in known)
        left = [name for name in self.names("out/") if not name.startswith(allowed)]
        assert not left, left
        uploads = self.server.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        assert not uploads, uploads
        end = time.monotonic() + LEFT_S
        while (alive := self.processes()) and time.monotonic() < end:
            time.sleep(0.25)
        assert not alive, [Path(f"/proc/{pid}/cmdline").read_bytes()[:200] for pid in alive]
        folders = list((self.folder / "t").glob("ray_mr-*/*"))
        assert not folders, folders


@contextlib.contextmanager
def soaking(objects: int, seconds: float, bad: float, seed: int) -> Iterator[Soak]:
    """A soak with its server and its folder; whatever it started is ended."""
    # A short name: Ray's sockets have room for no more.
    with (
        tempfile.TemporaryDirectory(prefix="rms-", dir="/tmp", ignore_cleanup_errors=True) as name,
        s3_server() as server,
    ):
        soak = Soak(server, Path(name), objects=objects, seconds=seconds, bad=bad, seed=seed)
        try:
            yield soak
        finally:
            for pid in soak.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=1200, help="about, without the harm")
    parser.add_argument("--bad", type=float, default=0.0, help="share of objects made bad")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with soaking(args.objects, args.seconds, args.bad, args.seed) as soak:
        told = soak.run()
    sys.stdout.write(json.dumps(told.figures(), indent=1) + "\n")


if __name__ == "__main__":
    main()
