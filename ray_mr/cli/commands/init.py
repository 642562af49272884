"""The command ``init``: a job folder that runs as it is.

The folders are data of the package, below ``starters/``, one for each language.
"""

from __future__ import annotations

import gzip
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ray_mr.cli.options import expand_home
from ray_mr.cli.screen import print_message
from ray_mr.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

LANGUAGES = ("python", "javascript", "shell")
DATA = "data"


@click.command()
@click.argument("folder", type=click.Path())
@click.option(
    "--language",
    type=click.Choice(LANGUAGES),
    default="python",
    show_default=True,
    help="Of mapper and reducer; shell stands for any program.",
)
def init(*, folder: str, language: str) -> None:
    """Make a job folder that runs as it is.

    FOLDER gets a job file, its scripts and some data; nothing that is there is written over.

    \b
    Examples:
      ray-mr init visits
      ray-mr init words --language shell
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    target = Path(expand_home(folder, "init"))
    files = dict(_starter(language))
    for name in files:
        if (target / name).exists() or (target / name).is_symlink():
            raise JobError(f"{target / name} is there already", "name another folder")
    try:
        for name, content in files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(content)
            if path.suffix == ".sh":
                path.chmod(0o755)
    except OSError as error:
        raise JobError(f"{error.filename or target}: {error.strerror}") from None
    print_message(_what_next(target, files))


def _starter(language: str) -> Iterator[tuple[str, bytes]]:
    """Paths and contents of the files of a starter; the data compressed, as it is in the world."""
    root = resources.files("ray_mr.cli").joinpath("starters", language)
    for item in _sorted(root):
        if item.is_file():
            # Python scripts have another suffix there: they are no modules of this package.
            yield item.name.removesuffix(".txt"), item.read_bytes()
    for item in _sorted(root.joinpath(DATA)):
        yield f"{DATA}/{item.name}.gz", gzip.compress(item.read_bytes(), mtime=0)


def _sorted(folder: Traversable) -> list[Traversable]:
    return sorted(folder.iterdir(), key=lambda item: item.name)


def _what_next(target: Path, files: dict[str, bytes]) -> str:
    shown = target if target.name else target.absolute()
    lines = [f"made {shown}/ with {', '.join(sorted(files))}"]
    if target.absolute() != Path.cwd():
        lines.append(f"  cd {target}")
    lines += [
        "  ray-mr try job.yml                   the mapper on one input, to the screen",
        "  ray-mr run job.yml --engine local    the whole job, in this process: result.txt",
        "  ray-mr run job.yml --force           the same on Ray",
    ]
    return "\n".join(lines)
