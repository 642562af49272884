"""The prose: every link leads somewhere, and no page is an orphan."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from paths import TOP

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
def test_links(page: Path) -> None:
    """A link to a file of ours leads to one, and one to a heading to that heading."""
    for link in _links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_every_page_is_linked() -> None:
    """Each page of docs/ can be reached from the README, in a few steps."""
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
