"""Programs that crash by chance change no byte: the attempts that count had the same inputs.

Each job here gives other bytes if a split is mapped in parts: a combiner adds floats, a mapper
sums up its records.  The program dies as often as there are files in a folder.
"""

from __future__ import annotations

import textwrap
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jobs import script
from ray_mr.checkpoint.format import locate_state
from ray_mr.driver.run import run
from ray_mr.errors import ChildCrashed
from ray_mr.events import Notice
from ray_mr.jobs.job import Job

if TYPE_CHECKING:
    from ray_mr.driver.report import Report
    from ray_mr.events import Event

VALUES = [["0.1", "0.2"], ["0.3", "0.4", "0.6"], ["0.7", "0.1"], ["0.1"], ["1e16", "3", "5"]]
FLAKY_SH = """#!/bin/bash
for token in $(ls {flaky}); do rm {flaky}/$token 2> /dev/null && exit 1; done
"""
FLAKY_PY = """
import contextlib, os
def mapper_init():
    for token in os.listdir({flaky!r}):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join({flaky!r}, token))
            os._exit(1)
total = 0.0
def mapper(file, line):
    global total
    if line.startswith('die'):
        os._exit(1)
    total += float(line.partition('\\t')[2] or 0)
    return line + '\\n'
"""
FINAL_PY = "def mapper_final():\n    return f'total\\t{total!r}\\n'\n"
CAT_SH = """cat > here
! grep -q die here || exit 1
cat here
"""
TOTAL_SH = 'awk \'/die/ { exit 1 } { s = s " " $2 } END { print "k\\t" s }\'\n'
FILES_SH = """while read f; do ! grep -q die $f || exit 1; cut -f2 $f >> all; done
printf 'k\\t%s\\n' "$(tr '\\n' ' ' < all)"
"""
ADD_PY = """
def add(key, values):
    return key + "\\t" + repr(sum(map(float, values)))
combine = reduce = add
"""


class World:
    """Five inputs of one split, and a mapper of some kind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "in").mkdir()
        (folder / "out").mkdir()
        for number, values in enumerate(VALUES):
            self.write(number, "".join(f"k\t{value}\n" for value in values))
        self.flaky = folder / "flaky"
        self.flaky.mkdir()
        self.add = script(folder, "add.py", ADD_PY)

    def write(self, number: int, text: str) -> None:
        (self.folder / "in" / f"{number}").write_text(text)

    def shell(self, rest: str, feed: str = "lines") -> dict[str, str]:
        source = FLAKY_SH.format(flaky=self.flaky) + rest
        name = f"m{zlib.crc32(rest.encode())}.sh"
        return {"language": "binary", "script": script(self.folder, name, source), "feed": feed}

    def python(self, more: str = "") -> dict[str, str]:
        source = FLAKY_PY.format(flaky=str(self.flaky)) + more
        return {"script": script(self.folder, f"m{len(more)}.py", source)}

    def options(self, kind: str) -> dict[str, Any]:
        cat = {"language": "binary", "script": "cat", "feed": "lines"}
        add = {"language": "python", "script": self.add}
        options: dict[str, dict[str, Any]] = {
            "combine program": {"mapper": self.shell(CAT_SH), "combiner": add, "reducer": add},
            "combine max for a program": {
                "mapper": self.shell(CAT_SH),
                "combiner": "max",
                "reducer": cat,
            },
            "combine sum for a program": {
                "mapper": self.python(),
                "combiner": "sum",
                "reducer": cat,
                "records": "text",
            },
            "combine sum, values sorted": {
                "mapper": self.python(),
                "combiner": "sum",
                "reducer": cat,
                "records": "text",
                "sort": "key, value -n",
            },
            "combine program, function": {
                "mapper": self.python(),
                "combiner": add,
                "reducer": add,
                "records": "text",
            },
            "final hook": {"mapper": self.python(FINAL_PY), "reducer": cat, "records": "text"},
            "lines summed up": {"mapper": self.shell(TOTAL_SH), "reducer": cat},
            "lines summed up, map only": {"mapper": self.shell(TOTAL_SH)},
            "files summed up": {"mapper": self.shell(FILES_SH, "files"), "reducer": cat},
        }
        return options[kind]

    def job(self, kind: str, **more: Any) -> Job:
        settings: dict[str, Any] = {
            "inputs": [f"{self.folder}/in/"],
            "output": f"{self.folder}/out/result.txt",
            "checkpoint": "all",
            "max_bad_records": None,
            "attempts": 8,
        }
        return Job(**settings | self.options(kind) | more)

    def go(
        self, kind: str, crashes: int = 0, engine: str = "local", *, how: Any = None, **more: Any
    ) -> tuple[Report, bytes, list[str]]:
        """Run the job; the program crashes this number of times."""
        for token in range(crashes):
            (self.flaky / f"{token}").touch()
        notices: list[str] = []

        def listen(event: Event) -> None:
            if isinstance(event, Notice):
                notices.append(event.text)

        job = self.job(kind, **more)
        report = run(job, engine=engine, on_event=listen, **how or {"force": True})
        out = Path(job.output)
        return report, out.read_bytes() if out.exists() else b"", notices


KINDS = [
    "combine program",
    "combine max for a program",
    "combine sum for a program",
    "combine sum, values sorted",
    "combine program, function",
    "final hook",
    "lines summed up",
    "lines summed up, map only",
    "files summed up",
]
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@kinds
@pytest.mark.parametrize("crashes", [2, 4])
def test_job_whose_program_crashes_by_chance_gives_the_same_bytes(
    world: World, kind: str, crashes: int
) -> None:
    report, expected, _ = world.go(kind)
    assert report.ok
    report, found, notices = world.go(kind, crashes)
    assert report.ok, report.failed
    assert found == expected
    assert sum("runs again" in text for text in notices) >= 2


@pytest.mark.parametrize("kind", ["combine program", "combine max for a program"])
def test_job_whose_program_crashes_by_chance_gives_the_same_bytes_on_any_engine(
    world: World, engine: str, kind: str
) -> None:
    _, expected, _ = world.go(kind)
    report, found, _ = world.go(kind, 2, engine)
    assert report.ok
    assert found == expected


@kinds
def test_bad_input_gives_the_same_bytes_however_it_is_found(world: World, kind: str) -> None:
    """The rest of its split is one attempt, whatever other crashes there were."""
    world.write(1, "die\t1\n")
    allowed: dict[str, Any] = {"max_failed_inputs": 1, "max_bad_records": 0}
    report, expected, _ = world.go(kind, **allowed)
    assert report.ok
    assert report.totals["failed"] == 1
    for crashes in (1, 3):
        report, found, _ = world.go(kind, crashes, **allowed)
        assert [Path(uri).name for uri, _ in report.failed] == ["1"]
        assert found == expected
    (world.folder / "in" / "1").unlink()
    report, without, _ = world.go(kind)
    assert without == expected, "it is as if that input were not there"


@pytest.mark.parametrize("kind", ["combine program, function", "final hook"])
def test_records_set_aside_give_the_same_bytes_however_they_are_found(
    world: World, kind: str
) -> None:
    """The input with such a record is mapped apart, in any run."""
    world.write(2, "k\t0.7\ndie\t1\nk\t0.1\n")
    report, expected, _ = world.go(kind)
    assert report.ok
    assert report.totals["bad_records"] == 1
    report, found, _ = world.go(kind, 1)
    assert report.totals["bad_records"] == 1
    assert found == expected


def test_program_that_dies_of_many_inputs_together_ends_the_run(world: World) -> None:
    """Its parts are not published, as their bytes would depend on how it was halved."""
    source = textwrap.dedent("""\
        cat > here
        [ $(wc -l < here) -lt 8 ] || exit 3
        cat here
        """)
    mapper = world.shell(source)
    with pytest.raises(ChildCrashed, match="never all of them in one run") as caught:
        world.go("combine program", mapper=mapper)
    assert "split_bytes" in caught.value.hint
    assert not (world.folder / "out" / "result.txt").exists()
    report, _, _ = world.go("combine program", mapper=mapper, split_bytes=1)
    assert report.ok


@pytest.mark.parametrize("kind", ["combine program", "lines summed up"])
def test_resume_of_a_run_with_other_inputs_gives_the_bytes_of_a_fresh_run(
    world: World, kind: str
) -> None:
    """Finished splits of another shape do not count where inputs are fed together."""
    late = world.folder / "late"
    (world.folder / "in" / "1").rename(late)
    world.write(4, "die\t1\n")
    report, _, _ = world.go(kind, max_bad_records=0)
    assert report.exit_code == 6
    assert len(list(Path(locate_state(f"{world.folder}/out/result.txt")).glob("piece-*"))) == 1
    late.rename(world.folder / "in" / "1")
    world.write(4, "k\t5\n")
    report, found, _ = world.go(kind, how={"resume": True}, max_bad_records=0)
    assert report.ok
    _, expected, _ = world.go(kind, max_bad_records=0)
    assert found == expected


@pytest.mark.parametrize("kind", ["combine program", "lines summed up"])
def test_only_failed_gives_the_bytes_of_a_fresh_run(world: World, kind: str) -> None:
    """Inputs fed together with one that failed are mapped again with it."""
    world.write(4, "die\t1\n")
    report, _, _ = world.go(kind, max_bad_records=0)
    assert report.exit_code == 6
    report, _, notices = world.go(kind, how={"resume": True}, max_bad_records=0)
    assert "going on: 1 split done, 1 input known to fail, 0 to run" in notices
    world.write(4, "k\t5\n")
    report, found, _ = world.go(kind, how={"only_failed": True}, max_bad_records=0)
    assert report.ok
    _, expected, _ = world.go(kind, max_bad_records=0)
    assert found == expected
