"""`windlass completion`: the script that teaches a shell the commands and options."""

from __future__ import annotations

import sys

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell, for example: eval "$(windlass completion bash)"."""
    kind = get_completion_class(shell)
    assert kind is not None, shell
    sys.stdout.write(kind(context.find_root().command, {}, "windlass", "_WINDLASS_COMPLETE").source() + "\n")


COMMANDS = (completion,)
