"""Resuming a run: only splits that were not committed run, and the bytes are the same."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fault_proxy import fault_proxy
from jobs import MAPPER, REDUCER, job, make_pings, ping_line, result, script
from ray_mr.checkpoint.checkpoint import Checkpoint
from ray_mr.checkpoint.format import locate_state
from ray_mr.checkpoint.matching import make_fingerprint
from ray_mr.checkpoint.store import CheckpointStore
from ray_mr.driver.run import plan, run
from ray_mr.errors import ChildNotStarted, DeadlinePassed, JobError, RayMrError
from ray_mr.events import Event, Notice
from ray_mr.model import AttemptEnd, AttemptId, BlockMeta, FileCounts, Input, Split
from ray_mr.stores import registry
from ray_mr.stores.registry import store_for
from ray_mr.system import host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_mr.driver.report import Report
    from ray_mr.jobs.job import Job
    from s3_server import S3Server

FILES = 8
LOGGED = """
import os, sys
seen = set()
def mapper(uuid, file, js):
    if file not in seen:
        seen.add(file)
        with open({log!r}, 'a') as log:
            log.write(os.path.basename(file) + '\\n')
    if os.path.exists({trap!r}) and open({trap!r}).read() in file:
        {harm}
    return js['info']['OS'] + ' 1\\n'
"""


class World:
    """A folder of pings, a mapper that logs its inputs, and a fault that a file turns on."""

    def __init__(self, folder: Path, harm: str = "os._exit(3)") -> None:
        self.folder = folder
        make_pings(folder / "in", files=FILES)
        self.log, self.trap = folder / "log", folder / "trap"
        source = LOGGED.format(log=str(self.log), trap=str(self.trap), harm=harm)
        self.mapper = {"script": script(folder, "logged.py", source)}

    def job(self, **options: Any) -> Job:
        return job(self.folder, **{"mapper": self.mapper, "split_bytes": 1, **options})

    def fed(self) -> set[str]:
        """Files that the mapper was fed since the last look."""
        if not self.log.exists():
            return set()
        names = {line.partition(".")[0][-1] for line in self.log.read_text().splitlines()}
        self.log.unlink()
        return names

    @property
    def state(self) -> Path:
        return Path(locate_state(str(self.folder / "out" / "result.txt")))

    def pieces(self) -> list[Path]:
        return sorted(self.state.glob("piece-*"))


def go(wanted: Job, engine: str = "local", **how: Any) -> tuple[Report, list[str]]:
    notices: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            notices.append(event.text)

    return run(wanted, engine=engine, on_event=listen, **how), notices


ALL = {str(n) for n in range(FILES)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def plain(world: World, **options: Any) -> bytes:
    report, _ = go(world.job(**options), force=True)
    assert report.ok
    assert world.fed() == ALL
    assert not world.state.exists(), "a run that succeeds leaves nothing"
    found = result(world.folder)
    (world.folder / "out" / "result.txt").unlink()
    return found


@pytest.mark.parametrize("reducer", ["script", "sum", "none"])
def test_resume_maps_only_missing_splits(world: World, engine: str, reducer: str) -> None:
    """A run that ended with a failed input: ``--resume`` maps nothing that is committed.

    The input stays failed until ``--only-failed`` tries it again; then the bytes are those of an
    undisturbed run.
    """
    options = {} if reducer == "script" else {"reducer": reducer}
    expected = plain(world, **options)
    world.trap.write_text("0003")
    report, _ = go(world.job(**options), engine)
    assert report.exit_code == 6
    assert world.fed() == ALL
    assert len(world.pieces()) == FILES - 1
    report, notices = go(world.job(**options), engine, resume=True)
    assert report.exit_code == 6
    assert world.fed() == set()
    assert "going on: 7 splits done, 1 input known to fail, 0 to run" in notices
    world.trap.unlink()
    report, _ = go(world.job(**options), engine, only_failed=True)
    assert report.ok
    assert world.fed() == {"3"}
    assert result(world.folder) == expected
    assert not world.state.exists()
    assert report.totals["records"] == FILES * 20


def test_resume_with_a_failure_allowed_costs_no_run(world: World) -> None:
    """A failure that is allowed the second time costs no run; the next run can still repair it."""
    expected = plain(world)
    world.trap.write_text("0003")
    go(world.job())
    world.fed()
    report, _ = go(world.job(max_failed_inputs=1), resume=True)
    assert report.ok
    assert world.fed() == set()
    assert report.totals["failed"] == 1
    world.trap.unlink()
    report, _ = go(world.job(), only_failed=True, force=True)
    assert report.ok
    assert world.fed() == {"3"}
    assert result(world.folder) == expected
    assert not world.state.exists()


def test_deadline_keeps_finished_work_for_resume(tmp_path: Path, engine: str) -> None:
    """A job that misses its deadline ends with 130; its finished splits count later."""
    world = World(tmp_path, harm="__import__('time').sleep(600)")
    expected = plain(world)
    world.trap.write_text("0007")
    with pytest.raises(DeadlinePassed, match=r"longer than 4.* \(deadline\)"):
        go(world.job(deadline="4s"), engine)
    assert not (tmp_path / "out" / "result.txt").exists()
    kept = json.loads((tmp_path / "out" / "report.json").read_text())
    assert kept["exit_code"] == 130
    world.fed()
    kept = len(world.pieces())
    world.trap.unlink()
    report, _ = go(world.job(), engine, resume=True)
    assert report.ok
    again = world.fed()
    assert "7" in again
    assert len(again) == FILES - kept, "nothing that was committed and kept runs again"
    assert result(tmp_path) == expected


def test_resume_with_a_changed_mapper_runs_all_and_says_so(world: World) -> None:
    """Another mapper maps everything again, and a notice says why."""
    world.trap.write_text("0003")
    go(world.job())
    world.fed()
    path = Path(str(world.mapper["script"]))
    path.write_text(path.read_text() + "# changed\n")
    world.trap.unlink()
    with pytest.raises(JobError, match="changed since the run that failed: the mapper"):
        go(world.job(), only_failed=True)
    report, notices = go(world.job(), resume=True)
    assert report.ok
    assert world.fed() == ALL
    assert "7 finished splits cannot be used: changed since: the mapper" in notices


def test_resume_with_a_changed_reducer_maps_nothing(world: World) -> None:
    """Another reduce script does not change map output, though it lies beside the mapper."""
    world.trap.write_text("0003")
    go(world.job())
    world.fed()
    wanted = world.job(max_failed_inputs=1)
    script(world.folder, "reducer.py", REDUCER.replace("' '", "'='"))
    report, _ = go(wanted, resume=True)
    assert report.ok
    assert world.fed() == set()
    assert b"Linux=35" in result(world.folder)


@pytest.mark.parametrize("option", [{"reducers": 2}, {"records": "text"}, {"env": {"A": "b"}}])
def test_resume_with_a_changed_option_runs_all_and_names_it(
    world: World, option: dict[str, Any]
) -> None:
    """An option that map output may depend on makes everything run again, and is named."""
    world.trap.write_text("0003")
    go(world.job())
    text = script(world.folder, "text.py", "def mapper(file, line):\n    return line[:1] + ' 1\\n'")
    more = {"mapper": {"script": text}} if "records" in option else {}
    _, notices = go(world.job(max_failed_inputs=1, **option, **more), resume=True)
    assert any("cannot be used" in notice and next(iter(option)) in notice for notice in notices)


def test_resume_compares_content_and_not_time(world: World) -> None:
    """A touched file counts as unchanged; a changed file with an old time does not."""
    world.trap.write_text("0003")
    go(world.job())
    world.fed()
    world.trap.unlink()
    touched, altered = (world.folder / "in" / f"pings-000{n}.xz" for n in (1, 5))
    os.utime(touched, (1, 1))
    before = altered.stat()
    other = make_pings(world.folder / "other", files=1)[0].read_bytes()
    altered.write_bytes(other.ljust(before.st_size, b"\0")[: before.st_size])
    os.utime(altered, ns=(before.st_atime_ns, before.st_mtime_ns))
    report, _ = go(world.job(max_failed_inputs=2), resume=True)
    assert world.fed() <= {"5"}
    assert [Path(row["uri"]).name for row in report.inputs if row["attempts"]] == [altered.name]


def test_resume_with_new_and_vanished_objects_follows_the_listing(world: World) -> None:
    """New objects run, vanished ones do not count: the result is that of today's objects."""
    world.trap.write_text("0003")
    go(world.job())
    world.fed()
    world.trap.unlink()
    (world.folder / "in" / "pings-0006.xz").unlink()
    shutil.copy(world.folder / "in" / "pings-0000.xz", world.folder / "in" / "pings-0009.xz")
    report, _ = go(world.job(), only_failed=True)
    assert world.fed() == {"3"}
    skipped = {Path(row["uri"]).name: row["cause"] for row in report.inputs if row["cause"]}
    assert skipped == {"pings-0009.xz": "not in the resumed run"}
    go(world.job(), force=True)
    expected = result(world.folder)
    world.trap.write_text("0003")
    go(world.job(), force=True)
    world.fed()
    world.trap.unlink()
    shutil.copy(world.folder / "in" / "pings-0001.xz", world.folder / "in" / "pings-0006.xz")
    report, _ = go(world.job(), resume=True)
    assert report.exit_code == 6
    assert world.fed() == {"6"}
    report, _ = go(world.job(), only_failed=True)
    assert report.ok
    assert world.fed() == {"3"}
    assert result(world.folder) != expected
    go(world.job(), force=True)
    whole = result(world.folder)
    assert whole.count(b"\n") == 4


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "append", "swap", "junk"])
def test_damaged_file_of_the_checkpoint_is_not_used(world: World, harm: str) -> None:
    """Whatever happened to a saved split, it runs again and the bytes are right."""
    expected = plain(world)
    world.trap.write_text("0003")
    go(world.job())
    world.fed()
    world.trap.unlink()
    first, second = world.pieces()[:2]
    data = bytearray(first.read_bytes())
    if harm == "flip":
        data[-40] ^= 1
    elif harm == "cut":
        del data[-33:]
    elif harm == "empty":
        data.clear()
    elif harm == "append":
        data += b"more"
    elif harm == "swap":
        data[:] = second.read_bytes()
    else:
        data[:] = os.urandom(len(data))
    first.write_bytes(data)
    report, notices = go(world.job(), only_failed=True)
    assert report.ok
    assert result(world.folder) == expected
    assert len(world.fed()) == 2
    if harm != "swap":  # then there is one piece twice, and one is missing
        assert any("damaged" in text or "runs again" in text for text in notices)


@given(st.integers(0, 5000), st.integers(0, 255))
def test_any_flipped_byte_is_detected(tmp_path_factory: Any, at: int, value: int) -> None:
    """A saved split with one changed byte is not used."""
    folder: Path = tmp_path_factory.mktemp("kept")
    (folder / "in").write_bytes(b"x")
    split = Split(3, (Input(9, store_for("/").stat(str(folder / "in"))),))
    ident = AttemptId(3, 9, 1)
    meta = BlockMeta(ident, 0, 0, (1, 2), (0, 3, 7), (123, 45))
    end = AttemptEnd(ident, (FileCounts(9, 3, 2, 1),), counters={"a,b": 3}, rows=3, blocks=1)
    store = CheckpointStore(str(folder / "out"))
    store.begin("run", {"the mapper": "abc"})
    store.save_split(split, end, [meta], [b"\x00" * 7])
    (path,) = Path(store.uri).glob("piece-*")
    state = store.read_state()
    assert state is not None
    (generation,) = state.generations
    (saved,) = store.read_generation(generation).splits
    assert (saved.end, saved.blocks) == (end, ((meta, 7),))
    assert saved.read_blocks(bytes) == [b"\x00" * 7]
    data = bytearray(path.read_bytes())
    at %= len(data)
    if data[at] == value:
        return
    data[at] = value
    path.write_bytes(data)
    for saved in store.read_generation(generation).splits:
        with pytest.raises(RayMrError):
            saved.read_blocks(bytes)


def test_output_of_a_run_at_work_is_refused(world: World) -> None:
    """A second run with the output of one at work is refused, whatever its flags.

    Nothing of the first is touched; when its process has ended, the next run goes on.
    """
    world.trap.write_text("0003")
    go(world.job())
    run_json = world.state / "run.json"
    facts = json.loads(run_json.read_text())
    assert facts["owner"] == "", "a run that is over owns nothing"
    code = (
        "from ray_mr.system.host import make_process_mark\n"
        "print(make_process_mark(), flush=True)\n"
        "input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        facts["owner"] = other.stdout.readline().strip()
        run_json.write_text(json.dumps(facts))
        before = sorted(world.state.iterdir())
        for how in ("engine", "force", "resume", "only_failed"):
            wish: dict[str, Any] = {how: "local" if how == "engine" else True}
            with pytest.raises(JobError, match=f"process {other.pid} is at work on this output"):
                go(world.job(), **wish)
        assert sorted(world.state.iterdir()) == before
        other.kill()
    world.trap.unlink()
    world.fed()
    report, _ = go(world.job(), only_failed=True)
    assert report.ok
    assert world.fed() == {"3"}


@pytest.mark.parametrize("mark", ["", "a", "a/b", "/////", "x/y/1/2", "x/y/-1/0", "x/y/z/1"])
def test_odd_owner_is_not_alive(mark: str) -> None:
    """An owner that cannot be parsed, or is of another machine, does not block a run."""
    assert not host.is_process_alive(mark)


def test_late_split_of_another_run_does_not_count(world: World) -> None:
    """A split that a run with another mapper saves late does not count."""
    expected = plain(world)
    world.trap.write_text("0003")
    other = {
        "script": script(
            world.folder,
            "other.py",
            LOGGED.format(log=str(world.log), trap=str(world.trap), harm="os._exit(3)").replace(
                "' 1", "' 7"
            ),
        )
    }
    go(world.job(mapper=other))
    late = {path.name: path.read_bytes() for path in world.state.glob("[pf]*-*")}
    assert len(late) == FILES
    go(world.job())
    for name, data in late.items():
        (world.state / name).write_bytes(data)
    world.trap.unlink()
    world.fed()
    report, notices = go(world.job(), only_failed=True)
    assert report.ok
    assert "not used, because damaged or of another run: 8 kept objects" in notices
    assert world.fed() == {"3"}
    assert result(world.folder) == expected


def test_only_failed_with_a_damaged_state(world: World) -> None:
    """``--only-failed`` never runs more than that: an unreadable checkpoint is an error."""
    world.trap.write_text("0003")
    go(world.job())
    world.fed()
    (world.state / "run.json").write_bytes(b"{")
    with pytest.raises(JobError, match=r"--only-failed: .* is damaged"):
        go(world.job(), only_failed=True)
    assert world.fed() == set()
    assert len(world.pieces()) == FILES - 1


def test_resume_without_a_checkpoint_runs_all(world: World) -> None:
    """``--resume`` without anything to resume is a whole run, and says so."""
    report, notices = go(world.job(), resume=True)
    assert report.ok
    assert notices == ["there is nothing to resume: everything runs"]
    (world.folder / "out" / "result.txt").unlink()
    with pytest.raises(JobError, match="no earlier run has left anything"):
        go(world.job(), only_failed=True)


def test_run_without_resume_starts_anew(world: World) -> None:
    """Without ``--resume`` nothing of an earlier run is used, and its checkpoint is removed."""
    world.trap.write_text("0003")
    go(world.job())
    world.fed()
    world.trap.unlink()
    report, _ = go(world.job())
    assert report.ok
    assert world.fed() == ALL
    assert not world.state.exists()


def test_checkpoint_none_saves_nothing(world: World) -> None:
    """``checkpoint: none`` saves no split and leaves no folder."""
    world.trap.write_text("0003")
    go(world.job(checkpoint="none"))
    assert not world.state.exists()


def test_checkpoint_auto_saves_small_splits(world: World) -> None:
    """``auto`` leaves out a split with more output than input; ``all`` does not."""
    source = """
        import random
        def mapper(uuid, file, js):
            if '0003' in file:
                raise ValueError
            size = 200_000 if '0001' in file else 1
            return js['info']['OS'], random.Random(js['n']).randbytes(size).hex()
        """
    mapper = {"script": script(world.folder, "big.py", source)}
    reducer = {"script": script(world.folder, "r.py", "def reduce(k, v): return k")}
    go(world.job(mapper=mapper, reducer=reducer))
    assert len(world.pieces()) == FILES - 2
    report, _ = go(world.job(mapper=mapper, reducer=reducer), only_failed=True)
    attempts = {Path(row["uri"]).name[9]: row["attempts"] for row in report.inputs}
    assert attempts == dict.fromkeys(ALL, 0) | {"1": 1, "3": 1}, "nothing is lost for it"
    go(world.job(mapper=mapper, reducer=reducer, checkpoint="all"))
    assert len(world.pieces()) == FILES - 1


def test_checkpoint_that_cannot_be_written_does_not_fail_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is full or refuses does not fail the run; a notice says so."""

    def refuse(*_: object) -> None:
        raise RayMrError("disk full: /there")

    monkeypatch.setattr(CheckpointStore, "save_split", refuse)
    report, notices = go(world.job())
    assert report.ok
    assert "finished work could not be kept: disk full: /there" in notices


def test_slow_checkpoint_holds_the_run_up_to_its_deadline(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that is written too slowly delays a result at most until the deadline.

    A run that needs no resuming does not wait for it at all.
    """
    asked, stuck = threading.Event(), threading.Event()

    def stall(*_: object) -> None:
        asked.set()
        stuck.wait()

    def pass_deadline() -> None:
        raise DeadlinePassed("so late")

    finish = Checkpoint.finish
    monkeypatch.setattr(CheckpointStore, "save_split", stall)
    monkeypatch.setattr(Checkpoint, "finish", lambda self, _: finish(self, pass_deadline))
    world.trap.write_text("0003")
    try:
        report, notices = go(world.job(max_failed_inputs=1))
        assert asked.is_set()
        assert report.ok
        assert "not all finished work could be kept: so late" in notices
        world.trap.unlink()
        assert go(world.job(), force=True)[0].ok
    finally:
        stuck.set()


def test_blocks_are_saved_one_by_one(tmp_path: Path) -> None:
    """At most two blocks of a split are in memory while they are saved."""
    (tmp_path / "in").write_bytes(b"x")
    obj = store_for("/").stat(str(tmp_path / "in"))
    ident = AttemptId(0, 0, 1)
    metas = [BlockMeta(ident, n, n, (1,), (0, 1000), (0,)) for n in range(20)]
    gone: list[int] = []

    def blocks() -> Iterator[Any]:
        for number in range(20):
            data = np.zeros(1000, np.uint8)
            weakref.finalize(data, gone.append, number)
            assert number - len(gone) < 2
            yield data
            del data

    store = CheckpointStore(str(tmp_path / "out"))
    end = AttemptEnd(ident, (FileCounts(0, 20, 20),), rows=20, blocks=20)
    store.begin("run", {})
    store.save_split(Split(0, (Input(0, obj),)), end, metas, blocks())
    assert [path.stat().st_size > 20_000 for path in Path(store.uri).glob("piece-*")] == [True]


def test_script_that_does_not_load(world: World) -> None:
    """A run that ended at once has nothing to keep, and leaves no folder."""
    mapper = {"script": script(world.folder, "bad.py", "import nothing_of_this_name")}
    with pytest.raises(ChildNotStarted):
        go(world.job(mapper=mapper))
    assert not world.state.exists()


def test_state_in_s3(s3: S3Server, tmp_path: Path, engine: str) -> None:
    """The same with everything in a bucket; no other object is there at the end."""
    bucket = s3.bucket()
    for index in range(4):
        body = b"".join(map(ping_line, range(index * 10, index * 10 + 10)))
        s3.client.put_object(Bucket=bucket, Key=f"in/pings-{index}", Body=body)
    bad = f"s3://{bucket}/in/pings-2"
    s3.client.put_object(Bucket=bucket, Key="in/pings-2", Body=b"\xfd7zXZ\x00 no xz")
    wanted = job(
        tmp_path, inputs=[f"s3://{bucket}/in/"], output=f"s3://{bucket}/out/", split_bytes=1
    )
    report, _ = go(wanted, engine)
    assert [uri for uri, _ in report.failed] == [bad]

    def names() -> set[str]:
        listing = s3.client.list_objects_v2(Bucket=bucket, Prefix="out/")
        return {item["Key"].removeprefix("out/") for item in listing.get("Contents", ())}

    assert sum(name.startswith("_ray_mr_state/piece-") for name in names()) == 3
    s3.client.put_object(
        Bucket=bucket, Key="in/pings-2", Body=b"".join(map(ping_line, range(20, 30)))
    )
    report, _ = go(wanted, engine, resume=True)
    assert report.ok
    assert [row["attempts"] for row in report.inputs] == [0, 0, 1, 0]
    assert names() == {"part-00000", "manifest.json", "_SUCCESS", "report.json"}
    part = s3.client.get_object(Bucket=bucket, Key="out/part-00000")["Body"].read()
    assert part == b"Android 10\nDarwin 10\nLinux 10\nWINNT 10\n"


@pytest.mark.parametrize("fate", ["truncate", "corrupt", "reset"])
def test_state_that_arrives_badly(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    """Files that are cut short or damaged on the way are read again: all of them count."""
    bucket = s3.bucket()
    for index in range(3):
        body = b"".join(map(ping_line, range(index * 10, index * 10 + 10)))
        s3.client.put_object(Bucket=bucket, Key=f"in/pings-{index}", Body=body)
    s3.client.put_object(Bucket=bucket, Key="in/pings-3", Body=b"\xfd7zXZ\x00 no xz")
    wanted = job(
        tmp_path, inputs=[f"s3://{bucket}/in/"], output=f"s3://{bucket}/out/", split_bytes=1
    )
    assert not go(wanted)[0].ok
    struck: set[str] = set()

    def first(method: str, path: str, before: int) -> str:
        if method == "GET" and "/_ray_mr_state/" in path and "?" not in path and not before:
            struck.add(path)
            return fate
        return ""

    with fault_proxy(s3.endpoint, first) as proxy, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        registry._make_s3_of.cache_clear()
        report, _ = go(wanted, resume=True)
    registry._make_s3_of.cache_clear()
    assert len(struck) == 6  # run.json, mapped, three pieces, a failure
    assert [row["attempts"] for row in report.inputs] == [0, 0, 0, 0]


def test_mapper_source_is_the_usual_one() -> None:
    """The mapper of these tests has the output of the others' mapper."""
    assert MAPPER.split("return")[1] == LOGGED.split("return")[1]


DIES_OF = """
import os
def mapper(uuid, file, js):
    if js['n'] in {bad!r}:
        os._exit(3)
    return js['info']['OS'] + ' 1\\n'
"""


@pytest.mark.parametrize(("before", "now"), [(0, 1), (1, 0)])
def test_other_limits_give_what_a_fresh_run_gives(
    tmp_path: Path, engine: str, before: int, now: int
) -> None:
    """An input that failed or passed under another limit is tried again under today's."""
    make_pings(tmp_path / "in", files=3)
    dies = {"script": script(tmp_path, "dies.py", DIES_OF.format(bad=[5, 25, 26]))}
    options = {"mapper": dies, "split_bytes": 1, "max_failed_inputs": 2}
    wanted = job(tmp_path, **options, max_bad_records=now)
    fresh, _ = go(wanted)
    assert fresh.ok
    expected = result(tmp_path)
    shutil.rmtree(tmp_path / "out")
    go(job(tmp_path, **options, max_bad_records=before))
    report, _ = go(wanted, engine, resume=True, force=True)
    assert report.ok
    assert result(tmp_path) == expected
    assert report.totals["failed"] == fresh.totals["failed"]


def test_resume_with_a_later_timeout_tries_failures_again(tmp_path: Path) -> None:
    """An input that was too slow for one ``timeout`` is tried again under a longer one."""
    world = World(tmp_path, harm="__import__('time').sleep(3)")
    world.trap.write_text("0003")
    options = {"attempts": 1, "inputs": [f"{tmp_path}/in/pings-0003.xz"]}
    report, _ = go(world.job(**options, timeout="2s"))
    assert report.exit_code == 6
    world.trap.unlink()
    report, _ = go(world.job(**options, timeout="600s"), resume=True)
    assert report.ok


def test_env_cannot_be_guessed_from_the_checkpoint(world: World) -> None:
    """The digest of ``env`` is slow to compute, and differs between outputs."""
    make_pings(world.folder / "in", files=1)
    jobs = [
        world.job(env={"PIN": "1234"}, output=f"{world.folder}/{name}")
        for name in ("a.txt", "a.txt", "b.txt")
    ]
    facts = [make_fingerprint(plan(job))["env"] for job in jobs]
    assert facts[0] == facts[1] != facts[2]
    text = json.dumps({"PIN": "1234"}).encode()
    assert hashlib.sha256(text).hexdigest()[:16] not in facts
