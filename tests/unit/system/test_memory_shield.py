"""What a program can reach of the process that starts it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ray_mr.child.process import Process
from ray_mr.errors import ChildNotStarted
from samples import PATIENT
from tools import require_root, require_tool

if TYPE_CHECKING:
    from pathlib import Path

START = """
import sys
from pathlib import Path
from ray_mr.child.process import Limits, Process
with Process(["bash", "-c", sys.argv[1]], Path(sys.argv[2]), [], {}, Limits()) as child:
    data = b"".join(child.read_chunks())
print(data, child.quote_stderr())
"""
SECRET = {"AWS_SECRET_ACCESS_KEY": "secretABC"}


def output(child: Process) -> bytes:
    """All it says, after it has ended well."""
    with child:
        data = b"".join(child.read_chunks())
        child.finish()
    return data


def test_child_has_no_terminal_and_a_session_of_its_own(tmp_path: Path) -> None:
    """It cannot open /dev/tty where its starter can, so it can neither write nor type there."""
    source = "[ $(cut -d' ' -f6 /proc/$$/stat) = $$ ] && echo own; : < /dev/tty || echo none"
    ours, other = os.openpty()
    check = "open('/dev/tty').close()"  # raises where there is none
    argv = [sys.executable, "-c", f"{check}\n{START}", source, str(tmp_path)]
    done = subprocess.run(
        ["/usr/bin/setsid", "--wait", "--ctty", *argv],
        stdin=other,
        capture_output=True,
        check=False,
    )
    os.close(ours)
    os.close(other)
    assert done.stdout.startswith(b"b'own\\nnone\\n'"), done


@pytest.mark.slow
def test_child_cannot_read_environment_or_memory_of_its_parent(tmp_path: Path) -> None:
    """Where they are not root's; the test sees that it could read them without the shield."""
    require_root("become another user")
    require_tool("setpriv")
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o555)
    tmp_path.chmod(0o777)
    source = "for f in environ maps mem; do head -c 4096 /proc/$PPID/$f > $f || echo no; done"
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    argv = [*user, sys.executable, "-c", START, source, str(tmp_path)]
    done = subprocess.run(
        argv, env=os.environ | SECRET, cwd="/", capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("b'no\\nno\\nno\\n'"), done
    assert (tmp_path / "environ").read_bytes() == b""
    unshielded = START.replace(
        "import sys", "import sys\nfrom ray_mr.system import memory_shield", 1
    )
    argv[argv.index(START)] = unshielded.replace(
        "with", "memory_shield.hide_memory = lambda: None\nwith", 1
    )
    subprocess.run(argv, env=os.environ | SECRET, cwd="/", capture_output=True, check=True)
    assert b"secretABC" in (tmp_path / "environ").read_bytes()


def test_process_is_closed_only_while_it_runs_something() -> None:
    """Runs within runs; afterwards a debugger may look again."""
    code = (
        "from ray_mr.system.memory_shield import _prctl, shield_memory\n"
        "with shield_memory():\n"
        "    with shield_memory(): print(_prctl(3))\n"
        "    print(_prctl(3))\n"
        "print(_prctl(3))\n"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, check=True)
    assert done.stdout.split() == [b"0", b"0", b"1"]


def test_launcher_without_setpriv_does_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where util-linux is not installed, children die with their starter all the same."""
    which = shutil.which

    def find(name: str, path: str | None = None) -> str | None:
        return None if name == "setpriv" else which(name, path=path)

    monkeypatch.setattr("shutil.which", find)
    assert output(Process(["cat"], tmp_path, [b"x"], {}, PATIENT)) == b"x"
    source = (
        "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n));"
        "print(n.value)"
    )
    argv = [sys.executable, "-c", source]
    assert output(Process(argv, tmp_path, [], {}, PATIENT)) == b"9\n"
    (tmp_path / "job").write_bytes(b"#!/no/such\n")
    (tmp_path / "job").chmod(0o755)
    with pytest.raises(ChildNotStarted, match="job"):
        output(Process(["./job"], tmp_path, [], {}, PATIENT))
