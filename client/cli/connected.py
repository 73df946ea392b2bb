"""What every command that talks to an engine has: where it is, which namespace, how to write the answer."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import click

from windlass.client.cli.failures import WRONG, Stop
from windlass.client.cli.parameters import address_option
from windlass.client.cli.screen import Screen
from windlass.client.client import Client
from windlass.client.connection import DEFAULT_TARGET
from windlass.client.errors import WindlassError

#: Seconds for which a command tries to reach the engine; a person waits for the answer.
RETRY_FOR = 3.0

engine_option = click.option(
    "--engine",
    metavar="HOST:PORT",
    envvar="WINDLASS_ENGINE",
    default=DEFAULT_TARGET,
    show_default=True,
    callback=address_option,
    help="The engine to talk to. Environment: WINDLASS_ENGINE.",
)
namespace_option = click.option(
    "--namespace",
    "-n",
    metavar="NAME",
    envvar="WINDLASS_NAMESPACE",
    default="default",
    show_default=True,
    help="Tenant. Environment: WINDLASS_NAMESPACE.",
)
output_option = click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people or programs.",
)
limit_option = click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")


def connected(body: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Makes `async def command(client, screen, …)` a command with --engine, --namespace and --output."""

    @engine_option
    @namespace_option
    @output_option
    @functools.wraps(body)
    def command(engine: str, namespace: str, output: str, **given: Any) -> None:
        asyncio.run(_work(body, engine, namespace, output, given))

    return command


async def _work(
    body: Callable[..., Awaitable[None]], engine: str, namespace: str, output: str, given: dict[str, Any]
) -> None:
    async with Client(engine, namespace=namespace, retry_for=RETRY_FOR) as client:
        try:
            await body(client, Screen(output), **given)
        except WindlassError as error:
            error.metadata.setdefault("target", engine)
            raise


def wrong(message: str) -> Stop:
    """The command was given something that cannot be."""
    return Stop(message, WRONG)
