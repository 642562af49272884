"""Counters of programs have a bounded number of names, from the attempt to the report."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest

from jobs import job, make_pings, report_of, run_told, script
from plans import plan_of
from ray_mr.counters import MAX_COUNTERS, MAX_NAME_CHARS, OTHER_COUNTERS, Counters
from ray_mr.driver.journal import Journal
from ray_mr.driver.ledger import Ledger
from ray_mr.model import AttemptEnd, AttemptId

if TYPE_CHECKING:
    from pathlib import Path

MANY = """
import sys
def mapper(uuid, file, js):
    for number in range(1500):
        sys.stderr.write(f"reporter:counter:{'g' * 500},{number},1\\n"
                         f"reporter:counter:mine,{file[-5]}-{js['n']}-{number},1\\n")
    return "k 1\\n"
"""


def test_counters_beyond_the_limit_go_to_one() -> None:
    counters = Counters()
    for number in range(MAX_COUNTERS + 7):
        counters.add(f"g,{number}", 2)
    assert len(counters) == MAX_COUNTERS + 1
    assert counters[OTHER_COUNTERS] == 14
    assert counters.has_overflowed
    counters.add("g,3", 5)
    assert counters["g,3"] == 7


def test_counters_taken_back_are_those_that_were_added() -> None:
    counters, more = Counters(), {f"h,{number}": 3 for number in range(MAX_COUNTERS)}
    for number in range(MAX_COUNTERS - 10):
        counters.add(f"g,{number}", 1)
    before = dict(counters)
    counters.add_all(more)
    counters.add_all(more, -1)
    assert {name: amount for name, amount in counters.items() if amount} == before
    assert sum(counters.values()) == MAX_COUNTERS - 10


def test_counter_of_a_long_name_is_cut() -> None:
    counters = Counters()
    counters.add("g," + "x" * 1000, 1)
    counters.add("g," + "x" * 2000, 1)
    assert dict(counters) == {"g," + "x" * (MAX_NAME_CHARS - 2): 2}


@pytest.mark.slow
@pytest.mark.parametrize("reducer", ["sum", None])
def test_run_with_many_counters_has_a_bounded_report(
    tmp_path: Path, engine: str, reducer: str | None
) -> None:
    """12 inputs of a split each, every one with 3,000 names or more: nothing is lost of the sum."""
    make_pings(tmp_path / "in", files=3, pings=2)
    mapper = {"script": script(tmp_path, "many.py", MANY)}
    report, notices = run_told(
        job(tmp_path, mapper=mapper, reducer=reducer, split_bytes=1), engine=engine
    )
    assert report.ok
    assert len(report.counters) <= MAX_COUNTERS + 1
    assert sum(report.counters.values()) == 6 * 3000
    assert max(map(len, report.counters)) <= MAX_NAME_CHARS
    assert report_of(tmp_path)["counters"] == report.counters
    assert [text for text in notices if OTHER_COUNTERS in text] == [
        f"more than 1,000 names of counters: the others are counted as {OTHER_COUNTERS}"
    ]


def test_journal_of_many_counters_is_small_and_whole() -> None:
    plan, journal = plan_of(1), Journal()
    ledger = journal.make_ledger(plan)
    counters = {f"a group of counters,name number {number}": 1 for number in range(MAX_COUNTERS)}
    before = journal._file.tell()
    ledger.commit(AttemptEnd(AttemptId(0, 0, 1), counters=counters))
    assert journal._file.tell() - before < len(pickle.dumps(counters)) / 4
    read = Ledger(plan)
    for name, values in journal.read_entries():
        if name == "commit":
            read.commit(*values)
    assert read.sum_counters() == ledger.sum_counters() == dict(sorted(counters.items()))
