"""The options ``--help`` and ``--version`` of all commands.

click writes both to stdout itself, and ends with exit code 1 or a traceback where stdout is a
closed pipe or a full disk.  These options write them as commands write their results.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

import click

from ray_mr.cli.screen import write_result

if TYPE_CHECKING:
    from collections.abc import Callable


def add_help(command: click.Command) -> None:
    """Give a command, and each command below it, the options ``-h`` and ``--help``."""
    option = _make_option(["-h", "--help"], "Show this message and exit.", click.Context.get_help)

    def get_help_option(ctx: click.Context) -> click.Option | None:
        del ctx
        return option

    # click's usage errors point to the option that this method returns.
    command.get_help_option = get_help_option  # type: ignore[method-assign]
    if isinstance(command, click.Group):
        for each in command.commands.values():
            add_help(each)


def add_version(command: click.Command) -> None:
    """Give a command the option ``--version``."""

    def describe(ctx: click.Context) -> str:
        return f"{ctx.find_root().info_name}, version {metadata.version('ray-mr')}"

    command.params.append(_make_option(["--version"], "Show the version and exit.", describe))


def _make_option(
    names: list[str], text: str, describe: Callable[[click.Context], str]
) -> click.Option:
    def show(ctx: click.Context, _option: click.Parameter, value: Any) -> None:
        if value and not ctx.resilient_parsing:
            write_result(describe(ctx))
            ctx.exit()

    return click.Option(
        names, is_flag=True, is_eager=True, expose_value=False, help=text, callback=show
    )
