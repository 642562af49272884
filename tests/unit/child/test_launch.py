"""How and where programs run: interpreters, attached files, setup, environment."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from house import House
from jobs import job, make_pings, result, run_told
from ray_mr.child.launch import LaunchSpec
from ray_mr.child.process import Limits
from ray_mr.errors import ChildError, ChildNotStarted, JobError
from ray_mr.jobs import attached_files
from ray_mr.jobs.attached_files import pack_attached_files
from ray_mr.jobs.job import Job
from ray_mr.model import AttemptId, Progress
from ray_mr.tasks import attempt_state
from ray_mr.tasks.map_attempt import map_split
from ray_mr.tasks.map_task import MapTask
from samples import shell

if TYPE_CHECKING:
    from ray_mr.planning.plan import Plan

WHICH = "import sys\ndef mapper(file, line): return sys.executable + '\\n'"


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Return a house with an input of one line."""
    new_house = House(tmp_path)
    new_house.inputs([b"a\n"])
    return new_house


def run_plan(house: House, plan: Plan) -> bytes:
    """Return the text of a map-only job whose attempt ends well."""
    blocks, end = house.attempt(plan)
    assert end.error is None, end.error
    return b"".join(bytes(item.data) for item in blocks)


def make_binary_mapper(house: House, source: str) -> dict[str, str]:
    return house.shell("m", source) | {"feed": "lines"}


def make_venv(folder: Path) -> Path:
    """Make a folder like that of `python -m venv`, without packages."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).parent}\n")
    return folder


class TestInterpreters:
    """`python` and `node` choose the interpreter of scripts."""

    @pytest.mark.parametrize("tail", ["", "bin/python"])
    def test_virtual_environment_is_used(self, house: House, tail: str) -> None:
        """It is given by its folder or by its interpreter."""
        venv = make_venv(house.folder / "venv")
        plan = house.plan(WHICH, python=str(venv / tail))
        assert run_plan(house, plan) == f"{venv}/bin/python\n".encode()

    def test_default_interpreter_is_that_of_ray_mr(self, house: House) -> None:
        assert run_plan(house, house.plan(WHICH)) == f"{sys.executable}\n".encode()

    def test_bare_name_is_found_on_path(self, house: House) -> None:
        """The PATH is that of the machine, or of `env`."""
        venv = make_venv(house.folder / "venv")
        (venv / "bin" / "python").rename(venv / "bin" / "mine")
        path = f"{venv}/bin:{os.environ['PATH']}"
        plan = house.plan(WHICH, python="mine", env={"PATH": path})
        assert run_plan(house, plan) == f"{venv}/bin/mine\n".encode()

    def test_node_of_a_folder_is_used(self, house: House, node: str) -> None:
        folder = house.folder / "own"
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "node").symlink_to(node)
        source = "console.log(process.argv0); process.stdin.resume()"
        mapper = {"language": "javascript", "script": house.script("m", source), "feed": "lines"}
        plan = house.plan(mapper, records=None, node=str(folder))
        assert run_plan(house, plan) == f"{folder}/bin/node\n".encode()

    def test_chosen_interpreter_comes_first_on_path(self, house: House) -> None:
        """Scripts of any language find it by its name, too."""
        venv = make_venv(house.folder / "venv")
        plan = house.plan(
            make_binary_mapper(house, "cat >&2; command -v python"), records=None, python=str(venv)
        )
        assert run_plan(house, plan) == f"{venv}/bin/python\n".encode()

    @pytest.mark.parametrize("key", ["python", "node"])
    @pytest.mark.parametrize("what", ["missing", "empty folder", "not executable"])
    def test_missing_interpreter_error_names_its_option(
        self, house: House, key: str, what: str
    ) -> None:
        """The attempt is not retried."""
        place = house.folder / "there"
        if what == "empty folder":
            place.mkdir()
        elif what == "not executable":
            place.write_text("")
        language = {"python": "python", "node": "javascript"}[key]
        mapper = {"language": language, "script": house.script("m", "x"), "feed": "records"}
        _, end = house.attempt(house.plan(mapper, **{key: str(place)}))
        assert isinstance(end.error, ChildNotStarted)
        assert f"{key}: {place}: there is no interpreter" in str(end.error)
        assert f"`{key}`" in str(end.error)
        assert not end.error.retryable

    def test_name_missing_on_path_is_reported(self, house: House) -> None:
        _, end = house.attempt(house.plan(WHICH, python="no-such-python"))
        assert isinstance(end.error, ChildNotStarted)
        assert "cannot run 'no-such-python'" in str(end.error)


class TestFiles:
    """`files` are copied into every program's folder."""

    def test_files_and_folders_are_copied(self, house: House) -> None:
        """Files keep their names and executable bits; folders are copied with their content."""
        data = house.folder / "data"
        (data / "deep" / "er").mkdir(parents=True)
        (data / "deep" / "er" / "x").write_bytes(b"\0\xff")
        (data / ".hidden").write_text("h")
        tool = house.folder / "tool"
        tool.write_text("#!/bin/sh\necho tool\n")
        tool.chmod(0o755)
        source = "cat >&2; ./tool; cat data/.hidden; od -An -tx1 data/deep/er/x; ls -1"
        plan = house.plan(
            make_binary_mapper(house, source), records=None, files=[str(data), str(tool)]
        )
        assert run_plan(house, plan) == b"tool\nh 00 ff\ndata\nm.py\ns3\ntool\n"

    @pytest.mark.slow
    def test_every_program_finds_the_files(self, house: House) -> None:
        """A command on the PATH is still found there."""
        (house.folder / "word").write_text("w")
        source = "def {}(*a): return [(open('word').read(), len(a[-1]))]"
        plan = house.plan(
            source.format("mapper"),
            files=[str(house.folder / "word")],
            combiner={"script": house.script("combiner", source.format("combine"))},
            reducer={"script": house.script("reducer", source.format("reduce"))},
        )
        blocks, end = house.attempt(plan)
        assert end.error is None
        assert house.reduce(plan, blocks)[0][0] == b"w\t1\n"
        plan = house.plan(
            {"language": "binary", "script": "cat", "feed": "lines"},
            records=None,
            files=[str(house.folder / "word")],
        )
        assert run_plan(house, plan) == b"a\n"

    def test_attached_file_can_be_the_program(self, house: House) -> None:
        """`script` names it like a command."""
        tool = house.folder / "cat"
        tool.write_text("#!/bin/sh\nexec tr a b\n")
        tool.chmod(0o755)
        plan = house.plan(
            {"language": "binary", "script": "cat", "feed": "lines"},
            records=None,
            files=[str(tool)],
        )
        assert run_plan(house, plan) == b"b\n"

    def test_unusable_file_is_refused_by_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is missing, taken, listed twice, a link to a folder, or too large."""
        (tmp_path / "a").mkdir()
        for name in ("x", "s3", ".ray_mr_harness", "a/x"):
            (tmp_path / name).write_text("12345")
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "link").symlink_to(tmp_path / "a")
        cases = {
            "no such file or folder": ["nothing"],
            "the name 's3' is taken": ["s3"],
            "is taken in a program's folder": [".ray_mr_harness"],
            "have the same name": ["x", "a/x"],
            "is a link to a folder": ["b"],
            "more than 4 bytes": ["x"],
        }
        for words, names in cases.items():
            if "bytes" in words:
                monkeypatch.setattr(attached_files, "MAX_FILES_BYTES", 4)
            with pytest.raises(JobError) as caught:
                pack_attached_files(str(tmp_path / name) for name in names)
            assert words in str(caught.value)
            assert names[-1] in str(caught.value)

    def test_empty_folder_is_there_for_the_program(self, house: House) -> None:
        """The folder is attached itself, within another one, or under another name."""
        for name in ("empty", "full/empty"):
            (house.folder / name).mkdir(parents=True)
        (house.folder / "full" / "file").write_text("x")
        plan = house.plan(
            make_binary_mapper(house, "cat >&2; find empty full new -mindepth 0 | sort"),
            records=None,
            files=[
                *(str(house.folder / name) for name in ("empty", "full")),
                f"{house.folder}/empty#new",
            ],
        )
        assert run_plan(house, plan) == b"empty\nfull\nfull/empty\nfull/file\nnew\n"

    @pytest.mark.parametrize("kind", ["pipe", "socket", "device", "dangling"])
    @pytest.mark.parametrize("where", ["", "folder/"])
    def test_special_file_is_refused_and_never_read(
        self, tmp_path: Path, kind: str, where: str
    ) -> None:
        """Reading a pipe would block forever. It is named itself, or is in a folder."""
        (tmp_path / "folder").mkdir()
        path = tmp_path / f"{where}x"
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            path.symlink_to(tmp_path / "nothing")
        listed_path = tmp_path / (where or "x")
        with pytest.raises(JobError, match=r"not a regular file|no such file") as caught:
            pack_attached_files([str(listed_path)])
        assert str(path) in caught.value.message

    def test_file_and_folder_of_one_name_are_refused(self, house: House) -> None:
        """The two are both in `files`, or one is a file of the program."""
        folder = house.folder / "folder"
        (folder / "below").mkdir(parents=True)
        (folder / "file").write_text("x")
        (house.folder / "word").write_text("x")
        word = str(house.folder / "word")
        with pytest.raises(JobError, match="word is the name of a file and of a folder"):
            pack_attached_files([word, f"{folder}#word"])
        with pytest.raises(JobError, match="word is the name of a file and of a folder"):
            pack_attached_files([word, f"{folder}/below#word"])
        script = house.script("m", WHICH)
        with pytest.raises(JobError, match=r"is a folder here and a file of"):
            house.plan({"script": script}, files=[f"{folder}#{Path(script).name}"])

    def test_folder_that_is_too_deep_is_refused(self, tmp_path: Path) -> None:
        """A folder at the limit is packed; nothing recurses at any depth."""
        folder = tmp_path / "d"
        (folder / Path(*["d"] * attached_files.MAX_DEPTH)).mkdir(parents=True)
        (packed,) = pack_attached_files([str(folder)])
        assert packed.name == "d/" * (attached_files.MAX_DEPTH + 1)
        (folder / Path(*["d"] * (attached_files.MAX_DEPTH + 1))).mkdir()
        with pytest.raises(JobError, match="nested more than 100 deep"):
            pack_attached_files([str(folder)])

    def test_file_named_like_the_script_is_refused(self, house: House) -> None:
        """It would replace the script, or a file beside it."""
        (house.folder / "mapper.py").write_text("other")
        with pytest.raises(JobError, match=r"mapper\.py is also a file of mapper\.py"):
            house.plan(WHICH, files=[str(house.folder / "mapper.py")])

    def test_program_digest_includes_the_files(self, house: House) -> None:
        word = house.folder / "word"
        digests = set()
        for text in ("a", "b"):
            word.write_text(text)
            digests.add(house.plan(WHICH, files=[str(word)]).mapper.digest)
        assert len(digests) == 2


class TestEnvironment:
    """The environment of a program."""

    @pytest.mark.parametrize(("env", "expected"), [({}, ""), ({"PYTHONUNBUFFERED": "x"}, "x")])
    def test_output_is_buffered(
        self, house: House, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], expected: str
    ) -> None:
        """A program buffers its output whatever its image sets, unless the job sets it."""
        monkeypatch.setenv("PYTHONUNBUFFERED", "1")
        mapper = make_binary_mapper(house, 'cat >&2; echo "[$PYTHONUNBUFFERED]"')
        assert (
            run_plan(house, house.plan(mapper, records=None, env=env)) == f"[{expected}]\n".encode()
        )


class TestSetup:
    """`setup` runs in every program's folder before the program."""

    def test_setup_runs_before_the_program(self, house: House) -> None:
        """It finds the script and the files; the program finds its output."""
        (house.folder / "word").write_text("from a file\n")
        plan = house.plan(
            make_binary_mapper(house, 'cat >&2; cat made; echo "$1"'),
            records=None,
            files=[str(house.folder / "word")],
            env={"NAME": "value"},
            setup='test -e m.py\ncp word made\necho "$NAME" >> made\necho to nobody',
        )
        assert run_plan(house, plan) == b"from a file\nvalue\n\n"

    @pytest.mark.slow
    @pytest.mark.parametrize("role", ["mapper", "combiner", "reducer"])
    def test_setup_runs_for_every_program(self, house: House, role: str) -> None:
        source = "import os\ndef {}(*a): return [('k', os.path.exists('made'))]"
        steps: dict[str, Any] = {
            "mapper": {"script": house.script("mapper", source.format("mapper"))},
            "reducer": {"script": house.script("reducer", source.format("reduce"))},
        }
        if role == "combiner":
            steps[role] = {"script": house.script(role, source.format("combine"))}
        plan = house.plan(steps.pop("mapper"), setup="touch made", **steps)
        blocks, end = house.attempt(plan)
        assert end.error is None
        assert house.reduce(plan, blocks)[0][0] == b"k\tTrue\n"

    @pytest.mark.parametrize("feed", ["files", "lines", "records"])
    def test_failing_command_ends_the_attempt(self, house: House, feed: str) -> None:
        """The exit code is reported, and the attempt is not retried."""
        mapper: dict[str, str] = {"script": house.script("m", WHICH), "feed": feed}
        plan = house.plan(mapper, setup="echo what is wrong; (exit 3)\necho never")
        _, end = house.attempt(plan)
        assert isinstance(end.error, ChildNotStarted)
        message = "`setup` ended with exit code 3; the end of its stderr:\nwhat is wrong"
        assert message in str(end.error)
        assert "never" not in str(end.error)
        assert not end.error.retryable

    @pytest.mark.slow
    def test_hung_setup_is_killed(self, house: House) -> None:
        plan = house.plan(WHICH, setup="sleep 60", stall_timeout=0.5)
        _, end = house.attempt(plan)
        assert isinstance(end.error, ChildNotStarted)
        assert "stall_timeout" in str(end.error)

    @pytest.mark.slow
    def test_running_setup_reports_progress(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attempt_state, "PROGRESS_INTERVAL_S", 0.0)
        go = house.folder / "go"
        plan = house.plan(WHICH, setup=f"while ! test -e {go}; do sleep 0.05; done")
        messages = map_split(
            MapTask.of(plan, "run"), plan.splits[0], AttemptId(0, 0, 1), house.root
        )
        for _ in range(4):
            assert isinstance(next(messages), Progress)
        go.touch()
        assert len(list(messages)) >= 1

    def test_setup_reads_no_input(self, tmp_path: Path) -> None:
        """Its stdin is empty; it is not the program's."""
        place = LaunchSpec(shell("cat"), tmp_path, {}, Limits(), setup="cat > read")
        place.write_program()
        assert list(filter(None, place.run_setup())) == []
        assert (tmp_path / "read").read_bytes() == b""


def test_paths_in_job_file_are_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of an environment is, too."""
    folder = tmp_path / "job"
    make_venv(folder / "venv")
    (folder / "m.py").write_text(WHICH)
    (folder / "data").mkdir()
    (folder / "data" / "x").write_text("x")
    (folder / "job.yml").write_text(
        "inputs: [in/]\nmapper: {script: m.py}\nrecords: text\n"
        "python: venv\nnode: ./n/bin/node\nfiles: [data, m.py]\nsetup: test -e data/x\n"
    )
    monkeypatch.chdir(tmp_path)
    file_job = Job.from_file("job/job.yml")
    assert (file_job.python, file_job.node) == (str(folder / "venv"), str(folder / "n/bin/node"))
    assert file_job.files == (str(folder / "data"), str(folder / "m.py"))
    python_job = Job(
        inputs=["a"], mapper={"script": "m"}, records="text", python="./venv", node="node"
    )
    assert (python_job.python, python_job.node) == (str(tmp_path / "venv"), "node")


def test_whole_run_with_environment_files_and_setup(tmp_path: Path, engine: str) -> None:
    make_pings(tmp_path / "in", files=2)
    make_venv(tmp_path / "venv")
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "WINNT").write_text("Windows")
    options: dict[str, Any] = {
        "python": str(tmp_path / "venv"),
        "files": [str(tmp_path / "names")],
        "setup": "printf Apple > names/Darwin",
    }
    mapper = tmp_path / "m.py"
    mapper.write_text(
        "import os, sys\n"
        "def mapper(uuid, file, js):\n"
        "    path = 'names/' + js['info']['OS']\n"
        "    yield open(path).read() if os.path.exists(path) else sys.executable, 1\n"
    )
    run_told(
        job(tmp_path, mapper={"script": str(mapper)}, reducer="count", **options), engine=engine
    )
    expected = {"Windows": 10, "Apple": 10, f"{tmp_path}/venv/bin/python": 20}
    lines = [line.split("\t") for line in result(tmp_path).decode().splitlines()]
    assert {key: int(value) for key, value in lines} == expected


def test_setup_that_fails_ends_the_run(tmp_path: Path) -> None:
    """Nothing is published, and the error has the exit code of programs."""
    make_pings(tmp_path / "in", files=1)
    with pytest.raises(ChildError, match="`setup` ended with exit code 1") as caught:
        run_told(job(tmp_path, setup="false"))
    assert caught.value.exit_code == 6
    assert not (tmp_path / "out" / "result.txt").exists()
