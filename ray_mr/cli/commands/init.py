"""The command ``init``: create a job folder that runs as it is.

The folders are data of the package: ``cli/starters/`` has one for each language.
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
    help="Language of mapper and reducer; shell stands for any program.",
)
def init(*, folder: str, language: str) -> None:
    """Create a job folder that runs as it is.

    Writes a job file, its scripts and some data to FOLDER.  No existing file is overwritten.

    \b
    Examples:
      ray-mr init visits
      ray-mr init words --language shell
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    target = Path(expand_home(folder, "init"))
    files = dict(_read_starter(language))
    for name in files:
        if (target / name).exists() or (target / name).is_symlink():
            raise JobError(f"{target / name} already exists", "name another folder")
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
    print_message(_describe_next_steps(target, files))


def _read_starter(language: str) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of each file of a starter; data files are compressed."""
    root = resources.files("ray_mr.cli").joinpath("starters", language)
    for item in _list_sorted(root):
        if item.is_file():
            # Python scripts end in .py.txt there: they are not modules of this package.
            yield item.name.removesuffix(".txt"), item.read_bytes()
    for item in _list_sorted(root.joinpath(DATA)):
        yield f"{DATA}/{item.name}.gz", gzip.compress(item.read_bytes(), mtime=0)


def _list_sorted(folder: Traversable) -> list[Traversable]:
    return sorted(folder.iterdir(), key=lambda item: item.name)


def _describe_next_steps(target: Path, files: dict[str, bytes]) -> str:
    folder = target if target.name else target.absolute()
    lines = [f"created {folder}/ with {', '.join(sorted(files))}"]
    if target.absolute() != Path.cwd():
        lines.append(f"  cd {target}")
    lines += [
        "  ray-mr try job.yml                   run the mapper on one input, print its output",
        "  ray-mr run job.yml --engine local    run the job in this process: result.txt",
        "  ray-mr run job.yml --force           run the job on Ray, replace result.txt",
    ]
    return "\n".join(lines)
