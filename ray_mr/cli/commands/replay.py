"""The command ``replay``: run a failed attempt again in this process."""

from __future__ import annotations

from pathlib import Path

import click

from ray_mr.cli.options import expand_home
from ray_mr.cli.screen import print_message
from ray_mr.errors import summarize_message


@click.command()
@click.argument("capsule")
@click.option("--pdb", is_flag=True, help="Start Python's debugger where the function fails.")
def replay(*, capsule: str, pdb: bool) -> None:
    """Run a failed attempt again in this process.

    CAPSULE is one of the JSON files that a run writes to failed-attempts beside its output: a path
    or an s3:// URI.  The inputs at fault are fetched, and the scripts run as they are now.  The
    exit code is that of the error, or 0 if the attempt does not fail any more.

    \b
    Examples:
      ray-mr replay result.txt.failed-attempts/split-000003-attempt-7.json
      ray-mr replay s3://results/os/failed-attempts/split-000003-attempt-7.json --pdb
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    from ray_mr.postmortem import replay as capsules

    uri = capsule if "://" in capsule else str(Path(expand_home(capsule, "replay")).absolute())
    attempt = capsules.read_capsule(uri)
    print_message(f"then: {summarize_message(attempt.message)}")
    for item in attempt.plan.splits[0].inputs:
        print_message(f"input: {item.object.uri}")
    if attempt.is_mapper_changed:
        print_message("the mapper has changed since: its present version runs")
    for name in attempt.missing_variables:
        print_message(f"{name} was not saved and is not set here")
    if pdb:
        raise click.exceptions.Exit(capsules.debug_attempt(attempt))
    error = capsules.replay_attempt(
        attempt, on_stderr=lambda line: print_message(line.decode("utf-8", "replace"))
    )
    if error is not None:
        raise error
    print_message("now: it does not fail")
