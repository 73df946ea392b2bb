"""Commands for people who answer a run's questions."""

from __future__ import annotations

from typing import Any

import click

from windlass.client.cli.connected import connected, limit_option
from windlass.client.cli.parameters import Assignment, RunName
from windlass.client.cli.plain import local_time, plain
from windlass.client.cli.screen import Screen
from windlass.client.client import Client
from windlass.v1 import human_task_service_pb2

_id = click.argument("escalation_id", metavar="ID")
_values = click.option(
    "--value", "values", type=Assignment(), multiple=True, help="A field of the reply; may be repeated."
)
_by = click.option("--by", default="", help="Who replies; recorded.")


@click.group()
def escalations() -> None:
    """Questions of runs to people."""


@escalations.command("list")
@click.option(
    "--state",
    type=click.Choice(["open", "approved", "rejected", "timed_out", "cancelled"]),
    default="open",
    show_default=True,
)
@click.option("--run", metavar="RUN", type=RunName(), help="Only of this run.")
@click.option("--to", default="", help="Only to this person.")
@limit_option
@connected
async def list_escalations(client: Client, screen: Screen, run: str | None, limit: int, **filters: Any) -> None:
    """List questions, oldest first."""
    found = client.escalations(run_id=await client.run_id_of(run) if run else "", **filters)
    headers = ("id", "to", "workflow", "asked", "until", "fields", "question")
    await screen.rows(headers, found, _row, limit=limit, none=f"no {filters['state']} escalations")


def _row(each: human_task_service_pb2.Escalation) -> tuple[Any, ...]:
    fields = ", ".join(field.id + ("*" if field.required else "") for field in each.fields)
    times = local_time(each.create_time), local_time(each.due_time)
    return each.escalation_id, each.to, each.run.workflow, *times, fields, each.message


@escalations.command()
@_id
@connected
async def show(client: Client, screen: Screen, escalation_id: str) -> None:
    """Show a question with the fields its reply can hold."""
    each = await client.get_escalation(escalation_id)
    rows = [
        ("id", each.escalation_id),
        ("run", each.run.run_id),
        ("to", each.to),
        ("question", each.message),
        ("until", local_time(each.due_time)),
        ("replied by", each.replied_by),
        *((f"field {field.id}", _field(field)) for field in each.fields),
    ]
    screen.fields(rows, each)


def _field(field: human_task_service_pb2.FormField) -> str:
    options = ", ".join(f"{option.value} ({option.label})" for option in field.options)
    return f"{field.label or field.kind}{': ' + options if options else ''}{' (required)' if field.required else ''}"


@escalations.command()
@_id
@_values
@_by
@connected
async def approve(
    client: Client, screen: Screen, escalation_id: str, values: tuple[tuple[str, Any], ...], by: str
) -> None:
    """Answer yes."""
    _closed(screen, await client.approve(escalation_id, dict(values), by=by), "approved")


@escalations.command()
@_id
@_values
@_by
@connected
async def reject(
    client: Client, screen: Screen, escalation_id: str, values: tuple[tuple[str, Any], ...], by: str
) -> None:
    """Answer no."""
    _closed(screen, await client.reject(escalation_id, dict(values), by=by), "rejected")


@escalations.command()
@_id
@click.option("--reason", default="", help="Why; recorded.")
@connected
async def cancel(client: Client, screen: Screen, escalation_id: str, reason: str) -> None:
    """Withdraw a question; the run takes it as rejected."""
    _closed(screen, await client.cancel_escalation(escalation_id, reason), "withdrawn")


def _closed(screen: Screen, escalation: human_task_service_pb2.Escalation, how: str) -> None:
    if screen.json:
        screen.value(plain(escalation))
    else:
        screen.say(f"{escalation.escalation_id} is {how}; the run goes on")


COMMANDS = (escalations,)
