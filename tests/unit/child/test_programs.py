"""The contract of a program without a harness: it reads file names and writes its output."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from ray_mr.child.plain_child import run_files
from ray_mr.child.start import FORK_LOCK
from ray_mr.counters import Counters
from ray_mr.errors import ChildCrashed, ChildError
from ray_mr.jobs.program import Program
from samples import alive, make_launch, shell, wait_until

if TYPE_CHECKING:
    from pathlib import Path


class TestFiles:
    """A program that reads file names and writes its output."""

    def run(self, folder: Path, source: str, *names: bytes) -> bytes:
        pieces = run_files(make_launch(folder, shell(source)), names)
        return b"".join(piece for piece in pieces if piece is not None)

    def test_output_is_result_file_or_stdout(self, tmp_path: Path) -> None:
        """The file may be empty."""
        assert (
            self.run(tmp_path / "a", "cat", b"./s3/x", b"./s3/y \xff") == b"./s3/x\n./s3/y \xff\n"
        )
        assert self.run(tmp_path / "b", "echo log; cat > result.txt", b"x") == b"x\n"
        assert self.run(tmp_path / "c", "cat; : > result.txt", b"x") == b""

    def test_script_gets_its_arguments(self, tmp_path: Path) -> None:
        """A bare word is a program on the PATH."""
        launch = make_launch(tmp_path, shell('cat >&2; echo "$0 $*"', "a b", "c"))
        text = b"".join(filter(None, run_files(launch, [b"x"])))
        assert text == b"./script.sh a b c\n"
        tool = Program("binary", "cat", (), ("-",), "files", function=False)
        assert b"".join(filter(None, run_files(make_launch(tmp_path, tool), [b"x"]))) == b"x\n"

    @pytest.mark.parametrize("source", ["true", "read one; echo $one", "exec 0<&-; sleep 0.3"])
    def test_unread_file_names_are_an_error(self, tmp_path: Path, source: str) -> None:
        """The exit code is 0."""
        with pytest.raises(ChildError, match="before it had read every file name"):
            # 'read' of sh takes a byte at a time: the second name stays in the pipe.
            self.run(tmp_path, source, b"./s3/one", b"./s3/two")

    def test_counters_on_stderr_add_up(self, tmp_path: Path) -> None:
        counters = Counters({"g,n": 1})
        launch = make_launch(tmp_path, shell("cat; echo reporter:counter:g,n,2 >&2"))
        assert b"x\n" in list(run_files(launch, [b"x"], counters))
        assert counters == {"g,n": 3}

    def test_crash_discards_the_output(self, tmp_path: Path) -> None:
        with pytest.raises(ChildCrashed, match="exit code 9"):
            self.run(tmp_path, "cat; exit 9", b"x")

    @pytest.mark.slow
    def test_large_stdout_comes_in_pieces(self, tmp_path: Path) -> None:
        """100 MB are buffered on disk."""
        launch = make_launch(tmp_path, shell("cat >&2; head -c 100000000 /dev/zero"))
        sizes = [len(piece) for piece in run_files(launch, [b"x"]) if piece]
        assert sum(sizes) == 100_000_000
        assert max(sizes) <= 1 << 20

    def test_closed_iterator_ends_the_program(self, tmp_path: Path) -> None:
        launch = make_launch(tmp_path, shell("echo $$ > pid; exec sleep 60"))
        output = run_files(launch, [b"x"])
        wait_until(lambda: next(output) is None and (tmp_path / "pid").exists())
        wait_until((tmp_path / "pid").read_text)
        output.close()  # type: ignore[attr-defined]
        assert not alive(int((tmp_path / "pid").read_text()))


def test_no_program_is_written_while_a_child_is_forked(tmp_path: Path) -> None:
    """The child would hold it open for a moment, which keeps the kernel from running it."""
    launch = make_launch(tmp_path / "a", shell("exit 0\n"))
    thread = threading.Thread(target=launch.write_program)
    with FORK_LOCK:
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert not (tmp_path / "a" / "script.sh").exists()
    thread.join(30)
    assert (tmp_path / "a" / "script.sh").exists()
