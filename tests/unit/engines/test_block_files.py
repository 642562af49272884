"""Blocks in files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ray_mr.engines import block_files
from ray_mr.errors import StoreError, WorkerLost

if TYPE_CHECKING:
    from pathlib import Path


def test_block_file_is_removed_with_its_last_reference(tmp_path: Path) -> None:
    for data in (b"", b"small", b"x" * block_files.MIN_FILE_BYTES):
        block = block_files.BlockFile(block_files.put(tmp_path / "block", data))
        assert bytes(block_files.read(block.location)) == data
        assert (tmp_path / "block").exists() is (len(data) == block_files.MIN_FILE_BYTES)
        view = block_files.read(block.location)
        del block
        assert not list(tmp_path.iterdir())
        assert bytes(view) == data, "a reader is not disturbed"


def test_removed_or_empty_block_file_counts_as_lost(tmp_path: Path) -> None:
    location = block_files.put(tmp_path / "block", b"x" * block_files.MIN_FILE_BYTES)
    (tmp_path / "block").write_bytes(b"")
    with pytest.raises(WorkerLost, match="a block is lost"):
        block_files.read(location)
    (tmp_path / "block").unlink()
    with pytest.raises(WorkerLost, match="a block is lost"):
        block_files.read(location)


def test_block_that_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    location = tmp_path / "missing" / "block"
    with pytest.raises(StoreError, match=str(location)):
        block_files.put(location, b"x" * block_files.MIN_FILE_BYTES)
    assert not list(tmp_path.iterdir())
