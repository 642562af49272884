"""The container engine of this machine, for tests: builds images and runs commands in them."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paths import TOP
from tools import skip_loudly

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TOOL = str(TOP / "image" / "image.sh")
WORKER = 1000
"""User id of ``worker`` in the image."""


def call(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``image/image.sh``."""
    return subprocess.run(
        [TOOL, *words],
        check=False,
        capture_output=True,
        text=True,
        cwd=TOP,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        timeout=1500,
    )


def engine_name() -> str:
    """Docker, podman or buildah; without any the test is skipped loudly, and fails in CI."""
    asked = call("engine")
    if asked.returncode:
        skip_loudly(asked.stderr.strip())
    return asked.stdout.strip()


@dataclass(frozen=True)
class Image:
    """A built image."""

    tag: str

    def run(
        self,
        *words: str,
        folder: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the image's own user.

        Args:
            words: The command.
            folder: Mounted as the working folder ``/home/worker/work``, and given to ``worker``.
            env: Added to its environment.
        """
        options = []
        for name, value in (env or {}).items():
            options += ["-e", f"{name}={value}"]
        if folder is not None:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, WORKER, WORKER)
            options += ["-v", f"{folder}:/home/worker/work", "-w", "/home/worker/work"]
        return call("run", *options, self.tag, *words)


def build(tag: str, context: Path, *words: str) -> Image:
    """Build an image; the test fails with the builder's last words if that does."""
    made = call("build", tag, *words, str(context))
    assert made.returncode == 0, (made.stdout + made.stderr)[-4000:]
    return Image(tag)
