"""The documents: links lead somewhere, no page is an orphan, and tables agree with the code."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

import pytest

from paths import DOCS, TOP
from ray_mr import errors
from ray_mr.cli.main import main
from ray_mr.driver.report import Report

if TYPE_CHECKING:
    from pathlib import Path

PAGES = [
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/*.md", "cluster/*.md", "benchmarks/*.md")
    for path in sorted(TOP.glob(pattern))
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def _links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [each for each in LINK.findall(text) if "://" not in each]


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(TOP).as_posix())
def test_link_of_a_page_leads_to_a_file_or_a_heading(page: Path) -> None:
    for link in _links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_every_page_is_linked() -> None:

    seen, todo = set(), [TOP / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md" or not page.is_file():
            continue
        seen.add(page)
        todo += [(page.parent / link.partition("#")[0]).resolve() for link in _links(page)]
    assert set((TOP / "docs").rglob("*.md")) <= seen


def test_architecture_page_names_files_that_exist() -> None:
    text = (TOP / "ARCHITECTURE.md").read_text()
    names = set(re.findall(r"`([\w/-]+(?:\.py|/))`", text))
    assert len(names) > 20
    for name in names - {"http/", "combine/", "order/"}:
        assert (TOP / "ray_mr" / name).exists() or (TOP / name).exists(), name


def test_readme_names_the_wheel_of_the_present_version() -> None:
    version = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
    names = set(re.findall(r"ray_mr-[\w.]+-py3-none-any\.whl", (TOP / "README.md").read_text()))
    assert names == {f"ray_mr-{version}-py3-none-any.whl"}


def test_command_line_page_names_every_command_and_option_of_run() -> None:
    page = (DOCS / "reference" / "command-line.md").read_text()
    assert set(re.findall(r"^\| `ray-mr ([\w-]+)", page, re.MULTILINE)) == set(main.commands)
    own = {"--engine", "--force", "--resume", "--only-failed", "--keys-from", "--json", "--quiet"}
    options = page.split("## Options of `run`\n")[1].split("\n## ")[0]
    assert set(re.findall(r"`(--[\w-]+)", options)) == own
    assert own <= {name for option in main.commands["run"].params for name in option.opts}


def test_report_page_names_every_key_of_a_report() -> None:
    page = (DOCS / "reference" / "report.md").read_text()
    section = page.split("## Keys\n")[1].split("\nA row of `inputs`:")[0]
    keys = {
        key
        for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        for key in re.findall(r"`(\w+)`", row)
    }
    assert keys == {*Report("", "").facts(), "inputs"}


def test_errors_page_has_every_exit_code() -> None:
    page = (DOCS / "errors.md").read_text()
    table = page.split("\n\n")[2]
    codes = {int(code) for code in re.findall(r"^\| \[?(\d+)\b", table, re.MULTILINE)}
    kinds = [error for error in vars(errors).values() if isinstance(error, type)]
    known = {kind.exit_code for kind in kinds if issubclass(kind, errors.RayMrError)}
    assert codes == {0, *known}
