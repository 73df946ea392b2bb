"""Commands that change runs."""

from __future__ import annotations

from typing import Any

import click

from windlass.client.cli.connected import connected, limit_option, wrong
from windlass.client.cli.failures import PARKED, Stop
from windlass.client.cli.parameters import Assignment, JsonValue, RunName, Seconds, given_id
from windlass.client.cli.plain import local_time, plain
from windlass.client.cli.screen import Screen
from windlass.client.cli.waiting import parked_at
from windlass.client.cli.watching import line_of
from windlass.client.client import Client
from windlass.client.values import is_run_id, state_name
from windlass.v1 import workflow_service_pb2

_run = click.argument("run", metavar="RUN", type=RunName())
_reason = click.option("--reason", default="", help="Why; recorded in the history.")


@click.command()
@_run
@_reason
@connected
async def cancel(client: Client, screen: Screen, run: str, reason: str) -> None:
    """Ask a run to cancel: running tasks get a grace time, and what it did is compensated."""
    effect = await client.cancel(run, reason)
    _answer(screen, {"run": run, "effect": effect}, _CANCELLED[effect].format(run=run))


_CANCELLED = {
    "requested": "{run} is cancelling",
    "already_requested": "{run} was cancelling already",
    "already_closed": "{run} had closed before; nothing changed",
}


@click.command()
@_run
@_reason
@connected
async def terminate(client: Client, screen: Screen, run: str, reason: str) -> None:
    """Close a run at once, without compensation."""
    await client.terminate(run, reason)
    _answer(screen, {"run": run, "state": "terminated"}, f"{run} is terminated")


@click.command()
@_run
@_reason
@click.option("--code", default="", help="Failure code of the run. Default: FAILED_BY_REQUEST.")
@connected
async def fail(client: Client, screen: Screen, run: str, reason: str, code: str) -> None:
    """Close a run as failed."""
    await client.fail(run, reason, code=code)
    _answer(screen, {"run": run, "state": "failed"}, f"{run} is failed")


@click.command()
@_run
@_reason
@click.option("--keep-timeout", is_flag=True, help="The run's own timeout goes on meanwhile.")
@connected
async def pause(client: Client, screen: Screen, run: str, reason: str, keep_timeout: bool) -> None:
    """Hold a run: no new task starts, running ones finish."""
    state = await client.pause(run, reason, keep_timeout=keep_timeout)
    _answer(screen, {"run": run, "state": state}, f"{run} is {state}; go on with: windlass unpause {run}")


@click.command()
@_run
@connected
async def unpause(client: Client, screen: Screen, run: str) -> None:
    """Let a paused run go on."""
    state = await client.unpause(run)
    _answer(screen, {"run": run, "state": state}, f"{run} is {state}")


@click.command()
@_run
@click.option("--wait", is_flag=True, help="Show what the step does, and end when it is done or stands on an incident.")
@connected
async def step(client: Client, screen: Screen, run: str, wait: bool) -> None:
    """Let a paused run do one step: the state it stands in. It is paused again before the next state begins."""
    reply = await client.step(run)
    if wait:
        await _follow(client, screen, run, reply.event_number)
        return
    state = state_name(reply.state)
    whole = {"run": run, "state": state, "current_state": reply.current_state, "event_number": reply.event_number}
    _answer(screen, whole, f"{run} is {state}" + (f" in state {reply.current_state}" if reply.current_state else ""))


async def _follow(client: Client, screen: Screen, run: str, begun: int) -> None:
    """Write the events of the step that began with event number `begun`, until it ends."""
    async for message in client.watch(run, full=True):
        for event in message.events:
            if event.number < begun:
                continue
            screen.value(plain(event), compact=True) if screen.json else screen.say(line_of(event))
            if event.type in _STEP_ENDS:
                return


_STEP_ENDS = ("RunPaused", "RunClosed", "IncidentOpened")


@click.command()
@_run
@click.argument("name")
@click.argument("value", type=JsonValue(), default="null", metavar="[JSON|@FILE]")
@click.option("--request-id", default="", callback=given_id, help="A second signal with the same id is dropped.")
@connected
async def signal(client: Client, screen: Screen, run: str, name: str, value: Any, request_id: str) -> None:
    """Send the signal NAME to a run, whether or not it waits for it yet."""
    new = await client.signal(run, name, value, request_id=request_id)
    said = f"{run} has the signal {name}" if new else f"{run} had this signal already; nothing changed"
    _answer(screen, {"run": run, "signal": name, "duplicate": not new}, said)


@click.command()
@click.argument("name")
@click.argument("key")
@click.argument("value", type=JsonValue(), default="null", metavar="[JSON|@FILE]")
@click.option(
    "--keep", "ttl", type=Seconds(), help="How long it is kept for waits that open later. Default: not at all."
)
@click.option(
    "--id",
    "message_id",
    default="",
    callback=given_id,
    help="A second message with it is refused while this one is kept.",
)
@connected
async def publish(client: Client, screen: Screen, name: str, key: str, value: Any, **options: Any) -> None:
    """Send the signal NAME to all runs that wait for it with the business key KEY (`correlate`)."""
    reply = await client.publish(name, key, value, **options)
    if screen.json:
        screen.value(plain(reply))
        return
    for each in reply.runs:
        screen.say(f"{each.run_id} has the signal {name}")
    if reply.kept:
        screen.say("kept for waits that open later")
    elif not reply.runs:
        screen.say(f"no run waits for {name} with the key {key}; --keep SECONDS keeps it for later ones")


@click.command()
@click.argument("run_id", metavar="RUN_ID")
@connected
async def delete(client: Client, screen: Screen, run_id: str) -> None:
    """Remove a closed run and its history for good. Only by its run id: an id of your own may be another run's now."""
    if not is_run_id(run_id):
        raise wrong(f"{run_id!r} is not a run id of 32 hex digits; windlass get shows the one of a run")
    await client.delete(run_id)
    _answer(screen, {"run": run_id}, f"{run_id} is removed, with its history")


@click.command()
@_run
@click.argument("name")
@click.argument("value", type=JsonValue(), default="null", metavar="[JSON|@FILE]")
@connected
async def update(client: Client, screen: Screen, run: str, name: str, value: Any) -> None:
    """Apply the update NAME that the definition declares, and print its reply."""
    screen.value(await client.update(run, name, value))


@click.command()
@_run
@click.argument("wait_id")
@click.argument("value", type=JsonValue(), default="null", metavar="[JSON|@FILE]")
@connected
async def resolve(client: Client, screen: Screen, run: str, wait_id: str, value: Any) -> None:
    """Resolve one open wait of a run by its id (windlass get RUN shows them)."""
    await client.resolve_wait(run, wait_id, value)
    _answer(screen, {"run": run, "wait_id": wait_id}, f"{wait_id} is resolved")


@click.command()
@_run
@click.option(
    "--event",
    "event_number",
    type=click.IntRange(1, 2**63 - 1),
    help="From the state entered last at this event; 1: from the beginning.",
)
@click.option("--state", default="", help="From this state, with the context as it is now.")
@click.option("--set", "edits", type=Assignment(), multiple=True, help="Context value of the new run; may be repeated.")
@click.option("--unset", multiple=True, metavar="KEY", help="Context key to remove; may be repeated.")
@click.option("--revision", default="", help="Revision of the new run. Default: the old run's.")
@click.option("--id", "new_workflow_id", default="", callback=given_id, help="Your own id of the new run.")
@connected
async def fork(client: Client, screen: Screen, run: str, edits: tuple[tuple[str, Any], ...], **where: Any) -> None:
    """Start a new run from a point of an old one."""
    if (where["event_number"] is None) == (not where["state"]):
        raise wrong("fork from where? give one of --event NUMBER and --state NAME")
    started = await client.fork(run, set=dict(edits), **where)
    _answer(screen, {"run": plain(started.ref)}, f"started {started.run_id}")


@click.group()
def incidents() -> None:
    """Runs that are parked on an error until a person repairs them."""


@incidents.command("list")
@click.option("--run", metavar="RUN", type=RunName(), help="Only of this run.")
@click.option("--workflow", default="", help="Only of this definition.")
@limit_option
@connected
async def list_incidents(client: Client, screen: Screen, run: str | None, workflow: str, limit: int) -> None:
    """List open incidents, oldest first."""
    headers = ("run", "incident", "workflow", "state", "code", "since", "message")
    found = client.incidents(run_id=await client.run_id_of(run) if run else "", workflow=workflow)
    await screen.rows(headers, found, _incident, limit=limit, none="no open incidents")


def _incident(incident: workflow_service_pb2.Incident) -> tuple[Any, ...]:
    run, since = incident.run, local_time(incident.create_time)
    return run.run_id, incident.incident_id, run.workflow, incident.state, incident.code, since, incident.message


@incidents.command("resolve")
@_run
@click.argument("incident_id")
@click.option("--action", type=click.Choice(["retry", "skip", "fail"]), default="retry", show_default=True)
@click.option("--set", "edits", type=Assignment(), multiple=True, help="Context value set first; may be repeated.")
@click.option("--result", type=JsonValue(), help="With --action skip: what is taken as the result.")
@click.option("--by", default="", help="Who did it; recorded.")
@connected
async def resolve_incident(
    client: Client,
    screen: Screen,
    run: str,
    incident_id: str,
    action: str,
    edits: tuple[tuple[str, Any], ...],
    result: Any,
    by: str,
) -> None:
    """Repair a parked run and let it go on: try the same point again, skip it, or let it fail."""
    run_id = await client.run_id_of(run)
    known = {each.incident_id async for each in client.incidents(run_id=run_id)}  # of other items or branches
    state = await client.resolve_incident(run_id, incident_id, action, set=dict(edits), output=result, by=by)
    shown = "parked on another incident" if state == "incident" else state
    if state == "incident" and (again := await parked_at(client, run_id, but=known)):
        raise Stop(f"the repair is recorded, and run {run} is again {again}", PARKED)
    _answer(screen, {"run": run, "state": state}, f"{run} is {shown}")


def _answer(screen: Screen, whole: dict[str, Any], text: str) -> None:
    if screen.json:
        screen.value(whole)
    else:
        screen.say(text)


COMMANDS = (cancel, terminate, fail, pause, unpause, step, signal, publish, update, resolve, fork, delete, incidents)
