"""The `windlass` command line: thin commands over the client. `failures.py` has the exit codes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

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


class _Enough(Exception):
    """Whoever reads the output has gone away. A BrokenPipeError would never come out of click: it ends with 1 there."""


class _Commands(click.Group):
    """Commands in the order a newcomer needs them, not by alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order they were added."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """`worker list`, too: `worker` alone runs one and takes no words, so it can mean nothing else."""
        return super().resolve_command(ctx, ["workers", *args[1:]] if args[:2] == ["worker", "list"] else args)

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        """Where `--help` writes."""
        with _until_enough():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """Where all others write."""
        with _until_enough():
            return super().invoke(ctx)


@contextlib.contextmanager
def _until_enough() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise _Enough from error


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
    _open_what_is_closed()
    _write_what_can_be_written()
    try:
        code = cli.main(args=arguments, prog_name="windlass", standalone_mode=False)
        sys.stdout.flush()  # here and not at exit, so that a full disk has its line and its exit code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except (_Enough, BrokenPipeError):
        _silence()  # `windlass list | head`: the reader has had enough
        return 0
    except OSError as error:
        if not isinstance(error, TimeoutError):
            _silence()  # perhaps it was the output that cannot be written
        return report(error)
    except Exception as error:  # noqa: BLE001 - the outermost frame: a person sees a line, never a traceback
        return report(error)
    return code if isinstance(code, int) else 0


def _open_what_is_closed() -> None:
    """Standard streams that somebody has closed (`>&-`) lead nowhere; else the first socket would get their number.

    They are opened in this order, so that each gets its own.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process


def _write_what_can_be_written() -> None:
    """A character that the terminal's encoding does not have is escaped: what was asked for has been done by then."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _silence() -> None:
    """Nothing more may be written, also not at exit."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it is no file, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
