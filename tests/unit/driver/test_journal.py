"""The journal holds what the ledger of a run holds, after the process has exited."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import job, make_pings
from ray_mr.driver.crash_report import RunHistory
from ray_mr.driver.journal import Journal
from ray_mr.driver.ledger import Ledger
from ray_mr.driver.run import plan, run
from ray_mr.errors import ChildCrashed, WorkerLost
from ray_mr.model import AttemptEnd, AttemptId, FetchRetries, FileCounts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

SECRET = "hunter2-hunter2"


def enter(ledger: Ledger) -> None:
    """Enter the events of a run of four inputs, one of which does not end."""
    counts = FileCounts(0, 20, 19, 1, sample="line 3")
    end = AttemptEnd(AttemptId(0, 0, 2), (counts,), counters={"a,b": 2}, rows=9)
    ledger.add_attempt([0])
    ledger.add_delay([0], WorkerLost("gone"), 1.5)
    ledger.add_attempt([0, 1])
    ledger.add_retries([FetchRetries(1, failures=2, waited_s=0.5, cause="slow down")])
    ledger.commit(end)
    ledger.withdraw(end)
    ledger.commit(end)
    ledger.commit(AttemptEnd(AttemptId(0, 1, 1), (FileCounts(1, 20, 20),), rows=8))
    ledger.fail(2, ChildCrashed("died of it", "look at it"))


def test_journal_read_again_gives_the_same_ledger_without_secrets(tmp_path: Path) -> None:
    make_pings(tmp_path / "in", files=4)
    made = plan(job(tmp_path, env={"TOKEN": SECRET}))
    journal, expected = Journal(), Ledger(made)
    enter(expected)
    enter(journal.make_ledger(made))
    history = RunHistory.read(journal)
    assert history.ledger is not None
    assert list(history.ledger.list_inputs()) == list(expected.list_inputs())
    assert history.ledger.sum_totals() == expected.sum_totals()
    assert history.ledger.sum_counters() == expected.sum_counters()
    assert [row["fate"] for row in history.ledger.list_inputs()] == [
        "ok",
        "ok",
        "failed",
        "unknown",
    ]
    assert SECRET.encode() not in pickle.dumps(list(journal.read_entries()))
    # Addresses with passwords are in it, so it is on no disk.
    place = Path(f"/proc/self/fd/{journal._file.fileno()}").readlink()
    assert str(place).startswith("/memfd:")


def test_journal_of_a_driver_that_dies_makes_its_report(tmp_path: Path) -> None:
    """The report has everything that the driver had done."""
    make_pings(tmp_path / "in", files=4)
    wanted = job(tmp_path, split_bytes=1)
    journal = Journal()
    child = os.fork()
    if not child:
        try:
            ledger = journal.make_ledger(plan(wanted))
            enter(ledger)
            journal.append("notice", "a file failed")
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    assert not journal.has_ended()
    error = RunHistory.read(journal).report_death("ended with exit code 1")
    assert error.exit_code == 7
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["ok"], report["exit_code"]) == (False, 7)
    assert report["notices"] == ["a file failed"]
    assert Counter(row["fate"] for row in report["inputs"]) == {"ok": 2, "failed": 1, "unknown": 1}


def test_journal_of_a_good_run_has_what_the_report_has(tmp_path: Path) -> None:
    make_pings(tmp_path / "in", files=4)
    journal = Journal()
    report = run(job(tmp_path), engine="local", journal=journal)
    assert not journal.has_ended(), "the command is still to print"
    journal.mark_end()
    assert journal.has_ended()
    history = RunHistory.read(journal)
    assert (history.published, history.error) == (True, None)
    assert history.ledger is not None
    assert list(history.ledger.list_inputs()) == list(report.inputs)


def test_journal_on_a_full_disk_is_cut_short_and_the_run_goes_on(tmp_path: Path) -> None:
    """A journal that is cut short is read up to there."""
    make_pings(tmp_path / "in", files=1)
    journal = Journal()
    journal.append("notice", "one")
    journal.append("notice", "two")
    with open_file(journal) as file:
        file.truncate(file.seek(0, os.SEEK_END) - 1)
        assert RunHistory.read(journal).notices == ["one"]
        os.dup2(os.open("/dev/full", os.O_RDWR), file.fileno())
        assert run(job(tmp_path), engine="local", journal=journal).ok
        assert not journal.has_ended()
        journal.mark_end()
        assert journal.has_ended(), "a full disk does not make a good run look dead"


@contextlib.contextmanager
def open_file(journal: Journal) -> Iterator[BinaryIO]:
    """Yield a journal's file, and make sure that it can be closed."""
    file = journal._file
    yield file
    os.dup2(os.open(os.devnull, os.O_RDWR), file.fileno())
