"""Programs that tests need and a minimal machine may lack."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

PACKAGES = {
    "bash": "bash",
    "bzip2": "bzip2",
    "cc": "gcc libc6-dev",
    "docker-registry": "docker-registry",
    "fish": "fish",
    "gzip": "gzip",
    "ip": "iproute2",
    "lzma": "xz-utils",
    "make": "make",
    "perl": "perl",
    "ruby": "ruby",
    "setpriv": "util-linux",
    "xz": "xz-utils",
    "zsh": "zsh",
    "zstd": "zstd",
}
"""Debian's packages of the programs; .ci/run installs them all."""


def require_tool(name: str) -> str:
    """Return the path of a program; skip the test where there is none, and fail it in CI."""
    path = shutil.which(name)
    if path is None:
        skip_loudly(f"there is no {name}: apt-get install {PACKAGES[name]}")
    return path


def require_root(purpose: str) -> None:
    """Skip a test that only root can run, in CI too: the summary names it."""
    if os.getuid() != 0:
        pytest.skip(f"NOT TESTED: only root may {purpose}: run the tests as root")


def skip_loudly(why: str) -> NoReturn:
    """Skip a test whose conditions the machine does not have; fail it in CI, which has them."""
    if os.environ.get("CI"):
        pytest.fail(f"NOT TESTED: {why}", pytrace=False)
    pytest.skip(f"NOT TESTED: {why}")
