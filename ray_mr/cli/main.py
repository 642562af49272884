"""The program ``ray-mr``: its commands, and the exit code that each error ends them with.

1. ``main`` is the program's entry point, and the click group of all commands.
2. ``COMMANDS`` lists the commands in the order of the help.  Each is a click command in a module
   of its name below ``cli/commands/``; to add one, write the module and name it here.
3. A command raises an error of ``ray_mr.errors``.  ``_CommandGroup.invoke`` prints it on stderr and
   ends the program with the error's exit code.  Any other exception is a bug in ray_mr: it is
   printed with its traceback, and the exit code is 1.

Command modules import the driver, Ray, boto3 and Arrow when the command runs: ``--help`` and shell
completion have to be quick.
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
from ray_mr.cli.help import add_help, add_version
from ray_mr.cli.screen import print_message
from ray_mr.cli.signals import handle_signals
from ray_mr.cli.supervisor import OWN_PROCESS
from ray_mr.errors import Interrupted, RayMrError
from ray_mr.jobs.jobfile import suggest_nearest
from ray_mr.views.streams import discard_output, fill_standard_streams

if TYPE_CHECKING:
    from collections.abc import Sequence

BUG_EXIT_CODE = 1


class _CommandGroup(click.Group):
    """A group that ends with a message and the exit code of its command's error."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> Any:
        """Run the program; ``args`` is ``None`` in a process that runs nothing else."""
        fill_standard_streams()
        if args is None:
            extra["obj"] = OWN_PROCESS
        try:
            return super().main(args, *more, **extra)
        except RayMrError as error:  # the group's own --help cannot be written
            print_message(f"ray-mr: error: {error}")
            sys.exit(error.exit_code)
        except OSError:  # click cannot write its usage error
            discard_output(sys.stdout)
            discard_output(sys.stderr)
            sys.exit(click.UsageError.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Errors are handled here and not in ``main``: between the two, click handles some of them.
        """
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
        except Exception:  # noqa: BLE001 - any other exception is a bug, reported with its traceback
            print_message(traceback.format_exc().rstrip())
            print_message("ray-mr: error: this is a bug in ray_mr; please report the lines above")
            ctx.exit(BUG_EXIT_CODE)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; suggest the nearest one for an unknown word."""
        word = args[0]
        if self.get_command(ctx, word) is None and not word.startswith("-"):
            names = ", ".join(self.list_commands(ctx))
            near = suggest_nearest(word, self.commands) or f"; there are {names}"
            ctx.fail(f"no command {word!r}{near}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of ``COMMANDS``."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section of the help for each section of ``COMMANDS``."""
        del ctx
        for title, commands in COMMANDS.items():
            rows = [(each.name or "", each.get_short_help_str(70)) for each in commands]
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(cls=_CommandGroup)
def main() -> None:
    """Run map/reduce jobs over files in S3, with every input accounted for.

    \b
    Examples:
      ray-mr init visits                       create a job folder that runs as it is
      ray-mr try job.yml                       run the mapper on one input, print its output
      ray-mr plan job.yml                      show the inputs and splits of a run
      ray-mr run job.yml                       run the job on Ray: result.txt
      ray-mr run job.yml --engine local        run it in this process, without Ray
      ray-mr map --bucket pings KEY KEY ...    run the mapper alone, as in TaskCluster

    \b
    Exit codes:
      0  success                        5  input data
      1  a bug in ray_mr                6  the user's program
      2  the job or the command line    7  the engine
      3  credentials                    8  the ledger does not balance
      4  storage                      130  interrupted

    `ray-mr COMMAND --help` describes a command and its options.
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped


COMMANDS: dict[str, tuple[click.Command, ...]] = {
    "Jobs": (init, try_, plan, run, replay),
    "TaskCluster": (map_, reduce_, submit, credentials),
    "Editor and shell": (schema, completion),
}
"""Commands by the title of their section in the help."""

for _commands in COMMANDS.values():
    for _command in _commands:
        main.add_command(_command)
add_version(main)
add_help(main)
