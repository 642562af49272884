"""The demo: pings in an S3 server, counted by operating system, checked against the truth.

    python -m demo.run [--engine ray|local] [--files 24] [--pings 200]

1. Generate compressed pings, with a few lines cut short (``make_pings.py``).
2. Start a real S3 server on this machine and upload them (``s3_server.py``).
3. Run ``ray-mr run analysis-tools.yml``.
4. Print result and ledger, and compare both with the truth.

Only ``demo-output/`` stays: result.txt, report.json, truth.json.  Server and temporary files are
removed in any case, after Ctrl-C too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from demo.make_pings import make_pings
from demo.s3_server import S3Server, ServerError

if TYPE_CHECKING:
    from types import FrameType

TOP = Path(__file__).resolve().parent.parent
OUT = TOP / "demo-output"
BUCKET = "ray-mr-demo"
MALFORMED = 0.002
STOP_TIMEOUT_S = 20.0
"""Timeout in seconds for ray-mr to end after Ctrl-C."""


class DemoError(Exception):
    """The job failed, or its result is wrong."""


def print_step(text: str) -> None:
    """Print the title of a step, in order with the output of children."""
    print(f"== {text}", flush=True)


def run_job(server: S3Server, engine: str) -> None:
    """Run the job in ``demo-output/`` and wait for its end; Ctrl-C reaches the job, too.

    Raises:
        DemoError: The job ended with an error.
    """
    environment = server.environment()
    environment.pop("RAY_ADDRESS", None)  # a cluster elsewhere cannot reach this server
    job = TOP / "analysis-tools.yml"
    command = [sys.executable, "-m", "ray_mr", "run", str(job), "--engine", engine, "--force"]
    print_step(f"ray-mr run {job.name} --engine {engine}")
    with subprocess.Popen(command, cwd=OUT, env=environment) as child:
        try:
            code = child.wait()
        except BaseException as cause:
            for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(sign, signal.SIG_IGN)  # the first signal is enough
            end_job(child, is_interrupted=isinstance(cause, KeyboardInterrupt))
            raise
    if code:
        msg = f"ray-mr ended with exit code {code}"
        raise DemoError(msg)


def end_job(child: subprocess.Popen[bytes], *, is_interrupted: bool) -> None:
    """End ray-mr; with ``is_interrupted`` the terminal has sent Ctrl-C to it too."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(STOP_TIMEOUT_S / 4 if is_interrupted else 0)
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(STOP_TIMEOUT_S)
    child.kill()


def show_ledger(report: dict[str, Any]) -> None:
    """Print the ledger: fates, records, and a line for each input with bad records or a cause."""
    inputs = report["inputs"]
    fates = Counter(row["fate"] for row in inputs)
    sums = {key: sum(row[key] for row in inputs) for key in ("records", "mapped", "bad_records")}
    size = sum(row["size_bytes"] for row in inputs)
    print_step("ledger")
    print(f"{len(inputs)} inputs, {size:,} bytes stored:", *(f"{n} {f}" for f, n in fates.items()))
    print("{records:,} records = {mapped:,} mapped + {bad_records:,} set aside".format(**sums))
    for row in inputs:
        if row["bad_records"] or row["cause"]:
            name = row["uri"].rpartition("/")[2]
            print(
                f"  {row['bad_records']} set aside in {name}: {row['cause'] or row['bad_sample']}"
            )
    print("seconds:", *(f"{stage} {spent:.1f}" for stage, spent in report["seconds"].items()))


def check_result(truth: dict[str, Any], report: dict[str, Any], result: str) -> None:
    """Compare the result and every row of the ledger with the truth.

    Raises:
        DemoError: They differ; the message names the place.
    """
    expected = "".join(f"{key} {count}\n" for key, count in sorted(truth["total"]["os"].items()))
    if result != expected:
        msg = f"the result is wrong; it should be\n{expected}"
        raise DemoError(msg)
    rows = {row["uri"].removeprefix(f"s3://{BUCKET}/"): row for row in report["inputs"]}
    if rows.keys() != truth["files"].keys():
        msg = f"ledger and bucket differ in {sorted(rows.keys() ^ truth['files'].keys())}"
        raise DemoError(msg)
    for key, counted in truth["files"].items():
        row = rows[key]
        counts = (row["fate"], row["size_bytes"], row["mapped"], row["bad_records"])
        if counts != ("ok", counted["bytes_stored"], counted["records"], counted["malformed"]):
            msg = f"the ledger is wrong for {key}: {row} instead of {counted}"
            raise DemoError(msg)
    if not report["ok"]:
        msg = "the report is not ok"
        raise DemoError(msg)


def run_demo(engine: str, files: int, pings: int) -> None:
    """Run the four steps."""
    start = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    with contextlib.ExitStack() as stack:
        print_step(f"generating {files} files of {pings} pings")
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-mr-demo-")))
        total = make_pings(data, files=files, pings=pings, malformed=MALFORMED)
        shutil.copy(data / "truth.json", OUT)
        print(f"{total.bytes_raw:,} bytes, {total.bytes_stored:,} compressed")
        print_step("starting an S3 server (SeaweedFS)")
        server = stack.enter_context(S3Server(data))
        count = server.upload(data, BUCKET, "saved_session")
        print(f"{count} objects in s3://{BUCKET}/ at {server.endpoint}")
        run_job(server, engine)
    result = (OUT / "result.txt").read_text(encoding="utf-8")
    report = json.loads((OUT / "report.json").read_text(encoding="utf-8"))
    print_step("result.txt")
    print(result, end="")
    show_ledger(report)
    check_result(json.loads((OUT / "truth.json").read_text(encoding="utf-8")), report, result)
    print_step(f"result and ledger are right; {time.monotonic() - start:.0f} s; see {OUT.name}/")


def exit_by_signal(signum: int, _frame: FrameType | None) -> NoReturn:
    """Turn a signal into an exception, which cleans up."""
    sys.exit(128 + signum)


def main() -> int:
    """Run the demo; the exit code is 0 if the result is right."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", default="ray", choices=["ray", "local"])
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--pings", type=int, default=200, help="pings in each file")
    args = parser.parse_args()
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, exit_by_signal)
    try:
        run_demo(args.engine, args.files, args.pings)
    except (DemoError, ServerError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted, everything is stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
