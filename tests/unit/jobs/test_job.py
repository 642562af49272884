"""What job files and ``Job(...)`` promise: both forms, defaults, and faults a user can act on."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest
import yaml
from pydantic import ValidationError

from ray_mr.errors import JobError
from ray_mr.jobs import normalize
from ray_mr.jobs.job import Job
from ray_mr.jobs.program import MAX_PROGRAM_BYTES, Program, pack_program
from ray_mr.jobs.script import Script

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LONG = """\
name: os-count
inputs: [s3://bucket/saved_session/**/*.lzma]
mapper: {language: python, script: mapper.py}
records: uuid-json
combiner: sum
reducer: {language: python, script: reducer.py, arguments: [1.10, yes]}
reducers: 4
split_bytes: 64MiB
stall_timeout: 90s
max_bad_records: none
"""
THREE = "language: python\nscript: mapper.py\narguments: [-v]\n"


def program(job: Job) -> Script:
    assert isinstance(job.mapper, Script)
    return job.mapper


def write(folder: Path, text: str) -> str:
    """Write a job file and give its path."""
    path = folder / "job.yml"
    path.write_text(text)
    return str(path)


def refuse(folder: Path, text: str, **options: Any) -> str:
    """The message of the error that a job file raises."""
    with pytest.raises(JobError) as caught:
        Job.from_file(write(folder, text), **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


def mapper(uuid: str, _file: str, _record: object) -> str:
    """A mapper for tests."""
    return uuid


class TestForms:
    """Both forms of the job file."""

    def test_long_form(self, tmp_path: Path) -> None:
        """The long form is read, sizes and times as people write them."""
        job = Job.from_file(write(tmp_path, LONG))
        assert job.name == "os-count"
        assert job.combiner == "sum"
        assert (job.reducers, job.split_bytes, job.stall_timeout) == (4, 64 * 2**20, 90.0)
        assert job.max_bad_records is None
        assert program(job).fed == "records"

    def test_arguments_are_the_text_of_the_file(self, tmp_path: Path) -> None:
        """YAML's types change no argument: ``1.10`` and ``yes`` reach the script as written."""
        job = Job.from_file(write(tmp_path, LONG))
        assert isinstance(job.reducer, Script)
        assert job.reducer.arguments == ("1.10", "yes")

    @pytest.mark.parametrize(
        ("language", "records", "decompress"),
        [("python", "uuid-json", "auto"), ("javascript", None, "none"), ("binary", None, "none")],
    )
    def test_three_key_form(
        self, tmp_path: Path, language: str, records: str | None, decompress: str
    ) -> None:
        """The form of 2014 is a map-only job; javascript and binary get files as stored."""
        text = f"language: {language}\nscript: ./mapper\narguments: [a]\n"
        for role in ("run", "map"):
            job = Job.from_file(write(tmp_path, text), role=role, inputs=["s3://b/k"])
            assert (job.records, job.decompress) == (records, decompress)
            assert (job.reducer, job.combiner, job.max_bad_records) == (None, None, None)
            assert program(job).arguments == ("a",)

    def test_three_key_form_without_arguments(self, tmp_path: Path) -> None:
        """``arguments`` may be left out, or left empty."""
        for tail in ("", "arguments:\n"):
            path = write(tmp_path, f"language: python\nscript: m.py\n{tail}")
            assert program(Job.from_file(path, inputs=["s3://b/k"])).arguments == ()

    def test_defaults(self) -> None:
        """The defaults of the long form are those of the design."""
        job = Job(inputs=["s3://b/"], mapper=mapper, records="json")
        assert (job.reducers, job.attempts, job.downloads) == (1, 4, 8)
        assert (job.split_bytes, job.memory) == (128 * 2**20, 512 * 2**20)
        assert (job.timeout, job.stall_timeout) == (None, 600.0)
        assert (job.max_failed_inputs, job.max_bad_records) == (0, 0)
        assert (job.output, job.separator, job.decompress) == ("result.txt", "auto", "auto")

    def test_map_role_leaves_the_reduce_side(self, tmp_path: Path) -> None:
        """``map`` maps and combines, a file for each reduce task; ``reduce`` takes one of them."""
        path = write(tmp_path, LONG + "output: s3://elsewhere/\n")
        job = Job.from_file(path, role="map")
        assert (job.combiner, job.reducer, job.reducers) == ("sum", None, 4)
        assert job.output == "result-*.txt"
        job = Job.from_file(path, role="reduce", inputs=["s3://b/k"])
        assert (job.mapper, job.combiner, job.reducers) == ("identity", None, 1)
        assert job.reducer is not None
        assert (job.output, job.downloads, job.max_failed_inputs) == ("result.txt", 20, 0)

    @pytest.mark.parametrize(
        ("mapper", "more", "separator"),
        [
            ("{script: m.py}", "", "tab-or-space"),
            ("{language: binary, script: cat}", "", "tab-or-space"),
            ("{language: binary, script: cat, feed: lines}", "", "tab"),
            ("identity", "", "tab"),
            ("{script: m.py}", "key_fields: 2\n", "tab"),
            ("identity", "separator: tab-or-space\n", "tab-or-space"),
        ],
    )
    def test_reduce_role_cuts_lines_as_the_map_role_does(
        self, tmp_path: Path, mapper: str, more: str, separator: str
    ) -> None:
        """A reduce task reads what map tasks wrote: ``auto`` means the same in both."""
        text = f"mapper: {mapper}\nrecords: text\nreducer: {{script: r.py}}\n{more}"
        path = write(tmp_path, text)
        for role in ("map", "reduce", "run"):
            job = Job.from_file(path, role=role, inputs=["s3://b/k"])
            assert job.key_end == separator

    def test_none_in_words(self, tmp_path: Path) -> None:
        """``none`` and an empty value both mean none where a field may have none."""
        text = LONG.replace("combiner: sum\n", "").replace("reducers: 4\n", "")
        text = text[: text.index("reducer:")] + "reducer: none\ntimeout:\n"
        job = Job.from_file(write(tmp_path, text))
        assert (job.reducer, job.timeout) == (None, None)


class TestPaths:
    """What paths are relative to."""

    def test_relative_to_the_job_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Scripts and local inputs stand beside the job file; the output below the shell."""
        jobs = tmp_path / "jobs"
        jobs.mkdir()
        text = LONG.replace("[s3:", "[data/, ../more/*.gz, /abs, s3:")
        path = write(jobs, text)
        monkeypatch.chdir(tmp_path)
        job = Job.from_file(os.path.relpath(path))
        assert program(job).script == str(jobs / "mapper.py")
        assert job.inputs == (
            f"{jobs}/data/",
            f"{tmp_path}/more/*.gz",
            "/abs",
            "s3://bucket/saved_session/**/*.lzma",
        )
        assert job.output == "result.txt"

    def test_inputs_of_the_command_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Inputs given to the command replace the file's, relative to the working directory."""
        jobs = tmp_path / "jobs"
        jobs.mkdir()
        monkeypatch.chdir(tmp_path)
        job = Job.from_file(write(jobs, LONG), inputs=["a.gz", "s3://b/k"])
        assert job.inputs == (str(tmp_path / "a.gz"), "s3://b/k")

    def test_job_file_of_the_image(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In /etc, scripts and inputs are relative to the working directory."""
        etc, work = tmp_path / "etc", tmp_path / "work"
        etc.mkdir()
        work.mkdir()
        path = write(etc, LONG.replace("[s3:", "[data/, s3:"))
        monkeypatch.setattr(normalize, "SYSTEM_FOLDER", str(etc))
        monkeypatch.chdir(work)
        job = Job.from_file(path)
        assert program(job).script == str(work / "mapper.py")
        assert job.inputs[0] == f"{work}/data/"

    def test_program_on_path(self, tmp_path: Path) -> None:
        """A bare name is a program on PATH for binary, unless a file of that name is there."""
        path = write(tmp_path, "language: binary\nscript: cat\n")
        assert program(Job.from_file(path, inputs=["s3://b/"])).script == "cat"
        (tmp_path / "cat").write_text("#!/bin/sh\n")
        job = Job.from_file(path, inputs=["s3://b/"])
        assert program(job).script == str(tmp_path / "cat")


class TestOverrides:
    """Command-line flags over the file's fields."""

    def test_flags_win(self, tmp_path: Path) -> None:
        """A flag's text means what it means in the file; ``None`` is a flag not given."""
        overrides = {"reducers": "2", "split_bytes": "1MiB", "name": None}
        job = Job.from_file(write(tmp_path, LONG), overrides=overrides)
        assert (job.reducers, job.split_bytes, job.name) == (2, 2**20, "os-count")

    def test_faults_name_the_flag(self, tmp_path: Path) -> None:
        """A wrong flag is told by its own name, not by a line of the file."""
        message = refuse(tmp_path, LONG, overrides={"split_bytes": "lots"})
        assert message == "--split-bytes: 'lots' is not a quantity like 128MiB"

    def test_flags_go_with_the_three_key_form(self, tmp_path: Path) -> None:
        """Options that the three-key form cannot say can be flags."""
        job = Job.from_file(
            write(tmp_path, THREE), inputs=["s3://b/"], overrides={"max_bad_records": "3"}
        )
        assert job.max_bad_records == 3


FAULTS = [
    ("mapper: {langage: python, script: m.py}", 3, "mapper.langage", "mean `language`"),
    ("mapper: {language: pyton, script: m.py}", 3, "mapper.language", "mean `python`"),
    ("mapper: {language: python}", 3, "mapper.script", "is missing"),
    ("mapper: m.py", 3, "mapper", "{language: python, script: mapper.py}"),
    ("mapper: {script: m, arguments: x}", 3, "mapper.arguments", "must be a list"),
    ("mapper: {script: m, arguments: [[a]]}", 3, "mapper.arguments[0]", "must be text"),
    ("mapper:\n  script: m\n  feed: line", 5, "mapper.feed", "none of files, records, lines"),
    (
        "mapper:\n  language: binary\n  script: m\n  feed: records",
        6,
        "mapper.feed",
        "a function of python or javascript",
    ),
    ("mapper: {script: m}", 2, "records", "uuid-json (36 characters, a TAB, JSON), json or text"),
    ("reducer: summ", 3, "reducer", "mean `sum`"),
    ("reducer: {scirpt: m}", 3, "reducer.scirpt", "mean `script`"),
    ("combiner: sum\n#\nreducer: none", 3, "combiner", "needs a reducer"),
    ("mapper: {script: m, stream: true}\nrecords: text", 3, "mapper", "`stream`, which is for"),
    ("reducer: {script: r, feed: lines, stream: true}", 3, "reducer.stream", "a reduce function"),
    ("reducers: 2", 3, "reducers", "must be 1 without a reducer"),
    ("reducers: 0", 3, "reducers", "at least 1"),
    ("reducers: 65537", 3, "reducers", "at most 65536"),
    ("reducers: 1.5", 3, "reducers", "whole number"),
    ("split_bytes: 12 parsecs", 3, "split_bytes", "like 128MiB"),
    ("timeout: soon", 3, "timeout", "like 90s"),
    ("timeout: 0", 3, "timeout", "more than 0"),
    ("records: jsn", 3, "records", "mean `json`"),
    ("decompress: gzip", 3, "decompress", "none of auto, none, gz"),
    ("redcuer: sum", 3, "redcuer", "mean `reducer`"),
    ("env: [a]", 3, "env", "must be a mapping"),
    ("env: {A=B: c}", 3, "env", "cannot be an environment variable"),
    ("inputs: s3://b/", 3, "inputs", "must be a list"),
    ("inputs: []", 3, "inputs", "no input"),
    ("inputs:", 3, "inputs", "no input"),
    ("inputs: ['']", 3, "inputs", "empty text"),
    ("output: ''", 3, "output", "must not be empty"),
    ("max_failed_inputs: -1", 3, "max_failed_inputs", "at least 0"),
    ("stall_timeout:", 3, "stall_timeout", "has no value"),
]


class TestFaults:
    """A wrong job file names file, line, field and the nearest valid word."""

    @pytest.mark.parametrize(("text", "line", "field", "words"), FAULTS)
    def test_fault(self, tmp_path: Path, text: str, line: int, field: str, words: str) -> None:
        """Each fault stands with its line and field, and says what would be right."""
        key = text.partition(":")[0]
        rest = {"inputs": "[s3://b/]", "mapper": "{language: binary, script: cat}"}
        head = "".join(f"{k}: {v}\n" for k, v in rest.items() if k != key)
        head = "#\n" * (2 - head.count("\n")) + head
        message = refuse(tmp_path, head + text + "\n")
        assert message.startswith(f"{tmp_path}/job.yml:{line}: {field}: ")
        assert words in message

    def test_every_fault_has_its_line(self, tmp_path: Path) -> None:
        """All faults are told at once."""
        text = "inputs: [s3://b/]\nmapper: {langage: x}\nreducers: 0\nfoo: 1\n"
        lines = refuse(tmp_path, text).splitlines()
        assert [line.partition(": ")[0].rpartition(":")[2] for line in lines] == ["2", "3", "4"]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "the file is empty"),
            ("# nothing\n", "the file is empty"),
            ("- a\n", ":1: must be `key: value` lines"),
            ("hello\n", ":1: must be `key: value` lines"),
            ("a: 1\nb: [\n", "not valid YAML"),
            ("a: 1\n\tb: 2\n", ":2: not valid YAML"),
            ("a: 1\n---\nb: 2\n", "not valid YAML"),
            ("a: 1\nb: 2\na: 3\n", ":3: `a` is repeated (first in line 1)"),
            ("mapper:\n  script: a\n  script: b\n", ":3: `script` is repeated"),
            ("? [a]\n: 1\n", ":1: a key must be plain text"),
            ("a: &x [*x]\n", ":1: refers to itself"),
            ("a: *x\n", ":1: not valid YAML: found undefined alias"),
            ("a: \x07\n", "not valid YAML"),
        ],
    )
    def test_no_mapping(self, tmp_path: Path, text: str, words: str) -> None:
        """What is no YAML mapping, or says a key twice, is refused with its line."""
        message = refuse(tmp_path, text)
        assert message.startswith(f"{tmp_path}/job.yml")
        assert words in message

    def test_unreadable_files(self, tmp_path: Path) -> None:
        """A missing file, a folder and bytes that are no text are told apart."""
        with pytest.raises(JobError, match=r"none\.yml: no such job file"):
            Job.from_file(tmp_path / "none.yml")
        with pytest.raises(JobError, match="a folder, not a job file"):
            Job.from_file(tmp_path)
        (tmp_path / "job.yml").write_bytes(b"name: \xff\n")
        with pytest.raises(JobError, match="not UTF-8 text, at byte 6"):
            Job.from_file(tmp_path / "job.yml")

    def test_many_aliases_cost_nothing(self, tmp_path: Path) -> None:
        """A file whose aliases would unfold to 10^30 nodes is refused at once."""
        levels = "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 10)}]\n" for i in range(1, 30))
        told = refuse(tmp_path, "k0: &k0 x\n" + levels)
        assert ":7: stands for more than 1,000,000 values" in told

    @pytest.mark.parametrize("key", [*Job.model_fields, "unknown"])
    def test_a_bomb_of_aliases(self, tmp_path: Path, key: str) -> None:
        """The same below any key: its value is not spelled out in the message either."""
        levels = "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 10)}]\n" for i in range(1, 12))
        told = refuse(tmp_path, f"k0: &k0 x\n{levels}{key}: *k11\n")
        assert len(told) < 1000

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("language: python\nscript: m.py\nreducer: sum\n", ":3: reducer: does not go with"),
            ("language: python\nscript: m.py\nmapper: {script: a}\n", ":3: mapper: does not go"),
            (
                "langage: python\nscript: m.py\n",
                ":1: langage: unknown key; did you mean `language`",
            ),
            ("language: python\n", "script: is missing"),
            ("script: m.py\n", "language: is missing"),
            ("language: perl\nscript: m\n", ":1: language: 'perl' is none of python"),
            ("language: python\nscript: m\narguments: a\n", ":3: arguments: must be a list"),
        ],
    )
    def test_three_key_faults(self, tmp_path: Path, text: str, words: str) -> None:
        """The three-key form tells its faults by its own keys, and how to leave it."""
        assert words in refuse(tmp_path, text, inputs=["s3://b/"])

    def test_no_inputs_at_all(self, tmp_path: Path) -> None:
        """An empty key list is an error, not a run without end (a defect of 2014)."""
        assert "inputs: there is no input" in refuse(tmp_path, THREE, role="map")

    def test_reduce_needs_a_reducer(self, tmp_path: Path) -> None:
        """A map-only job has no reduce role."""
        text = "mapper: {language: binary, script: cat}"
        assert "there is no reducer" in refuse(tmp_path, text, role="reduce")


class TestPython:
    """Jobs made in Python."""

    def test_functions(self) -> None:
        """A bare function is accepted wherever a program is."""
        job = Job(
            inputs=["a"], mapper=mapper, records="json", combiner=max, reducer=Script(function=min)
        )
        assert program(job).function is mapper
        assert isinstance(job.combiner, Script)
        assert job.combiner.function is max
        assert program(job).fed == "records"

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (Job, "inputs: is missing\nmapper: is missing"),
            (lambda: Job(inputs=["a"], maper=mapper), "maper: unknown key; did you mean `mapper`"),
            (lambda: Job(inputs=["a"], mapper=mapper), "records: is missing"),
            (lambda: Script(langage="x"), "langage: unknown key; did you mean `language`"),
            (Script, "script: is missing"),
            (lambda: Script(script="a", function=mapper), "function: stands beside a script"),
            (lambda: Script(function=mapper, language="binary"), "language: must be python"),
            (lambda: Script(function=mapper, feed="files"), "feed: files needs a script"),
            (lambda: Script(function=mapper, feed="lines"), "feed: lines needs a script"),
            (lambda: Script(function=3), "function: must be a function"),
        ],
    )
    def test_only_job_errors(self, make: Callable[[], object], words: str) -> None:
        """Pydantic's own error never reaches the user."""
        with pytest.raises(JobError) as caught:
            make()
        assert words in str(caught.value)
        assert caught.value.__suppress_context__

    def test_frozen(self) -> None:
        """A job is a value: no field can be set."""
        job = Job(inputs=["a"], mapper=mapper, records="json")
        with pytest.raises(ValidationError):
            job.reducers = 2

    def test_portable(self) -> None:
        """A portable job pickles although a function of it does not."""
        lock = threading.Lock()
        job = Job(inputs=["a"], mapper=lambda *_: lock, records="json", reducer=min)
        copy = pickle.loads(pickle.dumps(job.without_functions()))  # noqa: S301 - ours
        assert program(copy).function is None
        assert program(copy).fed == "records"
        assert copy.reducers == 1

    def test_every_field_is_described(self) -> None:
        """Flags, schema and reference table can be made from the fields: one line each."""
        for field in (*Job.model_fields.values(), *Script.model_fields.values()):
            assert field.description
            assert "\n" not in field.description
        schema = Job.model_json_schema()
        assert "function" not in schema["$defs"]["Script"]["properties"]
        assert {"type": "string"} in schema["properties"]["split_bytes"]["anyOf"]

    def test_dump_loads_again(self, tmp_path: Path) -> None:
        """A job written as YAML reads as the same job."""
        job = Job.from_file(write(tmp_path, LONG))
        text = yaml.safe_dump(job.model_dump(mode="json"))
        assert Job.from_file(write(tmp_path, text)) == job


class TestPack:
    """Programs travel as bytes."""

    def test_python_takes_its_siblings(self, tmp_path: Path) -> None:
        """Every ``*.py`` beside the script travels; data and subfolders do not."""
        for name in ("m.py", "helper.py", "data.json"):
            (tmp_path / name).write_text(name)
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "x.py").write_text("")
        program = pack_program(Script(script=str(tmp_path / "m.py"), arguments=("a",)))
        assert [file.name for file in program.files] == ["helper.py", "m.py"]
        assert (program.entry, program.feed, program.arguments) == ("m.py", "records", ("a",))
        assert not program.function

    def test_javascript_and_binary(self, tmp_path: Path) -> None:
        """JavaScript takes modules and JSON, binary only itself, executable."""
        for name in ("m.js", "a.mjs", "b.cjs", "c.json", "tool"):
            (tmp_path / name).write_text(name)
        (tmp_path / "tool").chmod(0o755)
        script = pack_program(Script(language="javascript", script=str(tmp_path / "m.js")))
        assert [file.name for file in script.files] == ["a.mjs", "b.cjs", "c.json", "m.js"]
        tool = pack_program(Script(language="binary", script=str(tmp_path / "tool")))
        assert [(file.name, file.executable) for file in tool.files] == [("tool", True)]
        assert tool.feed == "files"

    def test_program_on_path(self) -> None:
        """A bare name on PATH travels as a name."""
        program = pack_program(Script(language="binary", script="cat"))
        assert (program.entry, program.files) == ("cat", ())

    def test_refusals(self, tmp_path: Path) -> None:
        """Missing, no file, not executable and too large each say so."""
        (tmp_path / "m.py").write_text("")
        (tmp_path / "tool").write_text("")
        (tmp_path / "big.py").write_bytes(b"#" * (MAX_PROGRAM_BYTES + 1))
        for language, script, words in [
            ("python", "none.py", "no such script"),
            ("binary", "none", "no such script"),
            ("python", ".", "not a file"),
            ("binary", "tool", "chmod +x"),
            ("python", "m.py", "over 16.0 MiB"),
        ]:
            with pytest.raises(JobError) as caught:
                pack_program(Script(language=language, script=str(tmp_path / script)))
            assert words in str(caught.value)
            assert str(tmp_path) in str(caught.value)
        with pytest.raises(JobError, match="no such program on PATH"):
            pack_program(Script(language="binary", script="no-such-program-anywhere"))

    def test_unreadable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that may not be read is named."""
        (tmp_path / "m.py").write_text("")

        def refuse_to_read(path: Path) -> bytes:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("pathlib.Path.read_bytes", refuse_to_read)
        with pytest.raises(JobError, match=r"m\.py: cannot be read: Permission denied"):
            pack_program(Script(script=str(tmp_path / "m.py")))

    def test_function_of_a_script(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A function loads where its module is not, and the registry is left as it was."""
        (tmp_path / "only_here.py").write_text("N = 41\ndef f(*_):\n    return N + 1\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        module = __import__("only_here")
        program = pack_program(Script(function=module.f))
        monkeypatch.delitem(sys.modules, "only_here")
        (tmp_path / "only_here.py").unlink()
        assert program.function
        assert pickle.loads(program.files[0].content)() == 42  # noqa: S301 - ours
        assert not cloudpickle.list_registry_pickle_by_value()

    def test_function_of_an_installed_module(self) -> None:
        """What every worker has installed travels by its name."""
        assert len(pack_program(Script(function=os.path.join)).files[0].content) < 100

    def test_function_that_does_not_pickle(self) -> None:
        """The function and the cause are named."""
        lock = threading.Lock()

        def locked(*_: object) -> object:
            return lock

        with pytest.raises(JobError, match=r"locked.*lock") as caught:
            pack_program(Script(function=locked))
        assert "inside the function" in caught.value.hint

    def test_digest(self, tmp_path: Path) -> None:
        """Equal programs have equal digests; any difference makes another."""
        path = tmp_path / "m.py"
        path.write_text("a")

        def packed(**options: Any) -> Program:
            return pack_program(Script(script=str(path), **options))

        one = packed(arguments=("x", "y"))
        assert one.digest == packed(arguments=("x", "y")).digest
        others = [packed(arguments=("xy",)), packed(arguments=("x", "y"), feed="files")]
        path.write_text("b")
        others.append(packed(arguments=("x", "y")))
        path.chmod(0o755)
        others.append(packed(arguments=("x", "y")))
        assert len({one.digest, *(other.digest for other in others)}) == 5
