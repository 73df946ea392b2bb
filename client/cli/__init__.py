"""The `windlass` command line: thin commands over the client. `failures.py` has the exit codes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence

import click

from windlass.client.cli import (
    completion,
    definitions,
    dev,
    operations,
    people,
    processes,
    runs,
    steering,
    storage,
    watching,
)
from windlass.client.cli.failures import INTERRUPTED, report

_PARTS = (processes, dev, definitions, runs, watching, steering, people, operations, storage, completion)


class _Commands(click.Group):
    """Commands in the order a newcomer needs them, not by alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order they were added."""
        return list(self.commands)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(importlib.metadata.version("windlass"), message="windlass %(version)s")
def cli() -> None:
    """Durable workflows: what is done stays done.

    Start with `windlass dev`, then `windlass register FILE` and `windlass start NAME --wait`.
    """


for _part in _PARTS:
    for _command in _part.COMMANDS:
        cli.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code; errors are reported on stderr in one line."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the library's own lines about sockets; ours say what to do
    try:
        code = cli.main(args=arguments, prog_name="windlass", standalone_mode=False)
        sys.stdout.flush()  # here and not at exit, so that a full disk has its line and its exit code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        _silence()  # `windlass list | head`: the reader has had enough
        return 0
    except OSError as error:
        if not isinstance(error, TimeoutError):
            _silence()  # perhaps it was the output that cannot be written
        return report(error)
    except Exception as error:  # noqa: BLE001 - the outermost frame: a person sees a line, never a traceback
        return report(error)
    return code if isinstance(code, int) else 0


def _silence() -> None:
    """Nothing more may be written, also not at exit."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it is no file, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Entry point of the `windlass` script."""
    sys.exit(run())
