"""Notebooks: functions as programs, progress, short errors, and the stop button."""

from __future__ import annotations

import json
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

import nbclient
import nbformat
import pytest
from jupyter_client.manager import KernelManager

from paths import TOP
from ray_mr.events import MapProgress, Notice, Stage
from ray_mr.views.notebook import NotebookProgress
from samples import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 150
JOB = """
import os, time, ray_mr
hold, begun = {hold!r}, {begun!r}
word = "closed over"
def words(file, line):
    if os.path.exists(hold):
        open(begun, "w").close()
        time.sleep(600)
    for each in line.split():
        yield each, 1
job = ray_mr.Job(inputs=[{inputs!r}], records="text", mapper=words, reducer="sum",
                 output={output!r})
"""


class Kernel:
    """A notebook's kernel and the output of its cells."""

    def __init__(self, folder: Path) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder))
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE_S)

    def run(self, code: str) -> list[dict[str, Any]]:
        """Run a cell; return the contents of its outputs."""
        said: list[dict[str, Any]] = []

        def hear(message: dict[str, Any]) -> None:
            if message["msg_type"] not in {"status", "execute_input"}:
                said.append({"type": message["msg_type"], **message["content"]})

        self.client.execute_interactive(code, timeout=PATIENCE_S, output_hook=hear)
        return said

    def value(self, code: str) -> str:
        """Return the text of the cell's value; fail if the cell raised."""
        said = self.run(code)
        assert not [one for one in said if one["type"] == "error"], said
        return str(said[-1]["data"]["text/plain"])

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    made = Kernel(tmp_path)
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").write_text("a b a\n")
    return tmp_path


def prepare(kernel: Kernel, folder: Path) -> None:
    """Define the job in the kernel."""
    names = {"hold": "hold", "begun": "begun", "inputs": "in", "output": "result.txt"}
    paths = {name: str(folder / file) for name, file in names.items()}
    assert kernel.run(JOB.format(**paths)) == []


@pytest.mark.parametrize(
    ("engine", "begin", "times"),
    [
        ("local", "", 1),
        ("local", "", 3),
        pytest.param("ray", "", 3, marks=pytest.mark.ray),
        pytest.param(
            "ray",
            "import ray; ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)",
            1,
            marks=pytest.mark.ray,
        ),
    ],
    ids=["local", "local, pressed thrice", "ray, pressed thrice", "ray of the notebook"],
)
def test_stop_button_ends_the_run_alone(
    kernel: Kernel, folder: Path, engine: str, begin: str, times: int
) -> None:
    """The output is one line; kernel and Ray go on, however often it is pressed."""
    kernel.run(begin)
    prepare(kernel, folder)
    (folder / "hold").touch()

    def stop() -> None:
        wait_until((folder / "begun").exists, PATIENCE_S)
        for _ in range(times):
            kernel.manager.interrupt_kernel()
            time.sleep(0.15)  # as somebody's finger does it; any moment is to be borne

    stopper = threading.Thread(target=stop)
    stopper.start()
    said = kernel.run(f"ray_mr.run(job, engine={engine!r})")
    stopper.join()
    # What Python says of an interrupt in a finalizer is a stream, which comes when it is flushed.
    (error,) = (one for one in said if one["type"] == "error")
    if times == 1:
        assert error == said[-1]
        assert error["traceback"] == ["Interrupted: interrupted: nothing was published"]
    assert not (folder / "result.txt").exists()
    (folder / "hold").unlink()
    if begin:
        assert kernel.value("ray.get(ray.remote(lambda: 7).remote())") == "7"
    run = f"ray_mr.run(job, engine={engine!r}, force=True).to_pandas().values.tolist()"
    assert kernel.value(run) == "[['a', 2], ['b', 1]]"
    if begin:
        assert kernel.value("ray.is_initialized()") == "True"


class TestOutputs:
    """The output of cells."""

    def test_progress_is_one_output_drawn_anew(self, kernel: Kernel, folder: Path) -> None:
        """It shows what a terminal shows, and can be switched off."""
        prepare(kernel, folder)
        said = kernel.run("report = ray_mr.run(job, engine='local')")
        assert [one["type"] for one in said] == [
            "display_data",
            *["update_display_data"] * (len(said) - 1),
        ]
        assert len({one["transient"]["display_id"] for one in said}) == 1
        last = said[-1]["data"]
        assert "map: 1 input, 6 bytes in 1 split" in last["text/plain"]
        assert "map: 1 input, 6 bytes in 1 split" in last["text/html"]
        assert "<progress" not in last["text/html"]
        quiet = kernel.run("report = ray_mr.run(job, engine='local', force=True, progress=False)")
        assert quiet == []

    def test_plan_and_report_are_a_line_and_a_table(self, kernel: Kernel, folder: Path) -> None:
        """The table is the notebook's display."""
        prepare(kernel, folder)
        plan = kernel.run("ray_mr.plan(job)")[-1]["data"]
        assert plan["text/plain"] == "<Plan: 1 input, 6 bytes in 1 split>"
        assert "<table>" in plan["text/html"]
        report = kernel.run("ray_mr.run(job, engine='local', progress=False)")[-1]["data"]
        assert report["text/plain"].startswith("<Report: 1 input: 1 ok")
        assert str(folder / "result.txt") in report["text/html"]

    def test_error_of_ray_mr_has_no_traceback(self, kernel: Kernel, folder: Path) -> None:
        """The output is the message alone."""
        prepare(kernel, folder)
        said = kernel.run("ray_mr.run(ray_mr.Job(inputs=['none'], mapper=words, records='text'))")
        assert said[-1]["type"] == "error"
        (text,) = said[-1]["traceback"]
        assert text.startswith("StoreError: ")
        assert "File" not in text.split("\n")[0]


@pytest.mark.ray
def test_example_notebook_runs_to_its_last_cell(tmp_path: Path) -> None:
    """Its result is right."""
    # Where it stands in a checkout, so that it finds the maker of its data.
    for name in ("demo/make_pings.py", "examples/telemetry.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(TOP / name, tmp_path / name)
    path = tmp_path / "examples" / "telemetry.ipynb"
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    client = nbclient.NotebookClient(
        notebook, timeout=PATIENCE_S, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
    outputs = [cell["outputs"] for cell in notebook.cells if cell.cell_type == "code"]
    assert all(outputs), "every cell shows something"
    noise = [one["text"] for each in outputs for one in each if one.output_type == "stream"]
    assert not noise, "nobody else's messages are in the cells"
    report, platforms = outputs[2][-1]["data"], outputs[3][-1]["data"]
    assert report["text/plain"].startswith("<Report: 4 inputs: 4 ok")
    assert "Android" in platforms["text/plain"]


def test_example_notebook_is_stored_without_outputs() -> None:
    """Outputs would hold paths and times of one machine."""
    notebook = json.loads((TOP / "examples" / "telemetry.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert not [cell for cell in cells if cell["outputs"] or cell["execution_count"]]


class _Handle:
    def __init__(self) -> None:
        self.drawn: list[dict[str, str]] = []

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.drawn.append(data)


def test_display_is_bounded_and_escaped() -> None:
    """Bars are drawn twice a second at most; texts are escaped; old notices are dropped."""
    now = 0.0
    display = NotebookProgress(clock=lambda: now)
    display._handle = handle = _Handle()
    display.show(Stage("map"))
    for step in range(100):
        now = step / 100
        display.show(MapProgress(step, 100, "<script>", running=2))
    assert len(handle.drawn) == 2
    assert "&lt;script&gt;" in handle.drawn[-1]["text/html"]
    assert "50 bytes of 100 bytes (50 %)" in handle.drawn[-1]["text/plain"]
    for number in range(15):
        display.show(Notice(f"<b>notice {number}</b>"))
    display.close()
    last = handle.drawn[-1]
    assert "(5 earlier messages)" in last["text/plain"]
    assert "<b>notice 4</b>" not in last["text/plain"]
    assert "&lt;b&gt;notice 14&lt;/b&gt;" in last["text/html"]
    assert "<script" not in last["text/html"]
