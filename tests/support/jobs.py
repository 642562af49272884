"""Small jobs for tests: folders of pings, scripts, and runs of them."""

from __future__ import annotations

import json
import lzma
import textwrap
from typing import TYPE_CHECKING, Any

from ray_mr.driver.run import run
from ray_mr.events import Event, Notice
from ray_mr.jobs.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ray_mr.driver.report import Report

PLATFORMS = ["WINNT", "Darwin", "Linux", "Android"]

CAT = {"language": "binary", "script": "cat", "feed": "lines"}
"""Lines as they are: a mapper, or a reducer."""

MAPPER = """
def mapper(uuid, file, js):
    return js['info']['OS'] + ' 1\\n'
"""
REDUCER = """
def reduce(key, values):
    return key + ' ' + str(sum(map(int, values)))
"""
SUM_OF_80 = b"Android 20\nDarwin 20\nLinux 20\nWINNT 20\n"
"""What the job of 2014 gives on 80 pings."""


def ping_line(number: int) -> bytes:
    """A line of ``uuid TAB json``; platforms take turns."""
    js = {"info": {"OS": PLATFORMS[number % 4]}, "n": number, "pad": "x" * 200}
    return f"{number:036d}\t{json.dumps(js)}\n".encode()


def make_pings(folder: Path, *, files: int, pings: int = 20) -> list[Path]:
    """Files of pings, xz compressed, numbered through."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for index in range(files):
        path = folder / f"pings-{index:04d}.xz"
        numbers = range(index * pings, (index + 1) * pings)
        path.write_bytes(lzma.compress(b"".join(map(ping_line, numbers)), preset=0))
        made.append(path)
    return made


def script(folder: Path, name: str, source: str) -> str:
    """Write a script and give its path."""
    path = folder / name
    path.write_text(textwrap.dedent(source))
    path.chmod(0o755)
    return str(path)


def job(folder: Path, **options: Any) -> Job:
    """The job of 2014 in the long form: pings below ``folder/in``, result in ``folder/out``."""
    (folder / "out").mkdir(exist_ok=True)
    settings: dict[str, Any] = {
        "inputs": [f"{folder}/in/**"],
        "records": "uuid-json",
        "mapper": {"script": script(folder, "mapper.py", MAPPER)},
        "reducer": {"script": script(folder, "reducer.py", REDUCER)},
        "output": f"{folder}/out/result.txt",
    }
    return Job(**{**settings, **options})


def cat_job(folder: Path, **options: Any) -> Job:
    """Lines of ``folder/in`` through cat and cat."""
    (folder / "out").mkdir(exist_ok=True)
    settings: dict[str, Any] = {
        "inputs": [f"{folder}/in/"],
        "mapper": CAT,
        "reducer": CAT,
        "output": f"{folder}/out/result.txt",
    }
    return Job(**{**settings, **options})


def result(folder: Path) -> bytes:
    """The published result."""
    return (folder / "out" / "result.txt").read_bytes()


def report_of(folder: Path) -> dict[str, Any]:
    """The report beside it."""
    report: dict[str, Any] = json.loads((folder / "out" / "report.json").read_bytes())
    return report


def run_told(
    wanted: Job, *, engine: str = "local", on_event: Callable[[Event], None] | None = None
) -> tuple[Report, list[str]]:
    """Run a job, replacing its result; the report, and the notices told on the way."""
    notices: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            notices.append(event.text)
        if on_event is not None:
            on_event(event)

    return run(wanted, engine=engine, force=True, on_event=listen), notices


def undisturbed(folder: Path, **options: Any) -> bytes:
    """The result of :func:`job` when nothing goes wrong, and nothing is told."""
    report, notices = run_told(job(folder, **options))
    assert report.ok
    assert notices == []
    return result(folder)
