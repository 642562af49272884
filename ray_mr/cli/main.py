"""The command ``ray-mr``: its commands, and how errors end it.

A command is a function in a module here, and its name in the table at the bottom.
"""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Any

import click

from ray_mr.cli.commands.completion import completion
from ray_mr.cli.commands.credentials import credentials
from ray_mr.cli.commands.init import init
from ray_mr.cli.commands.map import map_
from ray_mr.cli.commands.plan import plan
from ray_mr.cli.commands.reduce import reduce_
from ray_mr.cli.commands.replay import replay
from ray_mr.cli.commands.run import run
from ray_mr.cli.commands.schema import schema
from ray_mr.cli.commands.submit import submit
from ray_mr.cli.commands.try_job import try_
from ray_mr.cli.screen import print_message
from ray_mr.cli.signals import handle_signals
from ray_mr.cli.supervisor import OWN_PROCESS
from ray_mr.errors import Interrupted, RayMrError, StoreError
from ray_mr.jobs.jobfile import nearest
from ray_mr.views.text import discard_output, fill_standard_streams

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFECT_EXIT_CODE = 1


class _Cli(click.Group):
    """A group that ends with a message and the exit code of what went wrong."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> Any:
        """As click's; without arguments they are those of the process, which is ours alone then."""
        fill_standard_streams()
        if args is None:
            extra["obj"] = OWN_PROCESS
        try:
            return super().main(args, *more, **extra)
        except OSError as error:  # of the help, which click itself writes
            discard_output(sys.stdout)
            print_message(f"ray-mr: error: stdout cannot be written: {error.strerror}")
            sys.exit(StoreError.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; here and not in ``main``, where click takes some errors for its own."""
        try:
            with handle_signals():
                return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            print_message("ray-mr: interrupted")
            ctx.exit(Interrupted.exit_code)
        except RayMrError as error:
            print_message(f"ray-mr: error: {error}")
            ctx.exit(error.exit_code)
        except Exception:  # noqa: BLE001 - the last fence: whatever else comes is a defect of ours
            print_message(traceback.format_exc().rstrip())
            print_message("ray-mr: error: a defect of ours; please report the lines above")
            ctx.exit(DEFECT_EXIT_CODE)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for a word that is none, name the nearest."""
        word = args[0]
        if self.get_command(ctx, word) is None and not word.startswith("-"):
            names = ", ".join(self.list_commands(ctx))
            near = nearest(word, self.commands) or f"; there are {names}"
            ctx.fail(f"no command {word!r}{near}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names in the order of the table."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A section of the help for each section of the table."""
        del ctx
        for title, commands in COMMANDS.items():
            rows = [(each.name or "", each.get_short_help_str(70)) for each in commands]
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(cls=_Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ray-mr")
def main() -> None:
    """Map/reduce over files in S3, every input accounted for.

    \b
    ray-mr init visits                       a job folder that runs as it is
    ray-mr try job.yml                       the mapper on one input, to the screen
    ray-mr plan job.yml                      what would be done
    ray-mr run job.yml                       do it: result.txt
    ray-mr run job.yml --engine local        in this process, without Ray
    ray-mr map --bucket pings KEY KEY ...    the mapper alone, as in TaskCluster

    \b
    Exit codes: 0 done, 1 a defect of ours, 2 the job is wrong, 3 credentials,
    4 store, 5 data, 6 the user's program, 7 engine, 8 ledger, 130 interrupted.
    """  # noqa: D301 - click's mark for lines that are not to be wrapped


COMMANDS: dict[str, tuple[click.Command, ...]] = {
    "Jobs": (init, try_, plan, run, replay),
    "TaskCluster": (map_, reduce_, submit, credentials),
    "Editor and shell": (schema, completion),
}
"""The commands, in the order and under the titles that the help shows."""

for _commands in COMMANDS.values():
    for _command in _commands:
        main.add_command(_command)
