"""The demo's pings are the same each time and their truth is right; its job file is complete."""

from __future__ import annotations

import gzip
import json
import lzma
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from demo.make_pings import CODECS, make_pings
from paths import TOP
from ray_mr.jobs.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = re.compile(
    r"saved_session/Firefox/nightly/\d+\.0a1/\d{14}\.\d{8}\.v2\.log\.[0-9a-f]{32}(\.gz|\.xz|\.lzma)?"
)
OPEN: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
    ".lzma": lzma.decompress,
}


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def count(raw: bytes) -> tuple[Counter[str], int]:
    """Count as a job must: pings of each OS, and lines that are none."""
    found: Counter[str] = Counter()
    bad = 0
    for line in raw.decode().splitlines():
        ident, _, text = line.partition("\t")
        try:
            ping = json.loads(text)
        except ValueError:
            bad += 1
        else:
            assert len(ident) == 36
            found[ping["info"]["OS"]] += 1
    return found, bad


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    """Two runs with one seed agree in every byte; another seed gives other pings."""
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        make_pings(tmp_path / name, files=4, pings=5, seed=seed, malformed=0.2)
    a, b, c = (content(tmp_path / name) for name in "abc")
    assert a == b
    assert len(a) == 5
    assert a.keys() & c.keys() == {"truth.json"}


@pytest.mark.parametrize("codec", ["mixed", *CODECS])
def test_truth_is_right(tmp_path: Path, codec: str) -> None:
    """A count by other means gives the numbers of truth.json, for each file and in all."""
    total = make_pings(tmp_path, files=5, pings=40, codec=codec, malformed=0.1)
    truth: dict[str, Any] = json.loads((tmp_path / "truth.json").read_text())
    files = content(tmp_path)
    del files["truth.json"]
    assert files.keys() == truth["files"].keys()
    everything: Counter[str] = Counter()
    malformed = 0
    for key, stored in files.items():
        match = KEY.fullmatch(key)
        assert match, key
        raw = OPEN.get(match[1] or "", bytes)(stored)
        found, bad = count(raw)
        assert truth["files"][key] == {
            "records": found.total(),
            "malformed": bad,
            "bytes_raw": len(raw),
            "bytes_stored": len(stored),
            "os": found,
        }
        everything += found
        malformed += bad
    assert truth["total"] == total.as_dict()
    assert truth["total"]["os"] == everything
    assert (total.records, total.malformed) == (everything.total(), malformed)
    assert total.records + total.malformed == 5 * 40
    assert malformed


def test_same_pings_in_every_codec(tmp_path: Path) -> None:
    """The codec changes how pings are stored, not the pings: results can be compared."""
    totals = [make_pings(tmp_path / codec, files=2, pings=10, codec=codec).os for codec in CODECS]
    assert totals.count(totals[0]) == len(CODECS)


def test_demo_job_file_shows_every_option_with_its_default(tmp_path: Path) -> None:
    """analysis-tools.yml is a valid job, names every option, and its comments tell the defaults."""
    text = (TOP / "analysis-tools.yml").read_text()
    job = Job.from_file(TOP / "analysis-tools.yml")
    whole = tmp_path / "whole.yml"
    shown = re.compile(r"^#(\w+):", re.MULTILINE)
    whole.write_text(shown.sub(r"\1:", text))
    commented = set(shown.findall(text))
    explicit = Job.from_file(whole)
    for name in commented:
        assert getattr(explicit, name) == getattr(job, name), name
    assert commented | set(re.findall(r"^(\w+):", text, re.MULTILINE)) == set(Job.model_fields)


def test_job_file_page_names_exactly_the_options_of_a_job() -> None:
    page = (TOP / "docs" / "reference" / "job-file.md").read_text()
    section = page.split("## Options\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(cells))) == set(Job.model_fields)
