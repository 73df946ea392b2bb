"""Commands that start and read runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import click

from windlass.client.cli.connected import connected, limit_option, wrong
from windlass.client.cli.parameters import JsonValue, Pair, RunName, Seconds, given_id
from windlass.client.cli.plain import local_time, plain, value_of
from windlass.client.cli.screen import Screen
from windlass.client.cli.story import detail_of, place_of
from windlass.client.cli.waiting import result_of_wait
from windlass.client.client import Client
from windlass.client.values import RunResult, Started, state_name
from windlass.v1 import common_pb2, workflow_service_pb2

#: States in which the failure is why the run ended; in all others it is the last thing that went wrong.
ENDED_BADLY = ("failed", "cancelled", "terminated")


@click.command()
@click.argument("workflow", metavar="NAME")
@click.option("--input", type=JsonValue(), help="What the run gets; @FILE reads a file, @- standard input.")
@click.option("--id", "workflow_id", default="", callback=given_id, help="Your own id of the run.")
@click.option("--revision", default="", help="Revision, as hex or its first 8 digits. Default: the default one.")
@click.option("--wait", is_flag=True, help="Wait for the end and print the output.")
@click.option("--timeout", type=Seconds(), help="With --wait: how long to wait at most; the run goes on.")
@click.option("--if-open", type=click.Choice(["fail", "use_existing", "terminate_existing"]), default="fail")
@click.option("--if-closed", type=click.Choice(["allow", "allow_if_failed", "reject"]), default="allow")
@click.option("--queue", default="", help="Queue of the run's tasks.")
@click.option(
    "--priority", type=click.IntRange(0, 9), help="9 is served first, 0 last. Default: the definition's, else 5."
)
@click.option("--paused", is_flag=True, help="Paused before its first state, for windlass step.")
@click.option("--delay", "start_in", type=Seconds(), help="Time until it starts.")
@click.option("--run-timeout", "run_timeout", type=Seconds(), help="Time the run may take as a whole.")
@click.option("--metadata", type=Pair(), multiple=True, help="Text kept with the run; may be repeated.")
@click.option("--config", type=JsonValue(), help="Laid over the definition's config.")
@click.option(
    "--idempotency-key",
    default="",
    callback=given_id,
    help="Business key: a second start with it gives the first one's run.",
)
@click.option(
    "--request-id", default="", callback=given_id, help="Repeat a start safely: the same id gives the same run."
)
@connected
async def start(
    client: Client,
    screen: Screen,
    workflow: str,
    wait: bool,
    timeout: float | None,
    run_timeout: float | None,
    **options: Any,
) -> None:
    """Start a run of the workflow NAME."""
    value, options["metadata"] = options.pop("input"), dict(options["metadata"])
    started = await client.start(workflow, value, timeout=run_timeout, **options)
    if wait:
        show_result(screen, started, await result_of_wait(client, started, timeout))
        return
    verb = "started" if started.created else "found"
    if screen.json:
        screen.value({"run": plain(started.ref), "created": started.created})
    elif screen.terminal:
        screen.say(f"{verb} {started.run_id}; follow it with: windlass watch {started.run_id}")
    else:
        screen.say(f"{verb} {started.run_id}")


def show_result(screen: Screen, started: Started, result: RunResult) -> None:
    """Writes how a run ended. Raises RunNotCompleted if it did not complete, for the exit code."""
    if screen.json:
        failure = plain(result.failure) if result.failure else None
        run = plain(started.ref)
        screen.value({"run": run, "state": result.state, "output": result.output, "failure": failure})
    elif result.state == "completed":
        screen.say(f"completed {started.run_id}")
        screen.value(result.output)
    result.value()


@click.command()
@click.argument("run", metavar="RUN", type=RunName())
@connected
async def get(client: Client, screen: Screen, run: str) -> None:
    """Show a run, by its run id or by your own id."""
    found = await client.get(run)
    screen.fields(_fields_of(found), found)
    if not screen.json and found.open_work:
        screen.say("")
        screen.table(
            ("open work", "kind", "phase", "attempt", "worker", "due"), [_work(each) for each in found.open_work]
        )


def _fields_of(run: workflow_service_pb2.Run) -> list[tuple[str, Any]]:
    failure = f"{run.failure.code}: {run.failure.message}" if run.HasField("failure") else ""
    where = f"{run.current_state} (visit {run.visit})" if run.current_state else ""
    return [
        ("run", run.ref.run_id),
        ("id", run.ref.workflow_id if run.ref.workflow_id != run.ref.run_id else ""),
        ("workflow", f"{run.ref.workflow} @ {run.ref.revision[:12]}"),
        ("state", state_name(run.state)),
        ("at", where),
        ("created", local_time(run.create_time)),
        ("closed", local_time(run.close_time)),
        ("failure" if state_name(run.state) in ENDED_BADLY else "last error", failure),
        ("output", value_of(run.output.data)),
        ("queue", run.queue),
        ("parent", run.parent_run_id),
        ("forked from", run.forked_from_run_id),
        ("metadata", dict(run.metadata)),
        ("unread signals", run.unread_signals or None),
        *((f"context.{key}", value_of(value)) for key, value in sorted(run.context.items())),
    ]


def _work(work: workflow_service_pb2.OpenWork) -> tuple[Any, ...]:
    waits = ", ".join(work.signal_names) or work.child_run_id or work.escalation_id
    kind = f"{work.kind} {waits}".strip()
    attempt = work.attempt or ""
    return work.path or "(the state's step)", kind, work.phase, attempt, work.worker_id, local_time(work.due_time)


@click.command("list")
@click.option("--workflow", default="", help="Only runs of this definition.")
@click.option("--state", "states", multiple=True, help="Only runs in this state; may be repeated.")
@click.option("--id", "workflow_id", default="", callback=given_id, help="Only runs with this id of yours.")
@click.option("--parent", metavar="RUN", type=RunName(), help="Only children of this run.")
@click.option("--oldest-first", "ascending", is_flag=True)
@limit_option
@connected
async def list_runs(client: Client, screen: Screen, parent: str | None, limit: int, **filters: Any) -> None:
    """List runs, newest first."""
    try:
        of = await client.run_id_of(parent) if parent else ""
        found = client.list(page_size=min(limit + 1, 1000), parent=of, **filters)
        await screen.rows(
            ("run", "id", "workflow", "state", "at", "created", "closed"), found, _row, limit=limit, none="no runs"
        )
    except ValueError as error:
        raise wrong(str(error)) from error


def _row(run: workflow_service_pb2.Run) -> tuple[Any, ...]:
    own = run.ref.workflow_id if run.ref.workflow_id != run.ref.run_id else ""
    times = local_time(run.create_time), local_time(run.close_time)
    return run.ref.run_id, own, run.ref.workflow, state_name(run.state), run.current_state, *times


@click.command()
@click.argument("run", metavar="RUN", type=RunName())
@click.option("--newest-first", "reverse", is_flag=True)
@limit_option
@connected
async def history(client: Client, screen: Screen, run: str, reverse: bool, limit: int) -> None:
    """Show what happened to a run, event by event."""
    events = client.history(run, reverse=reverse, page_size=min(limit + 1, 1000))
    await screen.rows(("#", "time", "event", "where", "what"), events, _event, limit=limit, none="no history")


def _event(event: common_pb2.HistoryEvent) -> tuple[Any, ...]:
    return event.number, local_time(event.time), event.type, place_of(event), detail_of(event)


@click.command()
@click.argument("run", metavar="RUN", type=RunName())
@click.argument("selector", type=JsonValue(), default='"full"')
@connected
async def query(client: Client, screen: Screen, run: str, selector: Any) -> None:
    """Read from a run's context: SELECTOR is JSON such as '{"path": "order.id"}'. Default: all of it."""
    screen.value(await client.query(run, selector))


@click.command()
@click.argument("run", metavar="RUN", type=RunName())
@connected
async def explain(client: Client, screen: Screen, run: str) -> None:
    """Say why a run does not move, and what would help."""
    reply = await client.explain(run)
    if screen.json:
        screen.value(plain(reply))
        return
    screen.say(f"{reply.run.ref.run_id} is {state_name(reply.run.state)} in {reply.run.current_state or 'no state'}")
    for line in _reasons(reply.explanations):
        screen.say(line)


def _reasons(explanations: Iterable[workflow_service_pb2.Explanation]) -> Iterator[str]:
    """A line for each reason, with the branches and items that it is for: those of a map mostly share theirs."""
    paths: dict[tuple[str, str], list[str]] = {}
    for each in explanations:
        due = f" (until {local_time(each.due_time)})" if each.HasField("due_time") else ""
        text = each.summary + due + (f"; {each.advice}" if each.advice else "")
        paths.setdefault((each.kind, text), []).append(each.path)
    for (kind, text), shared in paths.items():
        named = ", ".join(path for path in shared if path)
        yield f"  {kind} {named}: {text}" if named else f"  {kind}: {text}"


COMMANDS = (start, get, list_runs, history, query, explain)
