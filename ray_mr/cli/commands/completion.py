"""The command ``completion``: print a shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from ray_mr.cli.screen import write_result


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    """Print a shell's completion script.

    \b
    Examples:
      eval "$(ray-mr completion bash)"      in ~/.bashrc
      eval "$(ray-mr completion zsh)"       in ~/.zshrc
      ray-mr completion fish > ~/.config/fish/completions/ray-mr.fish
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    completion_class = get_completion_class(shell)
    if completion_class is None:  # the choices are click's own names
        raise click.UsageError(f"no completion for {shell}")
    # Not .source(), which starts the shell to find out its version.
    script = completion_class(ctx.find_root().command, {}, "ray-mr", "_RAY_MR_COMPLETE")
    write_result(script.source_template % script.source_vars())
