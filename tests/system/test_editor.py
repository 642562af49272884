"""The JSON Schema of job files for editors, and the completion scripts for shells."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from paths import TOP
from ray_mr.cli.main import main
from ray_mr.jobs.job import Job
from tools import require_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = TOP
JOB_FILES = [ROOT / "analysis-tools.yml", *sorted(ROOT.glob("examples/*/job.yml"))]

VALID = [
    "{language: binary, script: cat}",
    "{language: python, script: m.py, arguments: [a, 1]}",
    "{mapper: {script: m.py}, records: json}",
    "{inputs: [a], mapper: {script: m.py}, records: text, reducer: none, timeout: none}",
    "{inputs: [a], mapper: {script: m.py}, records: text, reducer: {script: r.py}, combiner: min}",
    "{inputs: [a], mapper: {script: m.py}, records: text, split_bytes: 64MiB, memory: 1024}",
    "{inputs: [a], mapper: {script: m.py}, records: text, max_bad_records: none, env: {A: 1}}",
]
WRONG = [
    "{inputs: [a]}",
    "{inputs: [a], mapper: {}}",
    "{inputs: a, mapper: {script: m.py}}",
    "{inputs: [a], mapper: {script: m.py, languge: python}}",
    "{inputs: [a], mapper: {script: m.py}, recoords: text}",
    "{inputs: [a], mapper: {script: m.py}, records: xml}",
    "{inputs: [a], mapper: {script: m.py}, records: text, reducer: avg}",
    "{inputs: [a], mapper: {script: m.py}, records: text, reducers: 0}",
    "{inputs: [a], mapper: {script: m.py}, records: text, attempts: none}",
    "{language: binary, script: cat, reducers: 3}",
    "{language: perl, script: x}",
    "[]",
]


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(CliRunner().invoke(main, ["schema"]).stdout)
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)


class TestSchema:
    """``ray-mr schema``."""

    @pytest.mark.parametrize("path", JOB_FILES, ids=lambda path: str(path.relative_to(ROOT)))
    def test_our_job_files(self, validator: Any, path: Path) -> None:
        """Every job file of this repository is valid by the schema."""
        validator.validate(yaml.safe_load(path.read_text()))

    @pytest.mark.parametrize("text", VALID)
    def test_valid_job_files_match_the_schema(self, validator: Any, text: str) -> None:
        """What a job file may be is valid, by the schema and by ourselves."""
        document = yaml.safe_load(text)
        validator.validate(document)

    @pytest.mark.parametrize("text", VALID)
    def test_as_we_read_it(self, tmp_path: Path, text: str) -> None:
        """The valid files of these tests are those that a job is made from."""
        (tmp_path / "job.yml").write_text(text)
        Job.from_file(tmp_path / "job.yml", inputs=["a"])

    @pytest.mark.parametrize("text", WRONG)
    def test_wrong_job_files_do_not_match(self, validator: Any, text: str) -> None:
        """A misspelt key, a missing one, a value of the wrong kind: the editor shows it."""
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(yaml.safe_load(text))

    def test_every_option_described(self, validator: Any) -> None:
        """An editor can say what each key means."""
        job = validator.schema["anyOf"][0]
        assert set(job["properties"]) == set(Job.model_fields)
        for name, each in job["properties"].items():
            assert each["description"] == Job.model_fields[name].description


def words_after(tmp_path: Path, *words: str) -> Iterator[str]:
    """What bash offers in place of the last word."""
    listed = " ".join(f"'{word}'" for word in words)
    script = f"""
        eval "$(ray-mr completion bash)"
        COMP_WORDS=(ray-mr {listed}) COMP_CWORD={len(words)} COMPREPLY=()
        _ray_mr_completion ray-mr
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    bash = found("bash")
    done = subprocess.run(
        [bash, "-c", script],
        env={"PATH": PATH},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    return iter(done.stdout.split())


PATH = f"{Path(sys.executable).parent}:/usr/bin:/bin"
PATIENCE_S = 60.0
LINES = [
    ("ray-mr pl", "plan"),
    ("ray-mr run --max-f", "--max-failed-inputs"),
    ("ray-mr run --engine l", "local"),
    ("ray-mr run --decompress lz", "lzma"),
]
"""What is typed, and a word that is offered."""


def found(shell: str) -> str:
    """Where a shell is; the test is skipped where it is not."""
    return require_tool(shell)


def seen(terminal: int, wanted: str) -> None:
    """Wait until an interactive shell shows something."""
    shown, end = b"", time.monotonic() + PATIENCE_S
    while wanted.encode() not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 1.0)[0]:
            shown += os.read(terminal, 65536)
    assert wanted.encode() in shown, shown.decode(errors="replace")


class TestCompletion:
    """``ray-mr completion``, in real shells."""

    @pytest.mark.parametrize(
        ("words", "offered"),
        [
            (("pl",), "plan"),
            (("run", "--max-f"), "--max-failed-inputs"),
            (("run", "--engine", "l"), "local"),
            (("run", "--decompress", "ls"), None),
            (("run", "--decompress", "lz"), "lzma"),
        ],
    )
    def test_bash_completes_the_words(
        self, tmp_path: Path, words: tuple[str, ...], offered: str | None
    ) -> None:
        """Commands, flags and their values are completed."""
        assert next(words_after(tmp_path, *words), None) == offered

    @pytest.mark.parametrize(("line", "offered"), LINES)
    def test_fish_completes_the_words(self, tmp_path: Path, line: str, offered: str) -> None:
        """Fish offers commands with what they do, flags and their values."""
        done = subprocess.run(
            [
                found("fish"),
                "-N",
                "-c",
                f"ray-mr completion fish | source; complete --do-complete '{line}'",
            ],
            env={"PATH": PATH, "HOME": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert offered in [each.partition("\t")[0] for each in done.stdout.splitlines()]

    def test_zsh_completes_the_words(self, tmp_path: Path) -> None:
        """Zsh completes what is typed on a terminal."""
        zsh = found("zsh")
        parent, child = pty.openpty()
        process = subprocess.Popen(
            [zsh, "-f", "-i"],
            stdin=child,
            stdout=child,
            stderr=child,
            cwd=tmp_path,
            start_new_session=True,
            env={"PATH": PATH, "TERM": "dumb", "HOME": str(tmp_path), "COLUMNS": "200"},
        )
        try:
            setup = 'autoload -U compinit; compinit -u; eval "$(ray-mr completion zsh)"'
            os.write(parent, f"{setup}; echo READ''Y\n".encode())
            seen(parent, "READY")
            for line, offered in LINES:
                os.write(parent, line.encode() + b"\t")
                seen(parent, offered)
                os.write(parent, b"\x15")  # away with the line
        finally:
            process.kill()
            process.wait()
            os.close(parent)
            os.close(child)

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_script_of_each_shell_calls_ray_mr(self, shell: str) -> None:
        """Each shell's text calls our own command."""
        done = CliRunner().invoke(main, ["completion", shell])
        assert done.exit_code == 0
        assert f"_RAY_MR_COMPLETE={shell}_complete" in done.stdout
