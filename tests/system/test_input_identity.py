"""A local input that changes between listing and reading is detected, whatever its times."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from jobs import result, script
from ray_mr.driver.run import run
from ray_mr.errors import ObjectChanged
from ray_mr.jobs.job import Job
from ray_mr.stores.registry import store_for

if TYPE_CHECKING:
    from pathlib import Path

    from ray_mr.model import StoredObject

MAPPER = """
import os
def mapper(file, line):
    if os.path.exists({trap!r}) and line.startswith('k1'):
        os.unlink({trap!r})
        {harm}
    return line + '\\n'
"""
WRITE = "h = open({path!r}, 'r+b'); h.write(b'XX'); h.close()"
BACK = "os.utime({path!r}, ns=(st.st_atime_ns, st.st_mtime_ns))"
HARMS = {
    "written over, time set back": f"st = os.stat({{path!r}}); {WRITE}; {BACK}",
    "written over": WRITE,
    "removed": "os.unlink({path!r})",
}


def write_back_in_time(path: Path, data: bytes) -> None:
    """Overwrite a file in place, as ``rsync --inplace --times`` does."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("harm", HARMS)
def test_input_that_changes_after_listing_fails_and_runs_with_resume(
    tmp_path: Path, engine: str, harm: str
) -> None:
    """Its rows are not published; ``--resume`` maps the new content."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    one, two = tmp_path / "in" / "1", tmp_path / "in" / "2"
    one.write_text("k1\t1\n" * 9)
    two.write_text("k2\t1\n")
    source = MAPPER.format(trap=f"{tmp_path}/trap", harm=HARMS[harm].format(path=str(two)))
    job = Job(
        inputs=[f"{tmp_path}/in/"],
        records="text",
        reducer="sum",
        mapper={"script": script(tmp_path, "m.py", source)},
        output=f"{tmp_path}/out/result.txt",
        checkpoint="all",
    )
    (tmp_path / "trap").touch()
    report = run(job, engine=engine)
    assert report.exit_code == 5
    assert [uri for uri, _ in report.failed] == [str(two)]
    assert "chang" in report.failed[0][1] or "deleted" in report.failed[0][1]
    assert not (tmp_path / "out" / "result.txt").exists()
    report = run(job, engine=engine, resume=True)
    assert report.ok, "what is there now was never tried"
    expected = {"removed": b"k1\t9\n"}.get(harm, b"XX\t1\nk1\t9\n")
    assert result(tmp_path) == expected


@pytest.fixture
def listed(tmp_path: Path) -> StoredObject:
    (tmp_path / "in").write_bytes(b"content")
    return store_for("/").stat(f"{tmp_path}/in")


def test_change_with_its_time_set_back_is_refused(tmp_path: Path, listed: StoredObject) -> None:
    write_back_in_time(tmp_path / "in", b"CONTENT")
    with pytest.raises(ObjectChanged, match="its content, mode, owner or links changed since"):
        store_for("/").download(listed, tmp_path / "copy", private=True)
    assert store_for("/").detect_change(listed) is not None
    assert not (tmp_path / "copy").exists()


def test_file_that_is_only_read_and_linked_by_name_is_the_same(
    tmp_path: Path, listed: StoredObject
) -> None:
    (tmp_path / "in").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    os.utime(tmp_path, (1, 1))
    assert store_for("/").detect_change(listed) is None
