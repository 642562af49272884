"""The command ``replay``: a failed attempt again, here.

The driver is imported when the command runs.
"""

from __future__ import annotations

from pathlib import Path

import click

from ray_mr.cli.options import expand_home
from ray_mr.cli.screen import print_message
from ray_mr.errors import summarize_message


@click.command()
@click.argument("capsule")
@click.option("--pdb", is_flag=True, help="Stop in Python's debugger where the function fails.")
def replay(*, capsule: str, pdb: bool) -> None:
    """Run a failed attempt again, in this process.

    CAPSULE is one of the JSON files that a run leaves in failed-attempts beside its output, or the
    S3 address of one. The inputs at fault are fetched, and the scripts run as they are now. The
    exit code is that of what it fails with, 0 if it does not fail any more.

    \b
    Examples:
      ray-mr replay result.txt.failed-attempts/split-000003-attempt-7.json
      ray-mr replay s3://results/os/failed-attempts/split-000003-attempt-7.json --pdb
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    from ray_mr.postmortem import replay as capsules

    uri = capsule if "://" in capsule else str(Path(expand_home(capsule, "replay")).absolute())
    found = capsules.read(uri)
    print_message(f"then: {summarize_message(found.told)}")
    for item in found.plan.splits[0].inputs:
        print_message(f"input: {item.object.uri}")
    if found.changed:
        print_message("the mapper has changed since: it runs as it is now")
    for name in found.withheld:
        print_message(f"{name} was not written down and is not set here")
    if pdb:
        raise click.exceptions.Exit(capsules.debug(found))
    error = capsules.replay(
        found, on_stderr=lambda line: print_message(line.decode("utf-8", "replace"))
    )
    if error is not None:
        raise error
    print_message("now: it does not fail")
