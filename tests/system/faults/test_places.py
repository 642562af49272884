"""Parts of a result that reducers write themselves: the driver alone publishes or removes them."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fault_proxy import by_table, fault_proxy
from faulty_engine import FaultyEngine, once
from jobs import job, result, run_told, script
from ray_mr.driver import reducer_pool
from ray_mr.engines.contract import ReducerFailed, ReducerOutput
from ray_mr.errors import ChildError, StoreError, WorkerLost
from ray_mr.model import PartReceipt, ReducerEnd
from ray_mr.stores import registry
from ray_mr.stores.registry import writable_store_for
from ray_mr.stores.result import Sink
from ray_mr.stores.result_reader import open_result
from ray_mr.stores.staged_file import FileWriter
from ray_mr.system import host
from ray_mr.tasks import part_writer
from ray_mr.tasks.part_writer import PartWriter

if TYPE_CHECKING:
    from ray_mr.engines.contract import EngineEvent
    from s3_server import S3Server

PARTS = [os.urandom(300_000) + b"\n", b"b\t1\n" * 40_000, b"", os.urandom(99) + b"\n\n", b"c\t2\n"]


@pytest.fixture(params=["file", "numbered", "folder", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each kind of output, empty."""
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        return f"s3://{server.bucket()}/out/"
    names = {"file": "result.txt", "numbered": "part-*.txt", "folder": ""}
    return f"{tmp_path}/out/{names[request.param]}"


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_writer, "CHUNK_BYTES", 100_000)
    monkeypatch.setattr("ray_mr.driver.retry_policy.PAUSE_S", 0.01)


def begun(output: str, parts: int) -> Sink:
    sink = Sink(output, parts, force=True)
    sink.open()
    return sink


def written(place: Any, data: bytes) -> tuple[bytes, PartReceipt | None]:
    """Write a part as a reducer does; return the batches for the driver, and the receipt."""
    made = PartWriter(pickle.loads(pickle.dumps(place)))  # noqa: S301 - our own
    source = (data[at : at + 30_000] for at in range(0, len(data), 30_000))
    pieces = b"".join(piece or b"" for piece in made.run(source))
    assert made.size_bytes == len(data)
    return pieces, pickle.loads(pickle.dumps(made.receipt))  # noqa: S301 - our own


def left(output: str) -> list[str]:
    """Names of all that is where a result goes to, hidden files and uploads too."""
    if "://" not in output:
        return sorted(path.name for path in Path(output[: output.rfind("/")]).glob("*"))
    bucket = output.split("/")[2]
    with registry.store_for(output).client.use(output) as client:  # type: ignore[attr-defined]
        objects = client.list_objects_v2(Bucket=bucket).get("Contents", [])
        uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return sorted(item["Key"] for item in [*objects, *uploads])


# ---------------------------------------------------------------- the sink


@pytest.mark.parametrize("parts", [1, 5])
@pytest.mark.parametrize("placed", [{0, 1, 2, 3, 4}, {0, 3}, {1, 2, 4}], ids=str)
def test_part_by_reducer_or_driver_is_identical(output: str, parts: int, placed: set[int]) -> None:
    """The same bytes, sizes, lines and digests; no other object remains."""
    sink = begun(output, parts)
    places = sink.make_targets([part for part in range(parts) if part in placed])
    assert set(places) == placed & set(range(parts))
    receipts = {part: written(place, PARTS[part])[1] for part, place in places.items()}
    for part in range(parts):
        if receipt := receipts.get(part):
            sink.accept(part, receipt)
        elif PARTS[part]:
            sink.write(part, PARTS[part])
    assert sink.sizes == [len(data) for data in PARTS[:parts]]
    told = sink.list_files()
    sink.publish()
    sink.abort()
    found = [stream.read() for stream in open_result(output)]
    assert b"".join(found) == b"".join(PARTS[:parts])
    assert [row["sha256"] for row in told] == [hashlib.sha256(each).hexdigest() for each in found]
    assert [row["records"] for row in told] == [each.count(b"\n") for each in found]
    assert [row["size_bytes"] for row in told] == list(map(len, found))
    if output.endswith("/"):
        assert found == PARTS[:parts]
        assert [Path(name).name for name in left(output)] == [
            "_SUCCESS",
            "manifest.json",
            *(f"part-{part:05d}" for part in range(parts)),
        ]
    else:
        assert not [name for name in left(output) if name.startswith(".")]


def test_withdrawn_target_leaves_nothing(output: str) -> None:
    """Its writer cannot create the object again."""
    sink = begun(output, 3)
    void, kept = sink.make_targets([1]), sink.make_targets([0, 2])
    straggler = void[1].open(writable_store_for)
    assert straggler is not None
    straggler.write(b"x" * (9 << 20))
    sink.withdraw([0, 1, 2])
    assert kept[2].open(writable_store_for) is None or "://" in output
    try:
        straggler.write(b"x" * (9 << 20))
        straggler.seal()
    except StoreError as error:
        assert "NoSuchUpload" in str(error)
    fresh = sink.make_targets([1])
    _, receipt = written(fresh[1], b"new\n")
    assert receipt is not None
    sink.accept(1, receipt)
    sink.publish()
    sink.abort()
    assert b"".join(stream.read() for stream in open_result(output)) == b"new\n"
    assert not [name for name in left(output) if name.startswith(".")]
    if "://" in output:
        assert len(left(output)) == 5


def test_aborted_sink_with_open_targets_leaves_nothing(output: str) -> None:
    sink = begun(output, 4)
    places = sink.make_targets([0, 1, 2])
    for part in (0, 1):
        _, receipt = written(places[part], PARTS[0] * 40)
        assert receipt is not None
        sink.accept(part, receipt)
    writer = places[2].open(writable_store_for)
    assert writer is not None
    writer.write(PARTS[0] * 40)
    sink.abort()
    writer.close()
    assert left(output) == []


def test_targets_of_a_killed_driver_are_removed_by_the_next_run(output: str) -> None:
    killed = begun(output, 2)
    for place in killed.make_targets([0, 1]).values():
        written(place, PARTS[0] * 40)
    del killed  # as SIGKILL does: neither publish nor abort
    begun(output, 2).abort()
    assert left(output) == []


def test_target_on_another_machine_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver gets the output."""
    sink = begun(f"{tmp_path}/result.txt", 1)
    place = sink.make_targets([0])[0]
    with monkeypatch.context() as patch:
        patch.setattr(host, "read_boot_id", lambda: "another")
        assert written(place, PARTS[0]) == (PARTS[0], None)
    assert written(place, PARTS[0])[1] is not None
    other = Path(f"{tmp_path}/other")
    name = Path(place.part)  # type: ignore[attr-defined]
    name.rename(other)
    name.write_bytes(b"")
    assert written(place, PARTS[0]) == (PARTS[0], None), "the same name, another file"
    assert name.read_bytes() == b""
    sink.abort()


def test_accept_of_a_shorter_file_is_refused(tmp_path: Path) -> None:
    sink = begun(f"{tmp_path}/out/", 2)
    place = sink.make_targets([1])[1]
    _, receipt = written(place, PARTS[1])
    assert receipt is not None
    (hidden,) = (tmp_path / "out").glob(".part-00001*")
    os.truncate(hidden, 7)
    with pytest.raises(StoreError, match="part-00001: 160000 bytes were written, 7 are there"):
        sink.accept(1, receipt)
    sink.abort()
    assert list((tmp_path / "out").iterdir()) == []


def test_target_without_permission_hands_output_to_the_driver(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = f"s3://{s3.bucket()}/out/"
    data = os.urandom(9 << 20)
    place = begun(output, 1).make_targets([0])[0]
    for size in (len(data), 500_000):
        with fault_proxy(s3.endpoint, by_table({("PUT", "part-00000"): ["denied"] * 9})) as proxy:
            with monkeypatch.context() as patch:
                patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
                registry._make_s3_of.cache_clear()
                assert written(place, data[:size]) == (data[:size], None)
            assert proxy.fired == {("denied", "PUT"): 1}
    registry._make_s3_of.cache_clear()
    begun(output, 1).abort()
    assert left(output) == []


def test_target_lost_half_way_is_an_error(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """No part has bytes of both."""
    output = f"s3://{s3.bucket()}/out/"
    sink = begun(output, 1)
    place = sink.make_targets([0])[0]
    table = by_table({("PUT", "partNumber=2"): ["denied"]})
    with fault_proxy(s3.endpoint, table) as proxy, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        registry._make_s3_of.cache_clear()
        with pytest.raises(StoreError, match="part-00000"):
            written(place, os.urandom(9 << 20))
    registry._make_s3_of.cache_clear()
    sink.abort()
    assert left(output) == []


def test_target_on_a_full_disk_is_an_error() -> None:
    """The driver does not try the same disk again."""

    @dataclass
    class Full:
        is_fragment = False

        def open(self, _store_for: object, /) -> FileWriter:
            return FileWriter("/out/result.txt", Path("/dev/full").open("wb"), sync=True)

    made = PartWriter(Full())
    with pytest.raises(StoreError, match=r"disk full: /out/result\.txt"):
        list(made.run(iter([b"x" * 50_000] * 9)))


# ---------------------------------------------------------------- whole runs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Inputs for 3 MB of output in parts, all of which reducers write themselves."""
    monkeypatch.setattr(reducer_pool, "MIN_DIRECT_BYTES", 1)
    (tmp_path / "in").mkdir()
    for index in range(4):
        rows = (f"k{n % 997:04d}\t{index}-{n}-{'x' * 300}\n" for n in range(2500))
        (tmp_path / "in" / f"{index}").write_text("".join(rows))
    return tmp_path


def lines_job(folder: Path, **options: Any) -> Any:
    cat = {"language": "binary", "script": "cat", "feed": "lines"}
    settings = {"mapper": cat, "reducer": cat, "records": None, "reducers": 3, "split_bytes": 1}
    return job(folder, **settings | options)


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Parts that reducers have written themselves, in all runs of the test."""
    parts: list[int] = []
    accept = Sink.accept

    def counted(self: Sink, part: int, receipt: PartReceipt) -> None:
        parts.append(part)
        accept(self, part, receipt)

    monkeypatch.setattr(Sink, "accept", counted)
    return parts


def in_pieces(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> bytes:
    """The result when the driver writes everything."""
    with monkeypatch.context() as patch:
        patch.setattr(reducer_pool, "MIN_DIRECT_BYTES", 1 << 60)
        report, _ = run_told(lines_job(folder, **options))
    assert report.ok
    return result(folder)


@pytest.mark.parametrize("reducers", [1, 3])
def test_run_with_targets_has_the_driver_s_bytes(
    folder: Path, engine: str, reducers: int, accepted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = in_pieces(folder, monkeypatch, reducers=reducers)
    assert accepted == []
    report, _ = run_told(lines_job(folder, reducers=reducers), engine=engine)
    assert report.ok
    assert accepted == list(range(reducers))
    assert result(folder) == plain
    assert report.results == [
        {
            "name": "result.txt",
            "size_bytes": len(plain),
            "records": 10_000,
            "sha256": hashlib.sha256(plain).hexdigest(),
        }
    ]
    assert [path.name for path in (folder / "out").iterdir() if path.name.startswith(".")] == []


def test_run_with_targets_in_a_bucket_leaves_no_upload(
    folder: Path, engine: str, s3: S3Server, accepted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = in_pieces(folder, monkeypatch)
    output = f"s3://{s3.bucket()}/out/"
    report, _ = run_told(lines_job(folder, output=output), engine=engine)
    assert report.ok
    assert accepted == [0, 1, 2]
    assert b"".join(stream.read() for stream in open_result(output)) == plain
    assert left(output) == [
        f"out/{name}"
        for name in [
            "_SUCCESS",
            "manifest.json",
            "part-00000",
            "part-00001",
            "part-00002",
            "report.json",
        ]
    ]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_runtime")
@pytest.mark.parametrize("where", ["file", "s3"])
def test_run_whose_reducer_is_killed_in_its_output_is_identical(
    folder: Path, where: str, s3: S3Server, accepted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After half of its part."""
    plain = in_pieces(folder, monkeypatch)
    # It has given out more than fits any buffer on the way: some stands at its place by then.
    killer = once(folder) + (
        "import os, sys\n"
        "for number, line in enumerate(sys.stdin.buffer):\n"
        "    sys.stdout.buffer.write(line)\n"
        "    if number == 2000 and once('killed'):\n"
        "        sys.stdout.flush()\n"
        "        os.kill(os.getppid(), 9)\n"
    )
    path = script(folder, "killer.py", "#!/usr/bin/env python3\n" + killer)
    reducer = {"language": "binary", "feed": "lines", "script": path}
    output = f"s3://{s3.bucket()}/out/" if where == "s3" else f"{folder}/out/result.txt"
    report, notices = run_told(lines_job(folder, reducer=reducer, output=output), engine="ray")
    assert report.ok
    assert any("a reducer is replaced" in notice for notice in notices)
    assert accepted == [0, 1, 2]
    assert b"".join(stream.read() for stream in open_result(output)) == plain
    assert not [name for name in left(output) if name.startswith(".")]
    if where == "s3":
        assert len(left(output)) == 6


def test_run_whose_reducer_fails_leaves_nothing(folder: Path, s3: S3Server) -> None:
    source = "#!/bin/sh\nhead -c 200000\nexit 7\n"
    reducer = {"language": "binary", "feed": "lines", "script": script(folder, "r.sh", source)}
    for output in (f"{folder}/out/result.txt", f"{folder}/out/", f"s3://{s3.bucket()}/out/"):
        with pytest.raises(ChildError, match="exit code 7"):
            run_told(lines_job(folder, reducer=reducer, output=output, checkpoint="none"))
        names = [Path(name).name for name in left(output)]
        assert [name for name in names if not name.endswith(("state", "report.json"))] == []


def test_reducer_lost_after_some_parts_makes_all_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, accepted: list[int]
) -> None:
    plain = in_pieces(folder, monkeypatch, reducers=9)
    ends: Counter[int] = Counter()

    class Losing(FaultyEngine):
        def wait(self, timeout_s: float) -> list[EngineEvent]:
            events: list[EngineEvent] = []
            for event in super().wait(timeout_s):
                if isinstance(event, ReducerOutput) and isinstance(event.message, ReducerEnd):
                    ends[event.partition] += 1
                    if ends.total() == 2:  # the second part of the first reducer is not heard of
                        gone = WorkerLost("an actor is gone")
                        events.append(ReducerFailed(event.reducer, gone))
                        continue
                events.append(event)
            return events

    monkeypatch.setattr("ray_mr.driver.run.engine_named", lambda _: Losing())
    report, notices = run_told(lines_job(folder, reducers=9))
    assert report.ok
    assert any("a reducer is replaced" in notice for notice in notices)
    assert max(ends.values()) == 2, "made twice"
    assert accepted == list(range(9))
    assert result(folder) == plain
    assert [path.name for path in (folder / "out").iterdir() if path.name.startswith(".")] == []
