"""Commands for operators: workers, queues, namespaces, the engine itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import click

from windlass.client.cli.connected import connected, limit_option, wrong
from windlass.client.cli.parameters import Seconds
from windlass.client.cli.plain import enum_name, local_time, plain
from windlass.client.cli.screen import Screen
from windlass.client.client import Client
from windlass.v1 import admin_service_pb2, queue_service_pb2


@click.group()
def workers() -> None:
    """Workers with a live session."""


@workers.command("list")
@click.option("--queue", default="", help="Only those that take tasks from this queue.")
@limit_option
@connected
async def list_workers(client: Client, screen: Screen, queue: str, limit: int) -> None:
    """List workers, with what they can run and how busy they are."""
    headers = ("worker", "state", "busy", "units used", "runtimes", "queues", "host", "isolation missing")
    none = "no workers; start one with: windlass worker"
    found = client.workers(queue=queue) if screen.json else _told_apart(client.workers(queue=queue))
    await screen.rows(headers, found, _worker, limit=limit, none=none)


async def _told_apart(found: AsyncIterator[queue_service_pb2.Worker]) -> AsyncIterator[queue_service_pb2.Worker]:
    """Of workers with one id, which come one after another, each shows its instance: they are two programs."""
    last: queue_service_pb2.Worker | None = None
    twins = False
    async for each in found:
        if last is not None:
            again = each.worker_id == last.worker_id
            yield _with_instance(last) if twins or again else last
            twins = again
        last = each
    if last is not None:
        yield _with_instance(last) if twins else last


def _with_instance(each: queue_service_pb2.Worker) -> queue_service_pb2.Worker:
    shown = queue_service_pb2.Worker()
    shown.CopyFrom(each)
    shown.worker_id = f"{each.worker_id} (instance {each.instance_id[:8] or each.session_id[-8:]})"
    return shown


def _worker(each: queue_service_pb2.Worker) -> tuple[Any, ...]:
    state = enum_name(queue_service_pb2.Worker.State.DESCRIPTOR, each.state)
    names = dict.fromkeys([*(runtime.name for runtime in each.runtimes), *(["python"] if each.handlers else [])])
    runtimes, queues, busy = ", ".join(names), ", ".join(each.queues), f"{each.running}/{each.slots}"
    # A worker of another's making has said nothing of a jail: "none" would praise it.
    missing = ", ".join(each.missing_guards) or ("none" if each.active_guards else "not told")
    units = ", ".join(
        f"{name} {each.used_units[name]}/{each.offered_units[name]}" for name in sorted(each.offered_units)
    )
    return each.worker_id, state, busy, units, runtimes, queues, each.host, missing


@click.command()
@click.argument("name", default="default")
@connected
async def queue(client: Client, screen: Screen, name: str) -> None:
    """Show how a queue stands: what waits, what is held, who could work."""
    reply = await client.queue(name)
    if screen.json:
        screen.value(plain(reply))
        return
    screen.say(f"{reply.queue}: {reply.leased} held, {reply.workers} workers")
    if reply.backlogs:
        headers = ("runtime", "handler", "needs", "waiting", "oldest", "able workers")
        screen.table(headers, [_backlog(each) for each in reply.backlogs])


def _backlog(each: queue_service_pb2.Backlog) -> tuple[Any, ...]:
    oldest = f"{each.oldest_age.seconds} s" if each.HasField("oldest_age") else ""
    needs = ", ".join(f"{name}={each.needs[name]}" for name in sorted(each.needs))
    return each.runtime, each.handler, needs, each.queued, oldest, each.able_workers


@click.command()
@connected
async def info(client: Client, screen: Screen) -> None:
    """Show what the engine is and can do."""
    reply = await client.info()
    rows = [
        ("version", reply.version),
        ("engine", reply.engine_id),
        ("storage", reply.storage),
        ("started", local_time(reply.start_time)),
        ("runtimes", ", ".join(reply.runtimes)),
        ("features", ", ".join(reply.features)),
        *((f"limit {name}", value) for name, value in sorted(reply.limits.items())),
    ]
    screen.fields(rows, reply)


@click.command()
@connected
async def maintain(client: Client, screen: Screen) -> None:
    """Have the engine do at once what it does by itself when it is due: timers, silent workers, queues, retention."""
    reply = await client.maintain()
    counts = [(field.name.replace("_", " "), getattr(reply, field.name)) for field in reply.DESCRIPTOR.fields]
    screen.fields(counts, reply)


@click.group()
def namespace() -> None:
    """Tenants: each has its own definitions, runs and workers."""


@namespace.command("list")
@limit_option
@connected
async def list_namespaces(client: Client, screen: Screen, limit: int) -> None:
    """List namespaces."""
    headers = ("name", "created", "kept", "time", "description")
    await screen.rows(headers, client.namespaces(), _namespace, limit=limit, none="no namespaces")


def _namespace(each: admin_service_pb2.Namespace) -> tuple[Any, ...]:
    kept = f"{each.retention.seconds} s" if each.HasField("retention") else "for ever"
    return each.name, local_time(each.create_time), kept, "virtual" if each.virtual_time else "real", each.description


#: Numbers that fit the wire.
_INT32, _INT64 = click.IntRange(0, 2**31 - 1), click.IntRange(0, 2**63 - 1)


def _limits(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a namespace that both `create` and `update` take."""
    for option in (
        click.option(
            "--max-attempts", type=click.IntRange(0, 2**31 - 1), help="Attempts of tasks that say none; 0: no limit."
        ),
        click.option("--starts-per-second", type=click.FloatRange(0), help="Runs started a second; 0: no limit."),
        click.option("--queued-tasks", type=_INT64, help="Tasks that wait in one queue; 0: no limit."),
        click.option("--open-runs", type=_INT64, help="Runs open at a time; 0: no limit."),
    ):
        command = option(command)
    return command


@namespace.command()
@click.argument("name")
@_limits
@click.option("--description", default="", help="What it is for.")
@click.option("--retention", type=Seconds(), help="Seconds for which closed runs are kept. Default: for ever.")
@click.option("--virtual-time", is_flag=True, help="Its clock moves by `advance-time` only. For tests.")
@connected
async def create(client: Client, screen: Screen, name: str, **options: Any) -> None:
    """Make a namespace."""
    made = await client.create_namespace(name, **{key: given for key, given in options.items() if given is not None})
    if screen.json:
        screen.value(plain(made))
    else:
        screen.say(f"namespace {made.name} is there; use it with --namespace {made.name}")


@namespace.command()
@click.argument("name")
@_limits
@click.option("--description", help="What it is for.")
@click.option("--retention", type=Seconds(), help="Seconds for which closed runs are kept; 0: for ever.")
@connected
async def update(client: Client, screen: Screen, name: str, **options: Any) -> None:
    """Change a namespace: what is given, and nothing else."""
    given = {key: each for key, each in options.items() if each is not None}
    if not given:
        raise wrong("change what? see windlass namespace update --help")
    changed, fields = await client.get_namespace(name), set[str]()
    for key, each in given.items():
        if key in ("open_runs", "queued_tasks", "starts_per_second"):
            setattr(changed.limits, key, each)
            fields.add("limits")
        elif key == "max_attempts":
            changed.default_retry.max_attempts = each
            fields.add("default_retry")
        elif key == "retention":
            changed.retention.FromMicroseconds(int(each * 1e6))
            fields.add(key)
        else:
            changed.description = each
            fields.add(key)
    changed = await client.update_namespace(changed, *sorted(fields))
    if screen.json:
        screen.value(plain(changed))
    else:
        screen.say(f"namespace {changed.name} is changed")


@namespace.command("advance-time")
@click.option("--seconds", type=Seconds(), help="By how much. Default: to the next timer.")
@connected
async def advance_time(client: Client, screen: Screen, seconds: float | None) -> None:
    """Move the clock of a namespace with virtual time, and fire what is due."""
    reply = await client.advance_time(seconds)
    if screen.json:
        screen.value(plain(reply))
    else:
        screen.say(f"it is {local_time(reply.current_time)}; {reply.fired} timers fired")


COMMANDS = (workers, queue, info, maintain, namespace)
