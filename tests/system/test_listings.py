"""What a job's patterns bring: hidden names, side files, links, pipes, and patterns without any."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import ray_mr
from jobs import job, result, run_told
from ray_mr.cli.main import main
from ray_mr.driver.listing import list_objects, make_sources
from ray_mr.errors import Interrupted, JobError, StoreError
from ray_mr.model import ALREADY_LISTED, HIDDEN, IRREGULAR, SIDE_FILE
from ray_mr.storage import patterns
from ray_mr.storage.side_files import FOLDERS, REPORT, list_results
from ray_mr.stores import layout
from ray_mr.stores.registry import store_for
from ray_mr.stores.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ray_mr.jobs.job import Job
    from ray_mr.jobs.script import Manifest
    from s3_server import S3Server

Put = "Callable[[dict[str, str]], str]"


def put_files(folder: Path, names: dict[str, str]) -> str:
    for name, text in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return str(folder)


@pytest.fixture(params=["local", "s3"])
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[dict[str, str]], str]:
    """Fills a fresh place of a store, and returns its name."""
    if request.param == "local":
        return lambda names: put_files(tmp_path / "place", names)
    server: S3Server = request.getfixturevalue("s3")

    def put_objects(names: dict[str, str]) -> str:
        bucket = server.bucket()
        server.put(bucket, {name: text.encode() for name, text in names.items()})
        return f"s3://{bucket}"

    return put_objects


def remarks(place: str, pattern: str) -> dict[str, str]:
    found = store_for(place).find(f"{place}/{pattern}")
    return {obj.uri.removeprefix(f"{place}/"): obj.remark for obj in found}


RESULT = {
    "out/_SUCCESS": "",
    "out/dead-letters/1.jsonl": "x",
    "out/manifest.json": "{}",
    "out/part-00000": "a\n",
    "out/report.json": "{}",
}
SIDES = {
    "out/_SUCCESS": HIDDEN,
    "out/dead-letters/1.jsonl": SIDE_FILE,
    "out/manifest.json": SIDE_FILE,
    "out/part-00000": "",
    "out/report.json": SIDE_FILE,
}


@pytest.mark.parametrize("pattern", ["out/", "out/**", "**", ""])
def test_find_folder_of_a_result_reads_its_parts_alone(
    put: Callable[[dict[str, str]], str], pattern: str
) -> None:
    assert remarks(put(RESULT), pattern) == SIDES


@pytest.mark.parametrize("pattern", ["out/[!_]*", "out/*"])
def test_find_glob_in_the_folder_of_a_result_reads_its_parts_alone(
    put: Callable[[dict[str, str]], str], pattern: str
) -> None:
    found = remarks(put(RESULT), pattern)
    assert [name for name, remark in found.items() if not remark] == ["out/part-00000"]
    assert found["out/report.json"] == SIDE_FILE


@pytest.mark.parametrize(
    ("pattern", "read"),
    [
        ("out/report.json", ["out/report.json"]),
        ("out/*report.json", ["out/report.json"]),
        ("*/manifest.json", ["out/manifest.json"]),
        ("out/_*", ["out/_SUCCESS"]),
        ("out/dead-letters/", ["out/dead-letters/1.jsonl"]),
    ],
)
def test_find_side_file_that_the_pattern_names_is_read(
    put: Callable[[dict[str, str]], str], pattern: str, read: list[str]
) -> None:
    found = remarks(put(RESULT), pattern)
    assert [name for name, remark in found.items() if not remark] == read


def test_find_files_beside_single_results_read_the_results_alone(
    put: Callable[[dict[str, str]], str],
) -> None:
    """Reports and kept folders of results of one file; the same names without a result are data."""
    place = put(
        {
            "a/result.txt": "1",
            "a/report.json": "{}",
            "b/os.txt": "1",
            "b/os.txt.report.json": "{}",
            "b/os.txt.failed-attempts/s.json": "{}",
            "c/n-00000.txt": "1",
            "c/n-.txt.report.json": "{}",
            "d/report.json": "{}",
            "d/x.report.json": "{}",
            "d/manifest.json": "{}",
            "d/y": "1",
            "e/_SUCCESS": "",
            "e/part-r-00000": "1",
            "e/report.json": "{}",
        }
    )
    read = [name for name, remark in remarks(place, "").items() if not remark]
    assert read == [
        "a/result.txt",
        "b/os.txt",
        "c/n-00000.txt",
        "d/manifest.json",
        "d/report.json",
        "d/x.report.json",
        "d/y",
        "e/part-r-00000",
        "e/report.json",
    ]


@pytest.mark.parametrize(
    "output",
    ["/x/result.txt", "/x/result-*.txt", "/x/os.txt", "/x/os-*.txt", "/x/out/", "s3://b/o/"],
)
def test_report_of_any_output_is_known_as_its_side_file(output: str) -> None:
    """The names that a listing knows are those that a run gives."""
    parts = [layout.locate_part(output, 0), output + "_SUCCESS", output + "manifest.json"]
    report = layout.locate_report(output)
    assert any(set(each) <= set(parts) for each in list_results(report, REPORT))
    between = "" if layout.is_prefix(output) else "."
    for folder in FOLDERS:
        name = f"{output}{between}{folder}/1.json"
        assert any(set(each) <= set(parts) for each in list_results(name, folder)), name


def test_run_over_its_own_output_reads_rows_alone(tmp_path: Path) -> None:
    """The ledger has the skipped names, with the reason."""
    put_files(tmp_path, {"in/x": "a\nb\n"})
    plain: dict[str, Any] = {"mapper": "identity", "records": None, "reducer": "count"}
    first = job(tmp_path, output=f"{tmp_path}/counts/", reducers=2, **plain)
    assert run_told(first)[0].ok
    report, _ = run_told(job(tmp_path, inputs=[f"{tmp_path}/counts/"], **plain))
    assert result(tmp_path) == b"a\t1\nb\t1\n"
    causes = {row["uri"].rpartition("/")[2]: row["cause"] for row in report.inputs}
    assert {name: causes[name] for name in ("_SUCCESS", "manifest.json", "report.json")} == {
        "_SUCCESS": HIDDEN,
        "manifest.json": SIDE_FILE,
        "report.json": SIDE_FILE,
    }
    assert report.totals["skipped"] == len(causes) - 2


class TestWalk:
    """Local trees."""

    def test_find_deep_tree_has_no_recursion(self, tmp_path: Path) -> None:
        depth, here = 1_500, os.open(tmp_path, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        os.close(here)
        try:
            (found,) = store_for("/").find(f"{tmp_path}/")
        finally:  # pytest's own clean-up is by recursion
            subprocess.run(["/bin/rm", "-r", str(tmp_path / "d")], check=True)
        assert found.uri == f"{tmp_path}/{'d/' * depth}f"

    def test_find_diamond_of_links_lists_each_file_once(self, tmp_path: Path) -> None:
        """Its own name comes before links, and a link before those that sort after it."""
        put_files(tmp_path, {"in/z/real/f": "1", "else/g": "2"})
        (tmp_path / "in/a").symlink_to(tmp_path / "in/z")
        (tmp_path / "in/c").symlink_to(tmp_path / "else")
        (tmp_path / "in/b").symlink_to(tmp_path / "else")
        (tmp_path / "else/loop").symlink_to(tmp_path)
        place = str(tmp_path / "in")
        found = remarks(place, "")
        assert {name for name, remark in found.items() if not remark} == {"z/real/f", "b/g"}
        assert {name for name, remark in found.items() if remark == ALREADY_LISTED} >= {"a/", "c/"}

    def test_find_many_links_in_circles_ends(self, tmp_path: Path) -> None:
        """With 30 links in each of 6 folders there are 30**n ways of n steps."""
        for number in range(6):
            folder = tmp_path / f"f{number}"
            folder.mkdir()
            (folder / "x").write_text("")
        for number in range(6):
            for link in range(30):
                (tmp_path / f"f{number}" / f"l{link}").symlink_to(tmp_path / f"f{link % 6}")
        found = remarks(str(tmp_path), "")
        assert len([name for name, remark in found.items() if not remark]) == 6

    @pytest.mark.parametrize("target", ["pipe", "/dev/zero", "/dev/null", "socket"])
    def test_find_link_to_something_else_than_a_file_is_passed_over(
        self, tmp_path: Path, target: str
    ) -> None:
        import socket

        put_files(tmp_path, {"in/a": "1"})
        os.mkfifo(tmp_path / "pipe")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(tmp_path / "socket"))
            (tmp_path / "in/b").symlink_to(tmp_path / target)
            found = remarks(str(tmp_path / "in"), "")
            assert found["a"] == ""
            assert found["b"].startswith(IRREGULAR)
            with pytest.raises(StoreError, match="not a regular file"):
                store_for("/").stat(f"{tmp_path}/in/b")

    def test_download_file_that_became_a_pipe_does_not_wait(self, tmp_path: Path) -> None:
        put_files(tmp_path, {"f": "1"})
        (found,) = store_for("/").find(f"{tmp_path}/f")
        (tmp_path / "f").unlink()
        os.mkfifo(tmp_path / "f")
        with pytest.raises(ray_mr.RayMrError, match="changed since it was listed"):
            store_for("/").download(found, tmp_path / "g", private=False)

    def test_find_hidden_folder_is_not_entered(self, tmp_path: Path) -> None:
        """It counts as one; a pattern that names it reads it."""
        place = put_files(tmp_path, {"in/.git/x": "1", "in/_tmp/0/y": "2", "in/a": "3"})
        assert remarks(place, "in/") == {"in/.git/": HIDDEN, "in/_tmp/": HIDDEN, "in/a": ""}
        assert remarks(place, "in/_*/**") == {"in/_tmp/0/y": ""}
        assert remarks(place, "in/**/_tmp/**") == {"in/_tmp/0/y": ""}

    def test_walk_that_is_stopped_ends(self, tmp_path: Path) -> None:
        put_files(tmp_path, {"a": "", "b": ""})
        stop = threading.Event()
        walk = iter(Walk(patterns.Pattern(f"{tmp_path}/"), str(tmp_path), stop))
        next(walk)
        stop.set()
        with pytest.raises(Interrupted):
            list(walk)


class TestEmptyPatterns:
    """Every pattern has to bring something, unless the job says otherwise."""

    def wanted(self, folder: Path, *inputs: str | Manifest, **options: Any) -> Job:
        put_files(folder, {"in/a": "1\n", "in/b": "22\n", "hidden/_x": "", "keys": "\n"})
        plain: dict[str, Any] = {"mapper": "identity", "reducer": None, "records": None}
        return job(folder, inputs=list(inputs), **plain, **options)

    @pytest.mark.parametrize("empty", ["none/", "in/*.gz", "in/**/none", "hidden/", "{keys}"])
    @pytest.mark.parametrize("first", [True, False])
    def test_run_pattern_without_match_is_refused_by_name(
        self, tmp_path: Path, empty: str, first: bool
    ) -> None:
        given: Any = f"{tmp_path}/{empty}"
        if empty == "{keys}":
            given = {"manifest": f"{tmp_path}/keys"}
        inputs = [given, f"{tmp_path}/in/"] if first else [f"{tmp_path}/in/", given]
        with pytest.raises(JobError) as caught:
            run_told(self.wanted(tmp_path, *inputs))
        assert empty.strip("{}") in caught.value.message
        report, _ = run_told(self.wanted(tmp_path, *inputs, allow_empty=True))
        assert report.ok
        assert result(tmp_path) == b"1\n22\n"

    def test_run_s3_pattern_without_match_is_refused_by_name(
        self, tmp_path: Path, s3: S3Server
    ) -> None:
        bucket = s3.bucket()
        with pytest.raises(JobError, match=f"nothing is in s3://{bucket}/none/"):
            run_told(self.wanted(tmp_path, f"{tmp_path}/in/", f"s3://{bucket}/none/"))

    def test_run_name_without_object_is_refused_whatever_is_allowed(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="no such file"):
            run_told(self.wanted(tmp_path, f"{tmp_path}/in/c", allow_empty=True))

    def test_run_without_any_input_gives_an_empty_result(self, tmp_path: Path, engine: str) -> None:
        """If a flag allows it; the ledger has no inputs, and balances."""
        options: list[dict[str, Any]] = [
            {},
            {"reducer": "sum"},
            {"reducer": "sum", "partition": "range", "reducers": 3},
        ]
        for number, more in enumerate(options):
            wanted = self.wanted(tmp_path, f"{tmp_path}/none/", allow_empty=True)
            wanted = wanted.model_copy(update=more | {"output": f"{tmp_path}/out/{number}.txt"})
            report, _ = run_told(wanted, engine=engine)
            assert report.ok
            assert (tmp_path / "out" / f"{number}.txt").read_bytes() == b""
            assert report.totals["inputs"] == 0

    def test_plan_and_report_count_objects_of_each_pattern(self, tmp_path: Path) -> None:
        """Objects listed twice are counted too; skipped ones are counted separately."""
        inputs = [f"{tmp_path}/in/", f"{tmp_path}/in/b", f"{tmp_path}/hid*/**"]
        wanted = self.wanted(tmp_path, *inputs, allow_empty=True)
        report, _ = run_told(wanted)
        expected = [
            {"pattern": inputs[0], "objects": 2, "stored_bytes": 5, "skipped": 0},
            {"pattern": inputs[1], "objects": 1, "stored_bytes": 3, "skipped": 1},
            {"pattern": inputs[2], "objects": 1, "stored_bytes": 0, "skipped": 1},
        ]
        made = ray_mr.plan(wanted)
        assert made.facts()["patterns"] == expected
        assert report.facts()["patterns"] == expected
        kept = json.loads((tmp_path / "out" / "report.json").read_bytes())
        assert kept["patterns"] == expected
        assert f"input     {inputs[0]}: 2 objects" in made.describe()
        assert f"{inputs[1]}: 1 object, 3 bytes, 1 of them skipped" in made.describe()

    def test_plan_flag_allows_a_pattern_without_match(self, tmp_path: Path) -> None:
        put_files(tmp_path, {"in/a": "1", "job.yml": "inputs: [in/, none/]\nmapper: identity\n"})
        asked = ["plan", str(tmp_path / "job.yml"), "--json"]
        refused = CliRunner().invoke(main, asked)
        assert refused.exit_code == 2
        told = CliRunner().invoke(main, [*asked, "--allow-empty"])
        assert [row["objects"] for row in json.loads(told.stdout)["patterns"]] == [1, 0]

    def test_objects_that_are_not_all_taken_are_counted_so_far(self, tmp_path: Path) -> None:
        wanted = self.wanted(tmp_path, f"{tmp_path}/in/", f"{tmp_path}/none/")
        counts = make_sources(wanted)
        objects = list_objects(wanted, counts)
        next(objects)
        objects.close()
        assert [row.objects for row in counts.rows()] == [1, 0]
