"""What a report and a plan say of themselves, and the result as a data frame."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

import ray_mr
from ray_mr.driver.report import Report
from ray_mr.errors import ChildRaised, CorruptObject, RayMrError

if TYPE_CHECKING:
    from pathlib import Path


def report(folder: Path, lines: str) -> Report:
    path = folder / "result.txt"
    path.write_text(lines)
    return Report("", str(path), totals={"inputs": 1}, seconds={"total": 1.0})


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["7", "-3"], "int64"),
        (["7", "0.5"], "float64"),
        (["07", "3"], "str"),
        (["1.50"], "float64"),
        (["1e3"], "float64"),
        (["123456789012345678901"], "str"),
        (["seven"], "str"),
        ([""], "str"),
    ],
)
def test_values_become_numbers_where_nothing_is_lost(
    tmp_path: Path, values: list[str], kind: str
) -> None:
    """Numbers, if all are numbers; else the text as it stands."""
    lines = "".join(f"k{at}\t{value}\n" for at, value in enumerate(values))
    frame = report(tmp_path, lines).to_pandas()
    assert list(frame.columns) == ["key", "value"]
    assert str(frame["value"].dtype).replace("object", "str") == kind
    if kind == "str":
        assert frame["value"].tolist() == values
    else:
        assert [float(value) for value in values] == frame["value"].tolist()


def test_data_frame_without_pandas_raises_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says how to install it."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(RayMrError, match="needs pandas") as caught:
        report(tmp_path, "a\t1\n").to_pandas()
    assert "ray-mr[pandas]" in caught.value.hint


def test_package_exports_its_names_alone() -> None:
    """Every exported name exists, the report too, and nothing else."""
    for name in ray_mr.__all__:
        assert getattr(ray_mr, name)
    assert ray_mr.Report is Report
    with pytest.raises(AttributeError, match="no attribute 'Reprot'"):
        _ = ray_mr.Reprot


def test_html_is_escaped() -> None:
    """Names and errors come from users and programs: none of them is markup."""
    failed = [(f"s3://b/<i>{number}</i>", "<script>") for number in range(12)]
    made = Report(
        "<b>job</b>",
        "<out>",
        totals={"inputs": 1200, "ok": 0},
        counters={"<g>,n": 7},
        failed=failed,
        error=CorruptObject("<script>alert(1)</script>"),
    )
    html = made._repr_html_()
    assert not {"<script", "<i>", "<g>", "<out>"} & set(html.replace(">", "> ").split(" "))
    assert "<script" not in html
    assert "1,200" in html
    assert "and 2 more in the report" in html
    assert repr(made).startswith("<Report: nothing was published (1,200 inputs: 0 ok")


def test_plan_in_short(tmp_path: Path) -> None:
    """A plan of many inputs is one line to a debugger, and some to a reader."""
    for name in "ab":
        (tmp_path / name).write_text("x")
    job = ray_mr.Job(
        name="<i>", inputs=[f"{tmp_path}/*"], mapper={"language": "binary", "script": "cat"}
    )
    plan = ray_mr.plan(job)
    assert repr(plan) == "<Plan: 2 inputs, 2 bytes in 1 split>"
    assert "<b>&lt;i&gt;</b>" in plan._repr_html_()
    assert "2 objects, 2 bytes" in plan._repr_html_()


def test_progress_on_request(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Outside a notebook a run prints nothing, unless it is asked to."""
    (tmp_path / "in").write_text("a\n")
    job = ray_mr.Job(
        inputs=[str(tmp_path / "in")],
        records="text",
        output=str(tmp_path / "out.txt"),
        mapper=lambda _file, line: line + "\n",
    )
    ray_mr.run(job, engine="local")
    assert capfd.readouterr() == ("", "")
    ray_mr.run(job, engine="local", force=True, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "map: 1 input, 2 bytes in 1 split" in err


@pytest.mark.slow
def test_resume_argument_continues_a_run(tmp_path: Path) -> None:
    """The function has the options of the command line: a run goes on where one stopped."""
    for name in "ab":
        (tmp_path / f"in-{name}").write_text(name + "\n")
    calls, flag = str(tmp_path / "calls"), str(tmp_path / "flag")
    (tmp_path / "flag").touch()

    def mapper(_file: str, line: str) -> str:
        with open(calls, "a") as log:  # noqa: PTH123 - in a child that has no pathlib yet
            log.write(line)
        if line == "b" and os.path.exists(flag):  # noqa: PTH110
            raise ValueError(line)
        return line + "\n"

    job = ray_mr.Job(
        inputs=[f"{tmp_path}/in-*"],
        records="text",
        output=str(tmp_path / "out.txt"),
        mapper=mapper,
        split_bytes=1,
        checkpoint="all",
    )
    with pytest.raises(ChildRaised, match="the function raised ValueError: b"):
        ray_mr.run(job, engine="local")
    (tmp_path / "flag").unlink()
    assert ray_mr.run(job, engine="local", only_failed=True).ok
    assert (tmp_path / "out.txt").read_text() == "a\nb\n"
    assert (tmp_path / "calls").read_text().count("a") == 1
