"""The ledger: every listed object has an end, every record a place, or the run fails."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ray_mr.driver.ledger import Ledger
from ray_mr.driver.report import Report
from ray_mr.errors import (
    ChildCrashed,
    ChildRaised,
    CorruptObject,
    LedgerError,
    ObjectChanged,
    TooManyBadRecords,
)
from ray_mr.jobs.job import Job
from ray_mr.model import AttemptEnd, AttemptId, FileCounts, ReducerEnd, StoredObject
from ray_mr.planning.plan import Plan, make_plan

LISTED = [
    StoredObject("s3://b/in/0", "in/0", 100, "e0"),
    StoredObject("s3://b/in/", "in/", 0, "marker"),
    StoredObject("s3://b/in/1", "in/1", 200, "e1"),
    StoredObject("s3://b/in/../2", "in/../2", 300, "e2"),
    StoredObject("s3://b/in/3", "in/3", 400, "e3"),
    StoredObject("s3://b/in/0", "in/0", 100, "e0"),
]
"""Three inputs, a folder marker, one that is listed twice, one whose key is refused."""


def planned(objects: list[StoredObject] | None = None, **options: Any) -> Plan:
    settings = {"inputs": ["s3://b/in/"], "mapper": len, "records": "json"}
    return make_plan(Job(**settings | options), LISTED if objects is None else objects)


def three(**options: Any) -> Ledger:
    """A ledger of three good inputs, 0 to 2."""
    objects = [LISTED[0], LISTED[2], LISTED[4]]
    return Ledger(planned(objects, **options))


def ended(*files: FileCounts, **facts: Any) -> AttemptEnd:
    return AttemptEnd(AttemptId(0, files[0].position, 1), files, **facts)


def good(position: int, **facts: Any) -> FileCounts:
    counts = FileCounts(position, records=10, mapped=10, decoded_bytes=1000)
    return replace(counts, **facts)


def all_good(ledger: Ledger, **facts: Any) -> AttemptEnd:
    end = ended(good(0), good(1), good(2), **facts)
    ledger.add_attempt(range(3))
    ledger.commit(end)
    return end


class TestBalance:
    """Nothing is lost without a word."""

    def test_balance_of_ok_failed_and_skipped_inputs_passes(self) -> None:
        """Inputs that are ok or failed, and skipped and refused objects, balance."""
        ledger = Ledger(planned())
        ledger.add_attempt(range(3))
        ledger.fail(1, CorruptObject("damaged"))
        ledger.commit(ended(good(0, mapped=8, bad=2), good(2)))
        ledger.check_balance()

    def test_balance_with_an_unknown_input_raises(self) -> None:
        """An input that neither ended well nor failed is a bug, and named."""
        ledger = three()
        ledger.add_attempt(range(3))
        ledger.commit(ended(good(0), good(2)))
        with pytest.raises(LedgerError, match=r"s3://b/in/1 is not accounted for") as caught:
            ledger.check_balance()
        assert caught.value.exit_code == 8

    @pytest.mark.parametrize("wrong", [{"mapped": 9}, {"bad": 1}, {"records": 11}])
    def test_balance_with_a_lost_record_raises(self, wrong: dict[str, int]) -> None:
        """Records in are records mapped and records set aside, for each input by itself."""
        ledger = three()
        ledger.commit(ended(good(0), good(1, **wrong), good(2)))
        with pytest.raises(LedgerError, match=r"s3://b/in/1: .* not all accounted for"):
            ledger.check_balance()

    def test_withdrawn_split_counts_for_nothing(self) -> None:
        """A split whose blocks are lost does not count until another attempt is committed."""
        ledger = three()
        facts = {"rows": 5, "mapped_rows": 30, "bad_values": 2, "counters": {"group,name": 3}}
        end = all_good(ledger, **facts)
        before = ledger.sum_totals()
        ledger.withdraw(end)
        with pytest.raises(LedgerError):
            ledger.check_balance()
        assert ledger.sum_totals()["ok"] == 0
        assert ledger.sum_totals()["unknown"] == 3
        assert ledger.sum_totals()["shuffled_rows"] == ledger.sum_totals()["mapped_rows"] == 0
        assert ledger.bad_record_count == 0
        assert ledger.sum_counters().get("group,name", 0) == 0
        ledger.commit(end)
        ledger.check_balance()
        assert ledger.sum_totals() == before

    def test_withdrawn_split_with_a_failed_input_leaves_no_count(self) -> None:
        """Records of an input that failed in the end are in no total."""
        ledger = three(max_bad_records=0, max_failed_inputs=1)
        ledger.commit(ended(good(0), good(1, mapped=9, bad=1, sample="line 3"), good(2)))
        ledger.withdraw(ended(good(0), good(1, mapped=9, bad=1, sample="line 3"), good(2)))
        ledger.fail(1, ObjectChanged("it changed"))
        ledger.commit(ended(good(0), good(2)))
        ledger.check_balance()
        assert ledger.sum_totals()["records"] == 20
        assert ledger.bad_record_count == 0
        assert ledger.find_excess() is None


class TestExpected:
    """Rows in blocks are the rows mapped, and those each reducer was given and fed."""

    def ledger(self) -> Ledger:
        ledger = three(reducer="sum", reducers=2)
        all_good(ledger, rows=7)
        ledger.reduced = {0: ReducerEnd(0, 4, 4, 2), 1: ReducerEnd(1, 3, 3, 1)}
        return ledger

    def test_equal_row_counts_pass(self) -> None:
        """Equal counts pass."""
        self.ledger().check_rows({0: 4, 1: 3})

    def test_rows_that_are_in_no_block(self) -> None:
        """Mapped rows that no block holds are detected."""
        with pytest.raises(LedgerError, match="7 rows were mapped, 6 are in blocks"):
            self.ledger().check_rows({0: 3, 1: 3})

    @pytest.mark.parametrize(
        "end", [ReducerEnd(1, 2, 3, 1), ReducerEnd(1, 3, 2, 1), ReducerEnd(1, 4, 4, 1)]
    )
    def test_rows_that_a_reducer_did_not_get_or_feed(self, end: ReducerEnd) -> None:
        """A reducer that got or fed another number than was sent to it is named with all three."""
        ledger = self.ledger()
        ledger.reduced[1] = end
        with pytest.raises(LedgerError) as caught:
            ledger.check_rows({0: 4, 1: 3})
        assert f"part 1: 3 rows sent, {end.rows} received, {end.fed} reduced" in str(caught.value)


class TestLimits:
    """More faults than the job allows end the run with the kind of the first, and its name."""

    def test_run_without_faults_exceeds_no_limit(self) -> None:
        """A run without faults is within any limit."""
        ledger = three()
        all_good(ledger)
        assert ledger.find_excess() is None

    @pytest.mark.parametrize(
        ("first", "code"), [(CorruptObject("damaged"), 5), (ChildRaised("KeyError: 'n'"), 6)]
    )
    def test_failed_inputs_end_with_the_first_by_name(
        self, first: CorruptObject | ChildRaised, code: int
    ) -> None:
        """Exit 5 for bad data, 6 for the user's program, after the first by name."""
        ledger = three(max_failed_inputs=1)
        ledger.fail(2, ChildCrashed("died"))
        assert ledger.find_excess() is None
        ledger.fail(0, first)
        error = ledger.find_excess()
        assert error is not None
        assert (type(error), error.exit_code) == (type(first), code)
        assert "2 inputs failed, 1 allowed" in error.message
        assert f"s3://b/in/0: {first.message}" in error.message
        assert "--max-failed-inputs" in error.hint
        assert [uri for uri, _ in ledger.failures] == ["s3://b/in/0", "s3://b/in/3"]

    def test_refused_objects_count_as_failed(self) -> None:
        """An object whose key cannot be used is a failed input from the beginning."""
        ledger = Ledger(planned())
        error = ledger.find_excess()
        assert error is not None
        assert error.exit_code == 5
        assert "1 input failed, 0 allowed" in error.message
        assert "s3://b/in/../2" in error.message
        assert Ledger(planned(max_failed_inputs=1)).find_excess() is None

    def test_bad_records_beyond_the_limit_name_the_first(self) -> None:
        """Exit 5 when more records were set aside than allowed; the first place is named."""
        ledger = three(max_bad_records=3, reducer="sum")
        files = [good(0), good(1, mapped=8, bad=2, sample="line 4: ValueError"), good(2)]
        ledger.commit(ended(*files, bad_values=1))
        assert ledger.bad_record_count == 3
        assert ledger.find_excess() is None
        ledger.reduced[0] = ReducerEnd(0, 1, 1, 1, bad_values=1)
        error = ledger.find_excess()
        assert type(error) is TooManyBadRecords
        assert error.exit_code == 5
        assert "4 records could not be read, 3 allowed" in error.message
        assert "s3://b/in/1 line 4: ValueError" in error.message
        assert "--max-bad-records" in error.hint

    def test_bad_records_without_a_limit_are_counted(self) -> None:
        """Without a limit any number may be set aside; it is counted all the same."""
        ledger = three(max_bad_records=None)
        ledger.commit(ended(good(0, mapped=0, bad=10)))
        assert ledger.find_excess() is None
        assert ledger.sum_totals()["bad_records"] == 10


class TestReport:
    """What the report says."""

    def test_input_rows_have_fate_cause_and_counts(self) -> None:
        """A row for every listed object, with its end, cause, attempts and counts, as JSON can."""
        ledger = Ledger(planned())
        ledger.add_attempt([0, 1, 2])
        ledger.fail(1, CorruptObject("damaged", "a hint"))
        ledger.add_attempt([0, 2])
        ledger.commit(ended(good(0, mapped=9, bad=1, sample="line 3: ValueError")))
        rows = ledger.list_inputs()
        assert json.loads(json.dumps(list(rows))) == list(rows)
        report = Report("n", "o", {"ok": 1}, inputs=rows)
        whole = report.facts() | {"inputs": list(rows)}
        assert report.to_json().decode() == json.dumps(whole, indent=1) + "\n"
        none = Report("n", "o")
        whole = none.facts() | {"inputs": []}
        assert none.to_json().decode() == json.dumps(whole, indent=1) + "\n"
        assert len(rows) == len(LISTED)
        assert [(row["uri"], row["fate"]) for row in rows] == [
            ("s3://b/in/0", "ok"),
            ("s3://b/in/1", "failed"),
            ("s3://b/in/3", "unknown"),
            ("s3://b/in/", "skipped"),
            ("s3://b/in/0", "skipped"),
            ("s3://b/in/../2", "failed"),
        ]
        assert rows[0] == {
            "uri": "s3://b/in/0",
            "size_bytes": 100,
            "fate": "ok",
            "cause": "",
            "attempts": 2,
            "records": 10,
            "mapped": 9,
            "bad_records": 1,
            "bad_sample": "line 3: ValueError",
            "decoded_bytes": 1000,
        }
        assert (rows[1]["cause"], rows[1]["attempts"]) == ("damaged", 1)
        assert [row["cause"] for row in rows[3:5]] == ["folder marker", "listed twice"]
        assert "'..'" in rows[5]["cause"]

    def test_totals_count_each_object_once(self) -> None:
        """Totals count every listed object once, and only good ones' bytes."""
        ledger = Ledger(planned(reducer="sum"))
        ledger.fail(1, CorruptObject("damaged"))
        ledger.commit(ended(good(0), good(2), rows=3, mapped_rows=20))
        ledger.reduced[0] = ReducerEnd(0, 3, 3, 2)
        totals = ledger.sum_totals()
        fates = ["ok", "skipped", "failed", "unknown"]
        assert [totals[name] for name in fates] == [2, 2, 2, 0]
        assert sum(totals[name] for name in fates) == totals["inputs"] == len(LISTED)
        assert totals["stored_bytes"] == 500
        assert totals["decoded_bytes"] == 2000
        assert (totals["records"], totals["mapped"], totals["bad_records"]) == (20, 20, 0)
        assert (totals["mapped_rows"], totals["shuffled_rows"], totals["keys"]) == (20, 3, 2)
