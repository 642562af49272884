"""What is promised of keys with very many rows: they are named, and hold no built-in reducer up."""

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
from ray_mr.shuffle.batches import format_lines, parse_lines
from ray_mr.shuffle.combine import map_side
from ray_mr.shuffle.combine.map_side import MapSideCombiner
from ray_mr.shuffle.combine.reducers import BUILT_IN_REDUCERS
from ray_mr.shuffle.heavy_hitters import MAX_HOT_KEYS, HeavyHitters
from ray_mr.shuffle.order.external_sort import ExternalSorter
from ray_mr.shuffle.order.key_prefix import encode_keys_and_values, view_keys
from ray_mr.shuffle.partition import compute_partition
from ray_mr.shuffle.rows import RowBatch, concat_batches, encode_pairs
from samples import rows

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=40)
FOLDED = [name for name, built_in in BUILT_IN_REDUCERS.items() if built_in.raw_is_state]


def seen(made: RowBatch, window: int) -> tuple[tuple[bytes, int], ...]:
    """What is told of rows that come in windows."""
    hottest = HeavyHitters()
    windows = [made.slice(at, at + window) for at in range(0, len(made), window)]
    assert list(hottest.watch([*windows, made.slice(0, 0)]))[:-1] == windows
    return hottest.rank_keys()


@given(SIZES, st.integers(1, 50), st.integers(1, 3))
def test_all_rows_are_looked_at(sizes: list[int], window: int, times: int) -> None:
    """In small windows, and where rows have counts: the keys with the most rows, exactly."""
    keys = [b"%03d" % number for number, size in enumerate(sizes) for _ in range(size)]
    made = encode_pairs(keys, [b""] * len(keys), [times] * len(keys))
    expected = sorted(Counter(keys).items(), key=lambda item: (-item[1], item[0]))
    found = seen(made, window)
    assert [count for _, count in found] == [count * times for _, count in expected[:MAX_HOT_KEYS]]
    assert all(Counter(keys)[key] * times == count for key, count in found)


@given(SIZES, st.integers(10, 300))
def test_some_rows_are_looked_at(sizes: list[int], window: int) -> None:
    """In large windows: exact, and no key of as many rows as two steps is missing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heavy_hitters, "SAMPLE_ROWS", 5)
        keys = [b"%03d" % number for number, size in enumerate(sizes) for _ in range(size)]
        true = Counter(keys)
        found = dict(seen(rows([(key, b"") for key in keys]), window))
        assert all(true[key] == count for key, count in found.items())
        least = max(2 * (window // 5), min(found.values()) if len(found) == MAX_HOT_KEYS else 1)
        assert {key for key, count in true.items() if count > least} <= set(found)
        assert len(found) <= MAX_HOT_KEYS


def test_nothing_is_told_of_keys_that_are_all_alike() -> None:
    """A million different keys have no hottest."""
    made = rows([(b"%07d" % number, b"") for number in range(40_000)])
    assert seen(made, 20_000) == ()


@pytest.mark.parametrize("name", FOLDED)
def test_hot_key_is_folded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is hot travels as few rows, though folding was found not to pay before it came."""
    monkeypatch.setattr(map_side, "BATCH_BYTES", 1 << 20)
    cold = b"".join(b"k%d\t%d\n" % (number, number) for number in range(30_000))
    warm = b"".join(b"hot\t%d\nk%d\t1.5\n" % (number % 50, number) for number in range(60_000))
    built_in = BUILT_IN_REDUCERS[name]
    shaper = MapSideCombiner(lambda text: parse_lines(text, "tab"), built_in=built_in)
    packs = [*shaper.add(cold), *shaper.add(warm), *shaper.add(warm), *shaper.close()]
    whole = concat_batches(packs)
    travelled = int((whole.key_lengths == 3).sum())
    assert sum(key == b"hot" for key in whole.keys().to_pylist()) <= 60 * len(packs)
    assert travelled < 1_000
    assert shaper.rows == 30_000 + 4 * 60_000
    order = encode_keys_and_values if built_in.sorts_by_value else view_keys
    results = []
    for some in ([rows_of(cold + 2 * warm)], packs):
        with tempfile.TemporaryDirectory() as folder:
            sorter = ExternalSorter(Path(folder), 1 << 26, order)
            for place, each in enumerate(some):
                sorter.add(each, place << 24)
            done = [each for each, _, _ in built_in.finish(sorter.read_sorted()) if len(each)]
            results.append(b"".join(map(format_lines, done)))
    assert results[0] == results[1]


def rows_of(text: bytes) -> RowBatch:
    """Rows of lines, none of them folded."""
    return parse_lines(text, "tab")


def end(part: int, size: int, *keys: tuple[bytes, int]) -> ReducerEnd:
    """The last word of a part of so many rows."""
    return ReducerEnd(part, size, size, 3, input_bytes=size, seconds=1.23456, hot_keys=keys)


def test_told_where_one_has_more_than_half() -> None:
    """Of three parts and more, in words: the part, its share, and the key that is to blame."""
    busy = end(1, 80_000, (b"WINNT", 75_000), (b"a", 1))
    ends = [end(2, 10_000, (b"b\xff", 9_000)), busy, end(0, 10_000)]
    shares = Shares.of(ends, built_in=False)
    told = "part 1 of 3 had 80 % of all rows, its key 'WINNT' 75 %"
    assert shares.warning() == told
    assert Shares.of(ends, built_in=True).warning() == "part 1 of 3 had 80 % of all bytes"
    assert [row["part"] for row in shares.facts()] == [0, 1, 2]
    assert shares.facts()[1] == {
        "part": 1,
        "rows": 80_000,
        "keys": 3,
        "input_bytes": 80_000,
        "output_bytes": 0,
        "seconds": 1.235,
    }
    assert shares.hot_keys() == [
        {"key": "WINNT", "rows": 75_000, "part": 1},
        {"key": "b\\xff", "rows": 9_000, "part": 2},
        {"key": "a", "rows": 1, "part": 1},
    ]


@pytest.mark.parametrize("sizes", [[], [90_000], [90_000, 1], [50_000] * 3, [9_000, 1, 1], [0] * 4])
def test_nothing_is_told(sizes: list[int]) -> None:
    """Of one part or two, of equal ones, and of little work."""
    ends = [end(part, size) for part, size in enumerate(sizes)]
    assert Shares.of(ends, built_in=False).warning() == ""


def test_long_keys() -> None:
    """What is shown of a key ends somewhere."""
    assert format_key(b"x" * 1_000_000) == "x" * MAX_KEY_CHARS + "..."
    assert json.dumps(format_key(b"\xff\x00\xc3\xa4")) == '"\\\\xff\\u0000\\u00e4"'


def hot_job(folder: Path, **options: Any) -> Job:
    """Lines of which most have one key."""
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


def test_report(tmp_path: Path, engine: str) -> None:
    """The report has the keys with the most rows and each part's share; the last line warns."""
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


@pytest.mark.parametrize("name", ["count", "sum", "mean", "distinct", "top"])
def test_built_ins_are_not_held_up(tmp_path: Path, name: str) -> None:
    """Of a hot key some bytes travel, whatever its rows: there is nothing to warn of."""
    report, _ = run_told(hot_job(tmp_path, reducer=name))
    assert report.ok
    assert "uneven" not in report.summary()
    parts = report.facts()["parts"]
    home = compute_partition(b"hot", 4)
    others = [part["input_bytes"] for part in parts if part["part"] != home]
    assert parts[home]["input_bytes"] < 1.5 * max(others)


def test_files_have_no_hot_keys(tmp_path: Path) -> None:
    """Of files fed whole, keys are not known; their shares are."""
    files = {"language": "binary", "script": "xargs", "arguments": ["cat"]}
    report, _ = run_told(hot_job(tmp_path, reducer=files))
    assert report.ok
    assert report.facts()["hot_keys"] == []
    assert sum(part["rows"] for part in report.facts()["parts"]) == 60_000
