"""What the cases of some subjects need before their user begins."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from paths import TOP

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = TOP / "cluster" / "local_cluster.py"


@pytest.fixture(scope="module")
def two_machines() -> Iterator[dict[str, str]]:
    """A real cluster of two nodes, each with an address of its own; what a shell needs to join."""
    folder = Path(tempfile.mkdtemp(prefix="rmc-", dir="/tmp"))
    call = [sys.executable, str(SCRIPT), "--state", str(folder / "s")]
    try:
        begun = subprocess.run(
            [*call, "start", "--nodes", "2", "--apart"],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert begun.returncode == 0, begun.stderr
        exports = [shlex.split(line)[1] for line in begun.stdout.splitlines()]
        yield dict(each.split("=", 1) for each in exports)
    finally:
        subprocess.run([*call, "stop"], check=False, capture_output=True)
        shutil.rmtree(folder)


@pytest.fixture
def surroundings(request: pytest.FixtureRequest) -> None:
    """Fixtures that a subject names, set up before the user's folder is entered."""
    for name in request.param:
        request.getfixturevalue(name)
