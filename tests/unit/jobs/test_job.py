"""The contract of job files and ``Job(...)``: both forms, defaults, and faults a user can fix."""

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
    """Write a job file and return its path."""
    path = folder / "job.yml"
    path.write_text(text)
    return str(path)


def refuse(folder: Path, text: str, **options: Any) -> str:
    """Return the message of the error that a job file raises."""
    with pytest.raises(JobError) as caught:
        Job.from_file(write(folder, text), **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


def mapper(uuid: str, _file: str, _record: object) -> str:
    """Map a record, for tests."""
    return uuid


class TestForms:
    """Both forms of the job file."""

    def test_long_form_is_read(self, tmp_path: Path) -> None:
        """Sizes and times have units."""
        job = Job.from_file(write(tmp_path, LONG))
        assert job.name == "os-count"
        assert job.combiner == "sum"
        assert (job.reducers, job.split_bytes, job.stall_timeout) == (4, 64 * 2**20, 90.0)
        assert job.max_bad_records is None
        assert program(job).fed == "records"

    def test_arguments_are_the_text_of_the_file(self, tmp_path: Path) -> None:
        """YAML types do not change an argument: ``1.10`` and ``yes`` are passed as written."""
        job = Job.from_file(write(tmp_path, LONG))
        assert isinstance(job.reducer, Script)
        assert job.reducer.arguments == ("1.10", "yes")

    @pytest.mark.parametrize(
        ("language", "records", "decompress"),
        [("python", "uuid-json", "auto"), ("javascript", None, "none"), ("binary", None, "none")],
    )
    def test_three_key_form_is_map_only(
        self, tmp_path: Path, language: str, records: str | None, decompress: str
    ) -> None:
        """The form of 2014 is a map-only job; javascript and binary read files as stored."""
        text = f"language: {language}\nscript: ./mapper\narguments: [a]\n"
        for role in ("run", "map"):
            job = Job.from_file(write(tmp_path, text), role=role, inputs=["s3://b/k"])
            assert (job.records, job.decompress) == (records, decompress)
            assert (job.reducer, job.combiner, job.max_bad_records) == (None, None, None)
            assert program(job).arguments == ("a",)

    def test_three_key_form_without_arguments(self, tmp_path: Path) -> None:
        """``arguments`` may be missing or empty."""
        for tail in ("", "arguments:\n"):
            path = write(tmp_path, f"language: python\nscript: m.py\n{tail}")
            assert program(Job.from_file(path, inputs=["s3://b/k"])).arguments == ()

    def test_defaults_are_those_of_the_design(self) -> None:
        job = Job(inputs=["s3://b/"], mapper=mapper, records="json")
        assert (job.reducers, job.attempts, job.downloads) == (1, 4, 8)
        assert (job.split_bytes, job.memory) == (128 * 2**20, 512 * 2**20)
        assert (job.timeout, job.stall_timeout) == (None, 600.0)
        assert (job.max_failed_inputs, job.max_bad_records) == (0, 0)
        assert (job.output, job.separator, job.decompress) == ("result.txt", "auto", "auto")

    def test_roles_split_map_and_reduce_sides(self, tmp_path: Path) -> None:
        """``map`` writes a file for each reduce task; ``reduce`` reads one of them."""
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
        """A reduce task reads the output of map tasks: ``auto`` means the same in both."""
        text = f"mapper: {mapper}\nrecords: text\nreducer: {{script: r.py}}\n{more}"
        path = write(tmp_path, text)
        for role in ("map", "reduce", "run"):
            job = Job.from_file(path, role=role, inputs=["s3://b/k"])
            assert job.key_end == separator

    def test_none_and_empty_value_mean_none(self, tmp_path: Path) -> None:
        """``none`` and an empty value mean the same where a field is optional."""
        text = LONG.replace("combiner: sum\n", "").replace("reducers: 4\n", "")
        text = text[: text.index("reducer:")] + "reducer: none\ntimeout:\n"
        job = Job.from_file(write(tmp_path, text))
        assert (job.reducer, job.timeout) == (None, None)


class TestPaths:
    """The folders that paths are relative to."""

    def test_paths_are_relative_to_the_job_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Scripts and local inputs are; the output is relative to the working directory."""
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

    def test_command_line_inputs_replace_those_of_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They replace the file's inputs, and are relative to the working directory."""
        jobs = tmp_path / "jobs"
        jobs.mkdir()
        monkeypatch.chdir(tmp_path)
        job = Job.from_file(write(jobs, LONG), inputs=["a.gz", "s3://b/k"])
        assert job.inputs == (str(tmp_path / "a.gz"), "s3://b/k")

    def test_system_job_file_uses_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
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

    def test_bare_name_is_a_program_on_path(self, tmp_path: Path) -> None:
        """A bare name is a program on the PATH for binary, unless there is a file of that name."""
        path = write(tmp_path, "language: binary\nscript: cat\n")
        assert program(Job.from_file(path, inputs=["s3://b/"])).script == "cat"
        (tmp_path / "cat").write_text("#!/bin/sh\n")
        job = Job.from_file(path, inputs=["s3://b/"])
        assert program(job).script == str(tmp_path / "cat")


class TestOverrides:
    """Command-line flags that override fields of the file."""

    def test_flags_override_the_file(self, tmp_path: Path) -> None:
        """A flag's text is parsed like the file's; ``None`` is a flag that is not set."""
        overrides = {"reducers": "2", "split_bytes": "1MiB", "name": None}
        job = Job.from_file(write(tmp_path, LONG), overrides=overrides)
        assert (job.reducers, job.split_bytes, job.name) == (2, 2**20, "os-count")

    def test_faults_name_the_flag(self, tmp_path: Path) -> None:
        """The message does not name a line of the file."""
        message = refuse(tmp_path, LONG, overrides={"split_bytes": "lots"})
        assert message == "--split-bytes: 'lots' is not a quantity like 128MiB"

    def test_flags_go_with_the_three_key_form(self, tmp_path: Path) -> None:
        """A flag may set a field that the three-key form does not have."""
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
    """Errors name file, line, field and the nearest valid word."""

    @pytest.mark.parametrize(("text", "line", "field", "words"), FAULTS)
    def test_fault_names_line_field_and_remedy(
        self, tmp_path: Path, text: str, line: int, field: str, words: str
    ) -> None:
        key = text.partition(":")[0]
        rest = {"inputs": "[s3://b/]", "mapper": "{language: binary, script: cat}"}
        head = "".join(f"{k}: {v}\n" for k, v in rest.items() if k != key)
        head = "#\n" * (2 - head.count("\n")) + head
        message = refuse(tmp_path, head + text + "\n")
        assert message.startswith(f"{tmp_path}/job.yml:{line}: {field}: ")
        assert words in message

    def test_every_fault_has_its_line(self, tmp_path: Path) -> None:
        """All faults are reported at once."""
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
    def test_invalid_yaml_mapping_is_refused_with_line(
        self, tmp_path: Path, text: str, words: str
    ) -> None:
        """A repeated key is refused, too."""
        message = refuse(tmp_path, text)
        assert message.startswith(f"{tmp_path}/job.yml")
        assert words in message

    def test_unreadable_job_file_error_names_the_cause(self, tmp_path: Path) -> None:
        """It is missing, a folder, or not text."""
        with pytest.raises(JobError, match=r"none\.yml: no such job file"):
            Job.from_file(tmp_path / "none.yml")
        with pytest.raises(JobError, match="a folder, not a job file"):
            Job.from_file(tmp_path)
        (tmp_path / "job.yml").write_bytes(b"name: \xff\n")
        with pytest.raises(JobError, match="not UTF-8 text, at byte 6"):
            Job.from_file(tmp_path / "job.yml")

    def test_many_aliases_are_refused_at_once(self, tmp_path: Path) -> None:
        """A file whose aliases would expand to 10^30 nodes is refused at once."""
        levels = "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 10)}]\n" for i in range(1, 30))
        message = refuse(tmp_path, "k0: &k0 x\n" + levels)
        assert ":7: stands for more than 1,000,000 values" in message

    @pytest.mark.parametrize("key", [*Job.model_fields, "unknown"])
    def test_alias_bomb_below_any_key_is_refused(self, tmp_path: Path, key: str) -> None:
        """The message does not quote the value either."""
        levels = "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 10)}]\n" for i in range(1, 12))
        message = refuse(tmp_path, f"k0: &k0 x\n{levels}{key}: *k11\n")
        assert len(message) < 1000

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
    def test_three_key_fault_names_its_own_keys(
        self, tmp_path: Path, text: str, words: str
    ) -> None:
        """The message names the keys of the three-key form, and how to leave it."""
        assert words in refuse(tmp_path, text, inputs=["s3://b/"])

    def test_job_without_inputs_is_an_error(self, tmp_path: Path) -> None:
        """An empty key list made 2014 run without end."""
        assert "inputs: there is no input" in refuse(tmp_path, THREE, role="map")

    def test_reduce_role_of_map_only_job_is_refused(self, tmp_path: Path) -> None:
        text = "mapper: {language: binary, script: cat}"
        assert "there is no reducer" in refuse(tmp_path, text, role="reduce")


class TestPython:
    """Jobs made in Python."""

    def test_functions_are_accepted_as_programs(self) -> None:
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
    def test_invalid_fields_raise_job_error(self, make: Callable[[], object], words: str) -> None:
        """Pydantic's own error never reaches the user."""
        with pytest.raises(JobError) as caught:
            make()
        assert words in str(caught.value)
        assert caught.value.__suppress_context__

    def test_job_fields_are_frozen(self) -> None:
        job = Job(inputs=["a"], mapper=mapper, records="json")
        with pytest.raises(ValidationError):
            job.reducers = 2

    def test_job_without_functions_can_be_pickled(self) -> None:
        lock = threading.Lock()
        job = Job(inputs=["a"], mapper=lambda *_: lock, records="json", reducer=min)
        copy = pickle.loads(pickle.dumps(job.without_functions()))  # noqa: S301 - its own bytes
        assert program(copy).function is None
        assert program(copy).fed == "records"
        assert copy.reducers == 1

    def test_every_field_is_described(self) -> None:
        """Flags, the schema and the reference table are made from the fields: one line each."""
        for field in (*Job.model_fields.values(), *Script.model_fields.values()):
            assert field.description
            assert "\n" not in field.description
        schema = Job.model_json_schema()
        assert "function" not in schema["$defs"]["Script"]["properties"]
        assert {"type": "string"} in schema["properties"]["split_bytes"]["anyOf"]

    def test_dumped_job_loads_as_same_job(self, tmp_path: Path) -> None:
        job = Job.from_file(write(tmp_path, LONG))
        text = yaml.safe_dump(job.model_dump(mode="json"))
        assert Job.from_file(write(tmp_path, text)) == job


class TestPack:
    """Programs are packed as bytes."""

    def test_python_takes_its_siblings(self, tmp_path: Path) -> None:
        """Every ``*.py`` beside the script is packed; data and subfolders are not."""
        for name in ("m.py", "helper.py", "data.json"):
            (tmp_path / name).write_text(name)
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "x.py").write_text("")
        program = pack_program(Script(script=str(tmp_path / "m.py"), arguments=("a",)))
        assert [file.name for file in program.files] == ["helper.py", "m.py"]
        assert (program.entry, program.feed, program.arguments) == ("m.py", "records", ("a",))
        assert not program.function

    def test_javascript_takes_modules_and_binary_itself(self, tmp_path: Path) -> None:
        """JavaScript includes modules and JSON; a binary is packed alone, as executable."""
        for name in ("m.js", "a.mjs", "b.cjs", "c.json", "tool"):
            (tmp_path / name).write_text(name)
        (tmp_path / "tool").chmod(0o755)
        script = pack_program(Script(language="javascript", script=str(tmp_path / "m.js")))
        assert [file.name for file in script.files] == ["a.mjs", "b.cjs", "c.json", "m.js"]
        tool = pack_program(Script(language="binary", script=str(tmp_path / "tool")))
        assert [(file.name, file.executable) for file in tool.files] == [("tool", True)]
        assert tool.feed == "files"

    def test_program_on_path_is_packed_by_name(self) -> None:
        program = pack_program(Script(language="binary", script="cat"))
        assert (program.entry, program.files) == ("cat", ())

    def test_unusable_script_error_names_the_cause(self, tmp_path: Path) -> None:
        """It is missing, not a file, not executable, or too large."""
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

    def test_unreadable_script_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "m.py").write_text("")

        def refuse_to_read(path: Path) -> bytes:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("pathlib.Path.read_bytes", refuse_to_read)
        with pytest.raises(JobError, match=r"m\.py: cannot be read: Permission denied"):
            pack_program(Script(script=str(tmp_path / "m.py")))

    def test_function_loads_without_its_module(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The pickle registry is left unchanged."""
        (tmp_path / "only_here.py").write_text("N = 41\ndef f(*_):\n    return N + 1\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        module = __import__("only_here")
        program = pack_program(Script(function=module.f))
        monkeypatch.delitem(sys.modules, "only_here")
        (tmp_path / "only_here.py").unlink()
        assert program.function
        assert pickle.loads(program.files[0].content)() == 42  # noqa: S301 - its own bytes
        assert not cloudpickle.list_registry_pickle_by_value()

    def test_function_of_installed_module_is_packed_by_name(self) -> None:
        """Every worker has the module."""
        assert len(pack_program(Script(function=os.path.join)).files[0].content) < 100

    def test_function_that_cannot_be_pickled_is_refused(self) -> None:
        """The error names the function and the cause."""
        lock = threading.Lock()

        def locked(*_: object) -> object:
            return lock

        with pytest.raises(JobError, match=r"locked.*lock") as caught:
            pack_program(Script(function=locked))
        assert "inside the function" in caught.value.hint

    def test_digest_changes_with_any_difference(self, tmp_path: Path) -> None:
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
