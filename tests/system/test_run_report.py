"""Report, counters and progress of whole runs."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

from jobs import SUM_OF_80, job, report_of, result, run_told, script
from ray_mr.driver import run as driver
from ray_mr.events import Event, MapProgress, Stage

COUNTING = """
import sys
def mapper(uuid, file, js):
    sys.stderr.write('reporter:counter:pings,seen,1\\n')
    sys.stderr.write('reporter:counter:pings,bytes,10\\n')
    print('a stray word')
    return js['info']['OS'] + ' 1\\n'
"""
COUNTING_REDUCER = """
import sys
def reduce(key, values):
    sys.stderr.write('reporter:counter:keys,seen,1\\n')
    return key + ' ' + str(sum(map(int, values)))
"""


def test_reports_of_two_runs_in_a_folder(folder: Path) -> None:
    """Each run keeps its own; one that fails leaves the other's as it is."""
    out = folder / "out"
    for name in ("a.txt", "b.txt"):
        run_told(job(folder, output=str(out / name)))
    reports = ["a.txt.report.json", "b.txt.report.json"]
    assert sorted(path.name for path in out.iterdir()) == sorted(["a.txt", "b.txt", *reports])
    kept = (out / "b.txt.report.json").read_bytes()
    (folder / "in" / "pings-0002.xz").write_bytes(b"\xfd7zXZ\0damaged")
    assert not driver.run(job(folder, output=str(out / "a.txt")), engine="local", force=True).ok
    assert json.loads((out / "a.txt.failed-report.json").read_bytes())["exit_code"] == 5
    assert (out / "b.txt.report.json").read_bytes() == kept


def test_report_of_a_run_has_every_object(folder: Path, engine: str) -> None:
    """report.json: every object with fate, bytes, records, attempts and cause; times; totals."""
    whole = (folder / "in" / "pings-0002.xz").read_bytes()
    (folder / "in" / "pings-0002.xz").write_bytes(whole[:-30])
    with lzma.open(folder / "in" / "pings-0003.xz", "ab") as file:
        file.write(b"no record\n")
    report, _ = run_told(job(folder, max_failed_inputs=1, max_bad_records=1), engine=engine)
    assert report.ok
    report_json = report_of(folder)
    assert (report_json["ok"], report_json["exit_code"], report_json["error"]) == (True, 0, "")
    assert report_json["output"] == str(folder / "out" / "result.txt")
    rows = {Path(row["uri"]).name: row for row in report_json["inputs"]}
    assert list(rows) == [f"pings-{number:04d}.xz" for number in range(4)]
    first, failed, last = (rows[f"pings-{number:04d}.xz"] for number in (0, 2, 3))
    path = folder / "in" / "pings-0000.xz"
    plain = len(lzma.decompress(path.read_bytes()))
    assert (first["fate"], first["cause"], first["attempts"]) == ("ok", "", 2)
    assert (first["size_bytes"], first["decoded_bytes"]) == (path.stat().st_size, plain)
    assert (first["records"], first["mapped"], first["bad_records"]) == (20, 20, 0)
    assert (failed["fate"], failed["attempts"], failed["records"]) == ("failed", 1, 0)
    assert "truncated" in failed["cause"]
    assert (last["records"], last["mapped"], last["bad_records"]) == (21, 20, 1)
    assert last["bad_sample"].startswith("line 21")
    totals = report_json["totals"]
    assert totals == report.totals
    assert (totals["inputs"], totals["ok"], totals["failed"], totals["skipped"]) == (4, 3, 1, 0)
    assert (totals["records"], totals["mapped"], totals["bad_records"]) == (61, 60, 1)
    assert (totals["mapped_rows"], totals["shuffled_rows"], totals["keys"]) == (60, 60, 4)
    assert {"list", "start", "map", "reduce", "steady", "total"} <= set(report_json["seconds"])
    assert report_json["seconds"]["total"] >= report_json["seconds"]["map"] > 0
    assert "61" not in report.summary()
    assert "60 records mapped, 1 set aside" in report.summary()


def test_counters_of_both_sides_are_added_up(folder: Path, engine: str) -> None:
    """Counters of mapper and reducer on stderr are added up; stray prints corrupt nothing."""
    wanted = job(
        folder,
        split_bytes=1,
        mapper={"script": script(folder, "m.py", COUNTING)},
        reducer={"script": script(folder, "r.py", COUNTING_REDUCER)},
        reducers=2,
    )
    report, _ = run_told(wanted, engine=engine)
    assert report.ok
    assert sorted(result(folder).splitlines()) == SUM_OF_80.splitlines()
    expected = {"keys,seen": 4, "pings,bytes": 800, "pings,seen": 80}
    assert report.counters == expected
    assert report_of(folder)["counters"] == expected


def test_counters_of_a_program_that_reads_names(folder: Path) -> None:
    """A program fed file names counts too."""
    source = "#!/bin/sh\nwhile read f; do echo reporter:counter:my,files,1 >&2; done\n"
    mapper = {"language": "binary", "script": script(folder, "m.sh", source)}
    report, _ = run_told(job(folder, mapper=mapper, records=None, reducer=None))
    assert report.ok
    assert report.counters == {"my,files": 4}


def test_counts_of_a_failed_attempt_are_dropped(folder: Path) -> None:
    """Counters and records of a failed attempt are in no total."""
    (folder / "in" / "pings-0003.xz").write_bytes(
        (folder / "in" / "pings-0003.xz").read_bytes()[:-30]
    )
    mapper = {"script": script(folder, "m.py", COUNTING)}
    report, _ = run_told(job(folder, mapper=mapper, max_failed_inputs=1))
    assert report.ok
    assert report.counters == {"pings,bytes": 600, "pings,seen": 60}
    assert report.totals["mapped_rows"] == 60


def test_progress_reaches_the_total(folder: Path, engine: str) -> None:
    """Progress counts stored bytes, never passes the total, and ends with it; stages in order."""
    events: list[Event] = []
    report, _ = run_told(job(folder, split_bytes=1), engine=engine, on_event=events.append)
    assert report.ok
    advanced = [event for event in events if isinstance(event, MapProgress)]
    size = sum(path.stat().st_size for path in (folder / "in").iterdir())
    assert {event.total_bytes for event in advanced} == {size}
    assert max(event.done_bytes for event in advanced) == advanced[-1].done_bytes == size
    stages = [event.name for event in events if isinstance(event, Stage)]
    assert stages == ["list", "start", "map", "reduce", "publish"]
