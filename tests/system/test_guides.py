"""README and tutorial: the files that they show, and the commands, as a reader follows them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from paths import DOCS, TOP

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[str, str]]:
    """Return language and content of each block of code."""
    return [(block[1], block[2]) for block in BLOCK.finditer(text)]


def follow(text: str, folder: Path) -> list[str]:
    """Write the files of a page, run its shell commands in order, and return their output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    outputs = []
    for language, content in blocks(text):
        named = re.match(r"# ([\w.]+)\n", content)
        if language == "sh":
            done = subprocess.run(
                ["/bin/sh", "-e", "-c", content],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            outputs.append(done.stdout + done.stderr)
        elif named is not None:
            (folder / named[1]).write_text(content)
    return outputs


def without_ray(text: str) -> str:
    return text.replace("run job.yml --force ", "run job.yml --engine local --force ").replace(
        "force=True", 'force=True, engine="local"'
    )


def test_readme_own_job_runs_as_shown(tmp_path: Path) -> None:
    text = (TOP / "README.md").read_text()
    section = text.split("## Your own job in five minutes\n")[1].split("\n## ")[0]
    follow(without_ray(section), tmp_path)
    expected = {"be": 3, "it": 1, "let": 1, "not": 1, "or": 1, "to": 2}
    lines = [f"{word}\t{number}\n" for word, number in expected.items()]
    assert (tmp_path / "result.txt").read_text() == "".join(lines)


def test_readme_python_session_runs_as_shown(tmp_path: Path) -> None:
    text = without_ray((TOP / "README.md").read_text())
    section = text.split("## Your own job in five minutes\n")[1]
    (program,) = [
        content
        for language, content in blocks(section)
        if language == "python" and content.startswith("import ray_mr")
    ]
    follow(section.split("Write the mapper")[0], tmp_path)
    program = f"{program}print(report.totals['records'])\n"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "2\n"


def test_tutorial_fails_and_recovers_as_shown(tmp_path: Path) -> None:
    text = (DOCS / "tutorial.md").read_text()
    outputs = follow(text, tmp_path)
    message, result = (content for language, content in blocks(text) if language == "text")
    assert "exit code 6" in outputs[2]
    assert message.rpartition("mapper.py raised ")[2].strip() in outputs[2]
    assert outputs[3].startswith(result)
    assert "the mapper" in outputs[3], "the run reports what has changed"
    assert "'records': 6" in outputs[4]
