"""Removal of folders: of any depth, with any modes, never through a link."""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ray_mr.system.remove_tree import remove_tree
from tools import require_root

if TYPE_CHECKING:
    from pathlib import Path

DEEP = 3000


def make_deep(folder: Path, depth: int, name: str = "d") -> None:
    """Folders within folders, deeper than a path can be long; a file in each."""
    code = (
        "import os, sys\n"
        "for _ in range(int(sys.argv[1])):\n"
        "    open('f', 'w').close(); os.mkdir(sys.argv[2]); os.chdir(sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(depth), name], cwd=folder, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["d", "x" * 255])
def test_remove_tree_of_any_depth_takes_few_files_and_no_recursion(
    tmp_path: Path, name: str
) -> None:
    """Deeper than Python recurses, than files can be open, and than a path can be long."""
    tree = tmp_path / "tree"
    tree.mkdir()
    make_deep(tree, DEEP, name)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        remove_tree(tree)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not tree.exists()


def test_remove_tree_of_wide_and_clashing_names_removes_all(tmp_path: Path) -> None:
    """Folders that are moved up find their names taken, by files and by folders."""
    tree = tmp_path / "tree"
    for number in range(40):
        (tree / f"a{number}" / f".ray-mr-moved-{number}" / "deeper").mkdir(parents=True)
        (tree / f"a{number}" / "file").write_bytes(b"x")
    for number in range(1, 20):
        (tree / f".ray-mr-moved-{number}").write_bytes(b"")
    for number in range(20, 30):
        (tree / f".ray-mr-moved-{number}" / "full").mkdir(parents=True)
    remove_tree(tree)
    assert not tree.exists()


def test_remove_tree_follows_no_link(tmp_path: Path) -> None:
    """Links to folders, anywhere in the tree or in its place, are removed themselves."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    inside = tmp_path / "tree" / "a" / "b"
    inside.mkdir(parents=True)
    for folder in (inside, inside.parent, inside.parent.parent):
        (folder / "link").symlink_to(outside)
    remove_tree(tmp_path / "tree")
    (tmp_path / "link").symlink_to(outside)
    remove_tree(tmp_path / "link")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["outside"]
    assert outside.stat().st_mode & 0o777 == 0o500


def test_remove_tree_of_nothing_or_of_a_file_is_no_error(tmp_path: Path) -> None:
    """What is gone already is as it should be."""
    (tmp_path / "file").write_bytes(b"")
    remove_tree(tmp_path / "file")
    remove_tree(tmp_path / "file")
    remove_tree(tmp_path / "no" / "folder")
    assert list(tmp_path.iterdir()) == []


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from ray_mr.system.memory_shield import hide_memory
from ray_mr.system.remove_tree import remove_tree
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
hide_memory()
top = Path(sys.argv[1])
for modes in ((0, 0, 0), (0o500, 0o500, 0o500), (0o700, 0o100, 0o400)):
    inner = top / "tree" / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "file").write_bytes(b"")
    for folder, mode in zip((inner, inner.parent, inner.parent.parent), modes):
        folder.chmod(mode)
    remove_tree(top / "tree")
    print((top / "tree").exists())
"""


def test_remove_tree_of_folders_without_permissions_works_for_their_owner(tmp_path: Path) -> None:
    """Also in a process that nobody may look into: it cannot list its own /proc then."""
    require_root("become another user")
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o555)
    tmp_path.chmod(0o777)
    argv = [sys.executable, "-c", UNPRIVILEGED, str(tmp_path)]
    done = subprocess.run(argv, cwd="/", capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False"] * 3, done.stderr


def test_remove_tree_raises_for_what_resists_and_removes_the_rest(tmp_path: Path) -> None:
    """A folder that root has made immutable stays, its neighbours go."""
    require_root("make a file immutable")
    tree = tmp_path / "tree"
    for name in ("a", "kept", "z"):
        (tree / name / "below").mkdir(parents=True)
    chattr = ["/usr/bin/chattr", "+i", str(tree / "kept")]
    if subprocess.run(chattr, capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: this file system has no immutable files: set TMPDIR to ext4")
    try:
        with pytest.raises(OSError, match="not permitted"):
            remove_tree(tree)
        assert [entry.name for entry in tree.iterdir()] == ["kept"]
    finally:
        subprocess.run(["/usr/bin/chattr", "-i", str(tree / "kept")], check=True)
    remove_tree(tree)
    assert not tree.exists()
