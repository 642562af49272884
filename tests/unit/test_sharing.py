"""The distribution of tests to workers."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from paths import SUPPORT, TOP
from sharing import TOGETHER, share

if TYPE_CHECKING:
    from pathlib import Path

HERE = SUPPORT
CHILD = "import pytest\n@pytest.mark.parametrize('n', range(20))\ndef test_{name}(n): pass\n"
OURS = "from sharing import Sharing\ndef pytest_xdist_make_scheduler(config, log):\n"


@pytest.mark.slow
def test_named_file_stays_in_one_worker(tmp_path: Path) -> None:
    (tmp_path / "tests" / "system").mkdir(parents=True)
    names = {"test_cluster": "one", "test_other": "many"}
    for file, name in names.items():
        (tmp_path / "tests" / "system" / f"{file}.py").write_text(CHILD.format(name=name))
    (tmp_path / "tests" / "conftest.py").write_text(f"{OURS}    return Sharing(config, log)\n")
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {HERE}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--numprocesses", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "40 passed" in done.stdout, done.stdout + done.stderr
    ran = [line.split() for line in done.stdout.splitlines() if " PASSED " in line]
    assert len({words[0] for words in ran if "_one[" in words[-1]}) == 1


def test_other_tests_are_shared_one_by_one() -> None:
    """A worker takes the next test when it is free."""
    test = "tests/test_other.py::test_many[1]"
    assert share(test) == test


def test_files_of_the_table_exist() -> None:
    """A renamed file is not forgotten."""
    assert [name for name in TOGETHER if not (TOP / name.partition("::")[0]).is_file()] == []
