"""Keys with very many rows are reported, and do not hold up a built-in reducer."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import CAT, result, run_told
from ray_mr.driver.skew import MAX_KEY_CHARS, Shares, format_key
from ray_mr.jobs.job import Job
from ray_mr.model import ReducerEnd
from ray_mr.shuffle import heavy_hitters
from ray_mr.shuffle.combine import map_side
from ray_mr.shuffle.combine.map_side import MapSideCombiner
from ray_mr.shuffle.combine.reducers import BUILT_IN_REDUCERS
from ray_mr.shuffle.heavy_hitters import MAX_HOT_KEYS, HeavyHitters
from ray_mr.shuffle.lines import format_lines, parse_lines
from ray_mr.shuffle.order.external_sort import ExternalSorter
from ray_mr.shuffle.order.row_order import encode_keys_and_values, view_keys
from ray_mr.shuffle.partition import compute_partition
from ray_mr.shuffle.rows import RowBatch, concat_batches, encode_pairs
from samples import rows

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=40)
FOLDED = [name for name, built_in in BUILT_IN_REDUCERS.items() if built_in.raw_is_state]


def watch(rows: RowBatch, size: int) -> tuple[tuple[bytes, int], ...]:
    """Return the keys with the most rows, of rows that come in batches of a size."""
    heavy_hitters = HeavyHitters()
    batches = [rows.slice(at, at + size) for at in range(0, len(rows), size)]
    assert list(heavy_hitters.watch([*batches, rows.slice(0, 0)]))[:-1] == batches
    return heavy_hitters.rank_keys()


@pytest.mark.slow
@given(SIZES, st.integers(1, 50), st.integers(1, 3))
def test_small_batches_are_counted_exactly(sizes: list[int], window: int, times: int) -> None:
    """So are batches whose rows have counts."""
    keys = [b"%03d" % number for number, size in enumerate(sizes) for _ in range(size)]
    batch = encode_pairs(keys, [b""] * len(keys), [times] * len(keys))
    expected = sorted(Counter(keys).items(), key=lambda item: (-item[1], item[0]))
    found = watch(batch, window)
    assert [count for _, count in found] == [count * times for _, count in expected[:MAX_HOT_KEYS]]
    assert all(Counter(keys)[key] * times == count for key, count in found)


@given(SIZES, st.integers(10, 300))
def test_sampled_batches_are_counted_exactly_or_not_at_all(sizes: list[int], window: int) -> None:
    """No key with more rows than two steps is missing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heavy_hitters, "SAMPLE_ROWS", 5)
        keys = [b"%03d" % number for number, size in enumerate(sizes) for _ in range(size)]
        true = Counter(keys)
        found = dict(watch(rows([(key, b"") for key in keys]), window))
        assert all(true[key] == count for key, count in found.items())
        least = max(2 * (window // 5), min(found.values()) if len(found) == MAX_HOT_KEYS else 1)
        assert {key for key, count in true.items() if count > least} <= set(found)
        assert len(found) <= MAX_HOT_KEYS


def test_keys_of_one_row_each_are_not_returned() -> None:
    """A million different keys have no heavy_hitters."""
    batch = rows([(b"%07d" % number, b"") for number in range(40_000)])
    assert watch(batch, 20_000) == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDED)
def test_hot_key_is_folded_where_others_are_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folding did not pay for the first batch of the split."""
    monkeypatch.setattr(map_side, "BATCH_BYTES", 1 << 20)
    cold = b"".join(b"k%d\t%d\n" % (number, number) for number in range(30_000))
    warm = b"".join(b"hot\t%d\nk%d\t1.5\n" % (number % 50, number) for number in range(60_000))
    built_in = BUILT_IN_REDUCERS[name]
    combiner = MapSideCombiner(lambda text: parse_lines(text, "tab"), built_in=built_in)
    batches = [*combiner.add(cold), *combiner.add(warm), *combiner.add(warm), *combiner.close()]
    whole = concat_batches(batches)
    travelled = int((whole.key_lengths == 3).sum())
    assert sum(key == b"hot" for key in whole.keys().to_pylist()) <= 60 * len(batches)
    assert travelled < 1_000
    assert combiner.rows == 30_000 + 4 * 60_000
    order = encode_keys_and_values if built_in.sorts_by_value else view_keys
    results = []
    for some in ([rows_of(cold + 2 * warm)], batches):
        with tempfile.TemporaryDirectory() as folder:
            sorter = ExternalSorter(Path(folder), 1 << 26, order)
            for place, each in enumerate(some):
                sorter.add(each, place << 24)
            done = [each for each, _, _ in built_in.finish(sorter.read_sorted()) if len(each)]
            results.append(b"".join(map(format_lines, done)))
    assert results[0] == results[1]


def rows_of(text: bytes) -> RowBatch:
    """Return rows of lines, none of them folded."""
    return parse_lines(text, "tab")


def end(part: int, size: int, *keys: tuple[bytes, int]) -> ReducerEnd:
    """Return the end of a part of ``size`` rows."""
    return ReducerEnd(part, size, size, 3, input_bytes=size, seconds=1.23456, hot_keys=keys)


def test_warning_names_the_part_with_most_rows_and_its_key() -> None:
    """It is given if one of three or more parts has more than half of the rows."""
    busy = end(1, 80_000, (b"WINNT", 75_000), (b"a", 1))
    ends = [end(2, 10_000, (b"b\xff", 9_000)), busy, end(0, 10_000)]
    shares = Shares.of(ends, built_in=False)
    warning = "part 1 of 3 had 80 % of all rows, its key 'WINNT' 75 %"
    assert shares.make_warning() == warning
    assert Shares.of(ends, built_in=True).make_warning() == "part 1 of 3 had 80 % of all bytes"
    assert [row["part"] for row in shares.list_parts()] == [0, 1, 2]
    assert shares.list_parts()[1] == {
        "part": 1,
        "rows": 80_000,
        "keys": 3,
        "input_bytes": 80_000,
        "output_bytes": 0,
        "seconds": 1.235,
    }
    assert shares.list_hot_keys() == [
        {"key": "WINNT", "rows": 75_000, "part": 1},
        {"key": "b\\xff", "rows": 9_000, "part": 2},
        {"key": "a", "rows": 1, "part": 1},
    ]


@pytest.mark.parametrize("sizes", [[], [90_000], [90_000, 1], [50_000] * 3, [9_000, 1, 1], [0] * 4])
def test_even_or_small_parts_give_no_warning(sizes: list[int]) -> None:
    """Two parts or fewer, equal parts, and little work."""
    ends = [end(part, size) for part, size in enumerate(sizes)]
    assert Shares.of(ends, built_in=False).make_warning() == ""


def test_shown_long_key_is_cut() -> None:
    assert format_key(b"x" * 1_000_000) == "x" * MAX_KEY_CHARS + "..."
    assert json.dumps(format_key(b"\xff\x00\xc3\xa4")) == '"\\\\xff\\u0000\\u00e4"'


def hot_job(folder: Path, **options: Any) -> Job:
    """Return a job over lines most of which have one key."""
    for name in ("in", "out"):
        (folder / name).mkdir(exist_ok=True)
    lines = [b"hot\t%d\n" % (n % 97) if n % 5 else b"k%d\t1\n" % n for n in range(20_000)]
    for number in range(3):
        (folder / "in" / str(number)).write_bytes(b"".join(lines))
    settings: dict[str, Any] = {
        "inputs": [f"{folder}/in/"],
        "mapper": CAT,
        "reducer": CAT,
        "reducers": 4,
        "output": f"{folder}/out/result.txt",
        "split_bytes": "64KiB",
    }
    return Job(**{**settings, **options})


def test_report_has_hot_keys_and_shares(tmp_path: Path, engine: str) -> None:
    """The last line of the summary warns of the uneven part."""
    report, _ = run_told(hot_job(tmp_path), engine=engine)
    assert report.ok
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    home = compute_partition(b"hot", 4)
    assert facts["hot_keys"][0] == {"key": "hot", "rows": 48_000, "part": home}
    assert [part["part"] for part in facts["parts"]] == [0, 1, 2, 3]
    assert sum(part["rows"] for part in facts["parts"]) == 60_000
    written = len(result(tmp_path))
    assert sum(part["output_bytes"] for part in facts["parts"]) == written
    assert all(part["input_bytes"] > 0 <= part["seconds"] for part in facts["parts"])
    assert f"uneven: part {home} of 4 had 8" in report.summary()
    assert f"part {home} of 4 had 8" in report._repr_html_()
    assert "its key 'hot' 80 %" in report.summary()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["count", "sum", "mean", "distinct", "top"])
def test_hot_key_does_not_hold_up_a_built_in_reducer(tmp_path: Path, name: str) -> None:
    """It is folded before the shuffle, so there is nothing to warn of."""
    report, _ = run_told(hot_job(tmp_path, reducer=name))
    assert report.ok
    assert "uneven" not in report.summary()
    parts = report.facts()["parts"]
    home = compute_partition(b"hot", 4)
    others = [part["input_bytes"] for part in parts if part["part"] != home]
    assert parts[home]["input_bytes"] < 1.5 * max(others)


def test_files_have_no_hot_keys(tmp_path: Path) -> None:
    """The keys of files are unknown; the shares of parts are known."""
    files = {"language": "binary", "script": "xargs", "arguments": ["cat"]}
    report, _ = run_told(hot_job(tmp_path, reducer=files))
    assert report.ok
    assert report.facts()["hot_keys"] == []
    assert sum(part["rows"] for part in report.facts()["parts"]) == 60_000
