"""The commit rule under real faults: the same bytes as undisturbed, or a failure that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from faulty_engine import FaultyEngine, once
from jobs import MAPPER, job, make_pings, result, run_told, script, undisturbed
from ray_mr.engines.contract import EngineEvent, ReducerOutput
from ray_mr.errors import EngineError
from ray_mr.model import ReducerEnd


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_pings(tmp_path / "in", files=12)
    return tmp_path


@pytest.mark.parametrize("reducers", [1, 4])
def test_killed_mapper_child_changes_no_byte(folder: Path, engine: str, reducers: int) -> None:
    """SIGKILL of a mapper child in the middle of a file changes no byte."""
    plain = undisturbed(folder, reducers=reducers)
    killer = once(folder) + MAPPER.replace(
        "    return", "    if js['n'] == 107 and once('m'): os.kill(os.getpid(), 9)\n    return"
    )
    mapper = {"script": script(folder, "killer.py", killer)}
    report, notices = run_told(job(folder, mapper=mapper, reducers=reducers), engine=engine)
    assert report.ok
    assert result(folder) == plain
    assert any("SIGKILL" in notice for notice in notices)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_runtime")
def test_killed_ray_worker_changes_no_byte(folder: Path) -> None:
    """SIGKILL of a Ray worker in mid-map changes no byte."""
    plain = undisturbed(folder)
    killer = once(folder) + MAPPER.replace(
        "    return", "    if js['n'] == 107 and once('w'): os.kill(os.getppid(), 9)\n    return"
    )
    mapper = {"script": script(folder, "killer.py", killer)}
    report, notices = run_told(job(folder, mapper=mapper), engine="ray")
    assert report.ok
    assert result(folder) == plain
    assert any("worker has died" in notice for notice in notices)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_runtime")
def test_killed_reducer_actor_changes_no_byte(folder: Path) -> None:
    """SIGKILL of a reducer actor in mid-merge changes no byte."""
    plain = undisturbed(folder, reducers=4)
    killer = once(folder) + (
        "def reduce(key, values):\n"
        "    if key == 'Linux' and once('r'): os.kill(os.getppid(), 9)\n"
        "    return key + ' ' + str(sum(map(int, values)))\n"
    )
    reducer = {"script": script(folder, "killer.py", killer)}
    report, notices = run_told(job(folder, reducer=reducer, reducers=4), engine="ray")
    assert report.ok
    assert result(folder) == plain
    assert any("a reducer is replaced" in notice for notice in notices)


def test_killed_reduce_child_changes_no_byte(folder: Path, engine: str) -> None:
    """SIGKILL of a reduce child changes no byte."""
    plain = undisturbed(folder)
    killer = once(folder) + (
        "def reduce(key, values):\n"
        "    if key == 'Linux' and once('r'): os.kill(os.getpid(), 9)\n"
        "    return key + ' ' + str(sum(map(int, values)))\n"
    )
    reducer = {"script": script(folder, "killer.py", killer)}
    report, _ = run_told(job(folder, reducer=reducer), engine=engine)
    assert report.ok
    assert result(folder) == plain


@pytest.mark.parametrize("feed", ["records", "files"])
def test_corrupt_file_among_100(tmp_path: Path, engine: str, feed: str) -> None:
    """One corrupt file of 100 is named, exit 5; allowed, the rest is as without it."""
    files = make_pings(tmp_path / "in", files=100, pings=3)
    options: dict[str, Any] = {}
    if feed == "files":
        shell = "#!/bin/sh\nwhile read f; do sed 's/.*OS\": \"\\([A-Za-z]*\\).*/\\1 1/' $f; done\n"
        sh = {"language": "binary", "script": script(tmp_path, "m.sh", shell)}
        options = {"mapper": sh, "records": None}
    whole = files[40].read_bytes()
    files[40].unlink()
    without = undisturbed(tmp_path, **options)
    files[40].write_bytes(whole[: len(whole) - 20])
    (tmp_path / "out" / "result.txt").unlink()
    report, _ = run_told(job(tmp_path, **options), engine=engine)
    assert report.exit_code == 5
    assert not (tmp_path / "out" / "result.txt").exists()
    assert [uri for uri, _ in report.failed] == [str(files[40])]
    assert str(files[40]) in report.summary()
    report, _ = run_told(job(tmp_path, max_failed_inputs=1, **options), engine=engine)
    assert report.ok
    assert result(tmp_path) == without
    attempts = [row["attempts"] for row in report.inputs if row["fate"] == "ok"]
    assert max(attempts) == 2, "corruption costs a split one run more"


def test_many_corrupt_files_cost_one_run(tmp_path: Path) -> None:
    """A split runs twice, whatever number of its files is bad."""
    files = make_pings(tmp_path / "in", files=30, pings=3)
    for path in files[::3]:
        path.write_bytes(path.read_bytes()[:-30])
    report, _ = run_told(job(tmp_path, max_failed_inputs=10))
    assert report.ok
    assert report.totals["failed"] == 10
    assert {row["attempts"] for row in report.inputs if row["fate"] == "ok"} == {2}


def test_poison_file_costs_itself(folder: Path) -> None:
    """A file on which the child always dies fails alone; the others count."""
    poison = MAPPER.replace(
        "    return", "    if js['n'] == 107: import os; os._exit(9)\n    return"
    )
    mapper = {"script": script(folder, "poison.py", poison)}
    report, _ = run_told(job(folder, mapper=mapper))
    assert report.exit_code == 6
    assert [Path(uri).name for uri, _ in report.failed] == ["pings-0005.xz"]
    assert "exit code 9" in report.failed[0][1]
    report, _ = run_told(job(folder, mapper=mapper, max_failed_inputs=1))
    assert report.ok
    assert report.totals["mapped"] == 11 * 20


def test_poison_file_is_found_by_halving(folder: Path) -> None:
    """The same without a harness: the split is halved down to the file."""
    shell = "#!/bin/sh\nwhile read f; do case $f in *0005*) exit 9;; esac; wc -l <$f; done\n"
    mapper = {"language": "binary", "script": script(folder, "m.sh", shell)}
    options: dict[str, Any] = {"mapper": mapper, "records": None, "reducer": None}
    report, _ = run_told(job(folder, max_failed_inputs=1, **options))
    assert report.ok
    assert [Path(uri).name for uri, _ in report.failed] == ["pings-0005.xz"]
    assert result(folder) == b"20\n" * 11


def test_stateful_mapper_survives_a_crash(folder: Path) -> None:
    """An attempt counts whole or not at all: state between records survives a crash."""
    source = once(folder) + (
        "seen = 0\n"
        "def mapper(uuid, file, js):\n"
        "    global seen\n"
        "    seen += 1\n"
        "    if js['n'] == 107 and once('m'): os.kill(os.getpid(), 9)\n"
        "    return '%s %d\\n' % (js['n'], seen)\n"
    )
    mapper = {"script": script(folder, "stateful.py", source)}
    report, _ = run_told(job(folder, mapper=mapper, reducer=None))
    assert report.ok
    assert result(folder) == b"".join(b"%d %d\n" % (n, n + 1) for n in range(240))


def test_mapper_that_raises_fails_its_file(folder: Path) -> None:
    """An exception fails its file with the traceback, not the others."""
    bad = MAPPER.replace("    return", "    if js['n'] % 50 == 7: js['nope']\n    return")
    mapper = {"script": script(folder, "bad.py", bad)}
    report, _ = run_told(job(folder, mapper=mapper))
    assert report.exit_code == 6
    assert len(report.failed) == 5
    assert "KeyError: 'nope'" in report.failed[0][1]
    assert "bad.py" in report.failed[0][1]


# ---------------------------------------------------------------- losses, by script


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> FaultyEngine:
    engine = FaultyEngine()
    monkeypatch.setattr("ray_mr.driver.run.engine_named", lambda _: engine)
    monkeypatch.setattr("ray_mr.driver.retry_policy.PAUSE_S", 0.01)
    return engine


@pytest.mark.parametrize("reducers", [1, 4])
@pytest.mark.parametrize("fault", ["lose_attempts", "lose_blocks", "lose_reducers"])
def test_losses_change_no_byte(
    folder: Path, faulty: FaultyEngine, fault: str, reducers: int
) -> None:
    """A lost attempt, block or reducer is made again: the same bytes, and a notice."""
    plain = undisturbed(folder, reducers=reducers)
    faulty.__init__()  # type: ignore[misc]
    setattr(faulty, fault, 2)
    report, notices = run_told(job(folder, reducers=reducers))
    assert report.ok
    assert result(folder) == plain
    assert notices


def test_lost_block_of_a_map_only_job(folder: Path, faulty: FaultyEngine) -> None:
    """A block lost while the result is written is made again."""
    plain = undisturbed(folder, reducer=None)
    faulty.__init__()  # type: ignore[misc]
    faulty.lose_reads = 1
    # Nothing but the writing of the result reads a block here.
    report, notices = run_told(job(folder, reducer=None, checkpoint="none"))
    assert report.ok
    assert result(folder) == plain
    assert any("is lost" in notice for notice in notices)


def test_nondeterministic_mapper_is_reported(folder: Path, faulty: FaultyEngine) -> None:
    """A split gives other output when it runs again: reducers start anew."""
    source = MAPPER.replace("' 1\\n'", "' ' + str(__import__('os').getpid()) + '\\n'")
    mapper = {"script": script(folder, "pid.py", source)}
    faulty.lose_blocks = 1
    report, notices = run_told(job(folder, mapper=mapper))
    assert report.ok
    assert any("depends on more than its input" in notice for notice in notices)
    pids = {int(line.split()[1]) // 60 for line in result(folder).splitlines()}
    assert len(pids) == 1, "every row comes from the same attempt"


def test_losses_beyond_the_limit_end_the_run(folder: Path, faulty: FaultyEngine) -> None:
    """A split that is lost ``attempts`` times ends the run: exit 7, nothing is published."""
    faulty.lose_attempts = 100
    with pytest.raises(EngineError, match="a node is gone"):
        run_told(job(folder))
    assert not (folder / "out" / "result.txt").exists()
    assert (folder / "out" / "report.json").exists()


def test_lost_piece_of_a_reducers_output(
    folder: Path, faulty: FaultyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output that is lost before it is written is reduced again."""
    plain = undisturbed(folder)
    faulty.__init__()  # type: ignore[misc]
    real_wait = faulty.wait

    def wait(timeout_s: float) -> list[EngineEvent]:
        events = real_wait(timeout_s)
        for event in events:
            if isinstance(event, ReducerOutput) and isinstance(event.message, ReducerEnd):
                faulty.lose_reads += not lost
                lost.append(1)
        return events

    lost: list[int] = []
    monkeypatch.setattr(faulty, "wait", wait)
    report, notices = run_told(job(folder))
    assert report.ok
    assert result(folder) == plain
    assert any("a reducer is replaced" in notice for notice in notices)
