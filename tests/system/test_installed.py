"""Finished work is used only if the program and the files it uses have not changed."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from jobs import script
from ray_mr.checkpoint.matching import make_fingerprint
from ray_mr.checkpoint.program_environment import MAX_DIGEST_BYTES, digest_environment
from ray_mr.driver.run import plan, run
from ray_mr.events import Notice
from ray_mr.jobs.job import Job
from ray_mr.jobs.program import pack_program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ray_mr.events import Event

ONE = '#!/bin/sh\n[ "$mapreduce_task_partition" = 1 ] && exit 1\nsed s/^/v1-/\n'
TWO = "#!/bin/sh\nsed s/^/v2-/\n"


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{folder}")
    return folder


def job_of(tmp_path: Path, mapper: Any, **options: Any) -> Job:
    (tmp_path / "in").mkdir(exist_ok=True)
    for name in "12":
        (tmp_path / "in" / name).write_text(f"{name}\t1\n")
    settings: dict[str, Any] = {
        "inputs": [f"{tmp_path}/in/"],
        "mapper": mapper,
        "reducer": "sum",
        "split_bytes": 1,
        "output": f"{tmp_path}/out.txt",
    }
    return Job(**settings | options)


def change_link(tmp_path: Path, bin_folder: Path) -> None:
    (bin_folder / "myprog").unlink()
    (tmp_path / "target").write_text(TWO)
    (tmp_path / "target").chmod(0o755)
    (bin_folder / "myprog").symlink_to(tmp_path / "target")


def change_order(tmp_path: Path, _: Path) -> None:
    """Another program of the name comes first on the PATH."""
    (tmp_path / "first").mkdir()
    script(tmp_path / "first", "myprog", TWO)
    os.environ["PATH"] = f"{tmp_path}/first{os.pathsep}{os.environ['PATH']}"


def change_content(_: Path, bin_folder: Path) -> None:
    script(bin_folder, "myprog", TWO)


@pytest.mark.parametrize("change", [change_content, change_link, change_order])
def test_resume_with_another_program_of_the_name_on_the_path_maps_everything(
    tmp_path: Path, bin_folder: Path, change: Callable[[Path, Path], None]
) -> None:
    """No result is half of one version and half of another."""
    script(bin_folder, "myprog", ONE)
    mapper = {"language": "binary", "script": "myprog", "feed": "lines"}
    assert run(job_of(tmp_path, mapper, attempts=1), engine="local").exit_code == 6
    change(tmp_path, bin_folder)
    notices: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            notices.append(event.text)

    job = job_of(tmp_path, mapper, attempts=2)
    assert run(job, engine="local", resume=True, on_event=listen).ok
    assert (tmp_path / "out.txt").read_bytes() == b"v2-1\t1\nv2-2\t1\n"
    assert "1 finished split cannot be used: changed since: the mapper" in notices


LINES = {"language": "binary", "feed": "lines"}


@pytest.mark.parametrize(
    ("where", "option"),
    [
        ("the mapper", {"mapper": LINES | {"script": "myprog"}}),
        ("the mapper", {"mapper": LINES | {"script": "env", "arguments": ["myprog"]}}),
        ("the mapper", {"mapper": LINES | {"script": "sh", "arguments": ["-c", "myprog | cat"]}}),
        ("the mapper", {"mapper": LINES | {"script": "{folder}/shebang"}}),
        ("the mapper", {"mapper": LINES | {"script": "{folder}/shebang-env"}}),
        ("the mapper", {"mapper": LINES | {"script": "{folder}/bin/calls"}}),
        ("the mapper", {"mapper": LINES | {"script": "cat", "arguments": ["{folder}/table"]}}),
        ("the mapper", {"mapper": LINES | {"script": "cat", "arguments": ["--t={folder}/table"]}}),
        ("the mapper", {"setup": "myprog > here"}),
        (
            "the mapper",
            {
                "mapper": {"script": "{folder}/m.py"},
                "python": "{folder}/bin/myprog",
                "records": "text",
            },
        ),
        (
            "the combiner",
            {"combiner": LINES | {"script": "myprog"}, "reducer": LINES | {"script": "cat"}},
        ),
    ],
)
def test_fingerprint_changes_with_what_a_program_uses(
    tmp_path: Path, bin_folder: Path, where: str, option: dict[str, Any]
) -> None:
    script(bin_folder, "myprog", ONE)
    script(bin_folder, "calls", "#!/usr/bin/env -S LANG=C myprog -x\n")
    script(tmp_path, "shebang", f"#!{bin_folder}/myprog\n")
    script(tmp_path, "shebang-env", "#!/usr/bin/env myprog\n")
    script(tmp_path, "m.py", "def mapper(file, line):\n    return line\n")
    (tmp_path / "table").write_text("one")

    def in_folder(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: in_folder(each) for key, each in value.items()}
        if isinstance(value, list):
            return list(map(in_folder, value))
        return value.format(folder=tmp_path)

    job = job_of(tmp_path, **{"mapper": LINES | {"script": "cat"}} | in_folder(option))
    before = make_fingerprint(plan(job))
    assert make_fingerprint(plan(job)) == before
    os.utime(bin_folder / "myprog", (1, 1))
    assert make_fingerprint(plan(job)) == before, "a time is not content"
    script(bin_folder, "myprog", TWO)
    (tmp_path / "table").write_text("two")
    after = make_fingerprint(plan(job))
    assert [name for name in before if before[name] != after[name]] == [where]


@pytest.mark.parametrize("name", ["pipe", "none", "folder"])
def test_argument_that_names_no_regular_file_is_a_word(tmp_path: Path, name: str) -> None:
    """A pipe is not waited for."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    mapper = LINES | {"script": "cat", "arguments": [f"{tmp_path}/{name}"]}
    assert make_fingerprint(plan(job_of(tmp_path, mapper)))["the mapper"]


def test_large_file_counts_by_size_and_time(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MAX_DIGEST_BYTES + 1)
    job = job_of(tmp_path, LINES | {"script": "cat", "arguments": [f"{tmp_path}/large"]})
    mapper = plan(job).mapper
    before = digest_environment(job, mapper)
    assert digest_environment(job, mapper) == before
    os.utime(tmp_path / "large", (1, 1))
    assert digest_environment(job, mapper) != before


def test_function_of_an_installed_module_changes_with_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a function is pickled by its name alone."""
    source = "def mapper(file, line):\n    return line + {!r}\n"
    (tmp_path / "installed_somewhere.py").write_text(source.format("1"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("ray_mr.jobs.program._is_importable", lambda _: True)
    module = importlib.import_module("installed_somewhere")
    job = job_of(tmp_path, module.mapper, records="text")
    before = make_fingerprint(plan(job))
    monkeypatch.delitem(sys.modules, "installed_somewhere")
    (tmp_path / "installed_somewhere.py").write_text(source.format("23"))
    module = importlib.import_module("installed_somewhere")
    job = job_of(tmp_path, module.mapper, records="text")
    after = make_fingerprint(plan(job))
    assert before["the mapper"] != after["the mapper"]


def test_mode_of_a_file_that_travels_is_part_of_the_program(tmp_path: Path) -> None:
    extra = tmp_path / "tool"
    extra.write_text("#!/bin/sh\n")
    job = job_of(tmp_path, LINES | {"script": "cat"}, files=[str(extra)])
    before = make_fingerprint(plan(job))["the mapper"]
    extra.chmod(0o755)
    assert make_fingerprint(plan(job))["the mapper"] != before


def test_fingerprint_changes_with_the_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sort(1) and awk(1) give other bytes in another locale."""
    job = job_of(tmp_path, LINES | {"script": "cat"})
    monkeypatch.setenv("LC_ALL", "C")
    before = make_fingerprint(plan(job))
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    after = make_fingerprint(plan(job))
    assert [name for name in before if before[name] != after[name]] == ["the locale"]


def test_pack_follows_a_link_to_a_script(tmp_path: Path) -> None:
    script(tmp_path, "one.sh", ONE)
    (tmp_path / "link.sh").symlink_to(tmp_path / "one.sh")
    job = job_of(tmp_path, LINES | {"script": f"{tmp_path}/link.sh"})
    assert not isinstance(job.mapper, str)
    before = pack_program(job.mapper).digest
    script(tmp_path, "one.sh", TWO)
    assert pack_program(job.mapper).digest != before
