"""Text from users, in job files, flags and Python: it is sound, or the job is wrong (exit 2)."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

import ray_mr
from ray_mr.cli.main import main
from ray_mr.errors import JobError
from ray_mr.jobs.job import Job
from ray_mr.jobs.script import Manifest, Script
from ray_mr.system.user_text import expand_tilde

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def of(**options: Any) -> Job:
    return Job(**{"inputs": ["x"], "mapper": "identity", "reducer": "sum"} | options)


def file_of(folder: Path, text: str | bytes) -> Path:
    path = folder / "job.yml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(JobError) as caught:
        call()
    assert caught.value.exit_code == 2
    return str(caught.value)


class TestSoundText:
    """NUL characters and halves of surrogate pairs."""

    @pytest.mark.parametrize("text", ["a\0b", "\ud800", "x\udfff"])
    @pytest.mark.parametrize(
        "field", ["name", "setup", "output", "env", "bucket", "filter", "python", "files", "inputs"]
    )
    def test_unsound_text_is_refused_with_its_field(self, field: str, text: str) -> None:
        value: Any = {"env": {"A": text}, "files": [text], "inputs": [text]}.get(field, text)
        assert refusal(lambda: of(**{field: value})).startswith(f"{field}: ")

    @pytest.mark.parametrize("field", ["script", "arguments"])
    def test_unsound_text_of_a_program_is_refused(self, field: str) -> None:
        value: Any = ["a\0b"] if field == "arguments" else "a\0b"
        mapper = {"script": "m.py", field: value}
        assert refusal(lambda: of(mapper=mapper, records="text")).startswith(f"mapper.{field}: ")

    @pytest.mark.parametrize(
        "line", ['name: "a\\0b"', 'setup: "true \\0"', 'env: {A: "\\ud800"}', 'name: "\\ud800"']
    )
    def test_unsound_escape_in_a_job_file_is_refused_with_its_line(
        self, tmp_path: Path, line: str
    ) -> None:
        path = file_of(tmp_path, f"inputs: [x]\nmapper: identity\n{line}\n")
        field = line.partition(":")[0]
        assert refusal(lambda: Job.from_file(path)).startswith(f"{path}:3: {field}: ")

    def test_name_that_is_not_utf8_is_kept_as_its_bytes(self) -> None:
        odd = os.fsdecode(b"caf\xe9.txt")
        job = of(inputs=[odd], output=odd, files=[odd.encode("utf-8", "surrogateescape")])
        assert (job.inputs, job.output, job.files) == ((odd,), odd, (odd,))
        assert "is not UTF-8" in refusal(lambda: of(name=odd))

    def test_json_job_file_with_an_emoji_means_the_emoji(self, tmp_path: Path) -> None:
        smile = "a\N{GRINNING FACE}"
        facts = {"inputs": [smile], "mapper": "identity", "name": smile, "env": {smile: smile}}
        job = Job.from_file(file_of(tmp_path, json.dumps(facts)))
        assert job.inputs == (f"{tmp_path}/{smile}",)
        assert (job.name, dict(job.env)) == (smile, {smile: smile})

    @pytest.mark.parametrize(
        "field", ["reducers", "attempts", "max_expansion", "memory", "timeout"]
    )
    @pytest.mark.parametrize("sign", [1, -1])
    def test_number_of_thousands_of_digits_is_refused(self, field: str, sign: int) -> None:
        assert field in refusal(lambda: of(**{field: sign * 10**5000}))
        assert field in refusal(lambda: of(**{field: f"{sign * 10**1000}"}))


class TestJobFiles:
    """Files that are no job files."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            (b"inputs: [x]\nname: \x07\n", ":2: not valid YAML: the character U+0007"),
            ("inputs: [x]\n\nname: \x85\x80\n", ":3: not valid YAML: the character U+0080"),
            ("inputs: [x]\nname: !!binary aGVsbG8=\n", ":2: the type "),
            ("inputs: [x]\nname: !job x\n", ":2: the type "),
            ("inputs: [x]\na: &a {b: c}\nmapper:\n  <<: *a\n", ":4: <<: merge keys"),
            (b"\xff\xfe", ": not UTF-8 text, at byte 0"),
            (b"", ": the file is empty"),
            ("[" * 5_000, ": not valid YAML: nested too deeply"),
            ("{a: " * 5_000, ": not valid YAML: nested too deeply"),
            ("inputs: [x]\n? " + "k" * 100_000 + "\n: 1\n", "unknown key"),
            ("inputs: [x]\n? |\n  a\n  b\n: 1\n", "unknown key"),
        ],
    )
    def test_odd_job_file_is_refused_with_name_and_place(
        self, tmp_path: Path, text: str | bytes, told: str
    ) -> None:
        path = file_of(tmp_path, text)
        said = refusal(lambda: Job.from_file(path))
        assert f"{path}" in said
        assert told in said
        assert len(said) < 2_000

    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
    def test_device_is_no_job_file(self, device: str) -> None:
        assert device in refusal(lambda: Job.from_file(device))

    def test_file_larger_than_any_job_file_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ray_mr.jobs.jobfile.MAX_BYTES", 1 << 20)
        path = file_of(tmp_path, "# " + "x" * (1 << 20))
        assert "larger than 1 MiB" in refusal(lambda: Job.from_file(path))

    def test_name_with_a_nul_is_no_job_file(self) -> None:
        assert "cannot be the name" in refusal(lambda: Job.from_file("a\0b"))

    @pytest.mark.parametrize("word", ["--name", "--setup", "--output", "--sort", "--memory"])
    def test_flag_that_is_not_utf8_never_ends_in_a_traceback(
        self, tmp_path: Path, word: str
    ) -> None:
        path = file_of(tmp_path, "inputs: [x]\nmapper: identity\n")
        done = CliRunner().invoke(main, ["plan", str(path), word, os.fsdecode(b"\xff\x1b")])
        assert done.exit_code in {2, 4}
        assert "Traceback" not in done.output


class TestHome:
    """What ``~`` is in a path."""

    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        (tmp_path / "home").mkdir()
        return tmp_path / "home"

    def test_tilde_is_the_home_folder_in_every_path(self, home: Path) -> None:
        mapper = {"script": "~/m.py"}
        job = of(
            inputs=["~/in/", {"manifest": "~/k.txt", "folder": "~"}],
            output="~/o.txt",
            files=["~/f#g"],
            filter="~/f.json",
            python="~/venv",
            node="~/n",
            mapper=mapper,
            records="text",
        )
        assert job.inputs == (f"{home}/in/", Manifest(manifest=f"{home}/k.txt", folder=f"{home}"))
        assert (job.output, job.files) == (f"{home}/o.txt", (f"{home}/f#g",))
        assert (job.filter, job.python, job.node) == (f"{home}/f.json", f"{home}/venv", f"{home}/n")
        assert isinstance(job.mapper, Script)
        assert job.mapper.script == f"{home}/m.py"

    def test_tilde_in_a_job_file_is_the_home_folder(self, tmp_path: Path, home: Path) -> None:
        (home / "x").write_text("a\n")
        text = "inputs: [~/x, {manifest: ~/k}]\nmapper: {script: ~/m.py}\nrecords: text\n"
        path = file_of(tmp_path, text + "output: ~/out.txt\npython: ~/v\nfiles: [~/x]\n")
        job = Job.from_file(path)
        assert job.inputs[0] == f"{home}/x"
        assert isinstance(job.inputs[1], Manifest)
        assert job.inputs[1].manifest == f"{home}/k"
        assert isinstance(job.mapper, Script)
        assert job.mapper.script == f"{home}/m.py"
        assert (job.output, job.python, job.files) == (
            f"{home}/out.txt",
            f"{home}/v",
            (f"{home}/x",),
        )
        assert Job.from_file("~/../job.yml").output == f"{home}/out.txt"

    @pytest.mark.parametrize("field", ["output", "inputs", "files", "filter", "python"])
    @pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "~a\ud800/x"])
    def test_home_folder_that_is_not_there_is_refused(self, field: str, path: str) -> None:
        if "\ud800" in path:
            path = path.replace("\ud800", "b")
        value: Any = [path] if field in {"inputs", "files"} else path
        assert "there is no home folder of" in refusal(lambda: of(**{field: value}))

    def test_without_a_home_tilde_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "")
        assert "$HOME says none" in refusal(lambda: of(output="~/x"))

    def test_name_that_begins_with_a_tilde_is_itself(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "~$a.doc").touch()
        assert expand_tilde("~$a.doc") == "~$a.doc"
        path = file_of(tmp_path, "inputs: ['~$a.doc', ./~b]\nmapper: identity\n")
        assert Job.from_file(path).inputs == (f"{tmp_path}/~$a.doc", f"{tmp_path}/~b")

    def test_keys_of_a_bucket_have_no_home(self) -> None:
        assert of(bucket="b", inputs=["~/x"]).inputs == ("s3://b/~/x",)

    def test_result_is_written_to_the_home_folder(self, tmp_path: Path, home: Path) -> None:
        (home / "x").write_text("a\n")
        path = file_of(tmp_path, "inputs: [~/x]\nmapper: identity\n")
        words = ["run", str(path), "--engine", "local", "--output=~/out.txt"]
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
        assert (home / "out.txt").read_text() == "a\n"


class Named:
    """Any object that names a path."""

    def __init__(self, name: str | bytes) -> None:
        self.name = name

    def __fspath__(self) -> str | bytes:
        return self.name


def test_paths_of_python_are_taken_where_text_is(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a\n")
    (tmp_path / "lib.py").write_text("y = 1\n")
    job = ray_mr.Job(
        inputs=[tmp_path / "x"],
        output=tmp_path / "out.txt",
        files=[tmp_path / "lib.py"],
        mapper=lambda _file, line: (line, 1),
        records="text",
        filter=None,
        python=None,
        env={"A": PurePosixPath("b")},
    )
    ray_mr.run(job, engine="local")
    assert (tmp_path / "out.txt").read_text() == "a\t1\n"


@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        iter,
        np.array,
        lambda items: (item for item in items),
        lambda items: map(Path, items),
        lambda items: map(Named, items),
        lambda items: [item.encode() for item in items],
        lambda items: [Named(item.encode()) for item in items],
    ],
)
def test_inputs_may_be_any_collection_of_paths(kind: Callable[[list[str]], Any]) -> None:
    job = of(inputs=kind(["a", "b"]), files=kind(["c"]))
    assert job.inputs == ("a", "b")
    assert job.files == ("c",)
    assert {type(item) for item in job.inputs} == {str}


def none() -> Iterator[str]:
    yield from ()


@pytest.mark.parametrize("empty", [[], (), None, np.array([]), none()])
def test_no_inputs_are_refused_whatever_holds_them(empty: Any) -> None:
    assert "there is no input" in refusal(lambda: of(inputs=empty))


@pytest.mark.parametrize("one", ["a", Path("a"), b"a"])
def test_one_path_is_no_list_of_inputs(one: Any) -> None:
    assert "must be a list" in refusal(lambda: of(inputs=one))


@pytest.mark.parametrize("value", [np.array([1, 2]), np.array(["identity"]), object(), 7, b"x"])
@pytest.mark.parametrize("field", ["mapper", "reducer", "combiner", "output", "name", "sort"])
def test_objects_that_are_no_option_are_refused(field: str, value: Any) -> None:
    if not (isinstance(value, bytes) and field in {"output", "name"}):
        assert field in refusal(lambda: of(**{field: value}))
