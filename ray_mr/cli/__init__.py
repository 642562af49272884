"""The command ``ray-mr``: how errors end it.  The commands stand in ``commands``."""

from __future__ import annotations

import signal
import threading
import traceback
from typing import TYPE_CHECKING, Any

import click

from ray_mr.cli import commands
from ray_mr.cli.progress import printable
from ray_mr.errors import Interrupted, RayMrError

if TYPE_CHECKING:
    from types import FrameType

DEFECT_EXIT_CODE = 1


class _Cli(click.Group):
    """A group that ends with a message and the exit code of what went wrong."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; here and not in ``main``, where click takes some errors for its own."""
        try:
            _stop_as_by_key()
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            _say("interrupted")
            ctx.exit(Interrupted.exit_code)
        except RayMrError as error:
            _say(f"error: {error}")
            ctx.exit(error.exit_code)
        except Exception:  # noqa: BLE001 - the last fence: whatever else comes is a defect of ours
            _say(traceback.format_exc().rstrip())
            _say("error: a defect of ours; please report the lines above")
            ctx.exit(DEFECT_EXIT_CODE)


def _say(text: str) -> None:
    click.echo(f"ray-mr: {printable(text)}", err=True)


def _stop_as_by_key() -> None:
    """Let SIGTERM, by which schedulers end a task, clean up as Ctrl-C does."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    here = threading.current_thread() is threading.main_thread()
    if here and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)


@click.group(cls=_Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ray-mr")
def main() -> None:
    """Map/reduce over files in S3, every input accounted for.

    \b
    ray-mr plan job.yml                      what would be done
    ray-mr run job.yml                       do it: result.txt
    ray-mr run job.yml --engine local        in this process, without Ray
    ray-mr map --bucket pings KEY KEY ...    the mapper alone, as in TaskCluster

    \b
    Exit codes: 0 done, 1 a defect of ours, 2 the job is wrong, 3 credentials,
    4 store, 5 data, 6 the user's program, 7 engine, 8 ledger, 130 interrupted.
    """  # noqa: D301 - click's mark for lines that are not to be wrapped


for _command in (commands.plan, commands.run, commands.map_):
    main.add_command(_command)
