"""AdminService over the wire: the engine's own words, namespaces, retention, and time that only tests move."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.engine.documents import delayed, instant, one_task, waiting
from tests.engine.served import Served, refused, seconds, serving
from windlass.engine import keys
from windlass.engine.service.server import SERVICES, PortInUse, Server
from windlass.v1 import admin_service_pb2 as pb
from windlass.v1 import common_pb2
from windlass.v1 import human_task_service_pb2 as people_pb
from windlass.v1 import workflow_service_pb2 as run_pb

DAY_SECONDS = 86_400
BEGIN = 1_800_000_000


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        yield engine


async def create(served: Served, name: str, **more: Any) -> pb.Namespace:
    request = pb.CreateNamespaceRequest(namespace=pb.Namespace(name=name, **more))
    response: pb.CreateNamespaceResponse = await served.admin.CreateNamespace(request)
    return response.namespace


async def simulated(served: Served) -> None:
    """Namespace `sim`, whose clock stands at BEGIN, with some definitions."""
    wanted = pb.Namespace(name="sim", virtual_time=True)
    wanted.current_time.seconds = BEGIN
    await served.admin.CreateNamespace(pb.CreateNamespaceRequest(namespace=wanted))
    for document in (delayed("3d"), delayed("1d", "short"), waiting("late", timeout="7d"), instant(), one_task()):
        await served.register(document, ns="sim")


async def advance(served: Served, **target: Any) -> pb.AdvanceTimeResponse:
    response: pb.AdvanceTimeResponse = await served.admin.AdvanceTime(pb.AdvanceTimeRequest(namespace="sim", **target))
    return response


async def test_the_engine_says_what_it_is(served: Served) -> None:
    info = await served.admin.GetSystemInfo(pb.GetSystemInfoRequest())
    assert info.version
    assert info.engine_id == served.engine.engine_id
    assert {"stream_tasks", "virtual_time"} <= set(info.features)
    assert info.limits["message_bytes"] == 4 << 20
    assert info.limits["context_bytes"] > 0
    assert info.runtimes == ["javascript", "wasm", "python"]  # that it accepts, whoever is there to run them


async def test_health_of_every_service_and_none_while_draining(served: Served) -> None:
    stub: Any = health_pb2_grpc.HealthStub(served.channel)
    for name in ("", *SERVICES):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_second_server_on_the_same_address_is_refused(served: Served) -> None:
    target = served.channel.get_state  # the first one is connected
    assert target() is not grpc.ChannelConnectivity.SHUTDOWN
    first = Server(served.engine, "127.0.0.1:0")
    await first.start()
    try:
        with pytest.raises(PortInUse):
            await Server(served.engine, f"127.0.0.1:{first.port}").start()
    finally:
        await first.stop()


async def test_namespaces_are_made_read_listed_and_changed(served: Served) -> None:
    made = await create(served, "team-a", description="the first", retention=seconds(60))
    got = (await served.admin.GetNamespace(pb.GetNamespaceRequest(name="team-a"))).namespace
    assert (got.description, got.retention.seconds, got.etag) == ("the first", 60, made.etag)
    for name in ("b", "c"):
        await create(served, name)
    page = await served.admin.ListNamespaces(pb.ListNamespacesRequest(page_size=3))
    rest = await served.admin.ListNamespaces(pb.ListNamespacesRequest(page_token=page.next_page_token))
    names = [each.name for each in (*page.namespaces, *rest.namespaces)]
    assert sorted(names) == ["b", "c", "default", "team-a"]
    wanted = pb.Namespace(name="team-a", description="changed", etag="stale")
    update = pb.UpdateNamespaceRequest(namespace=wanted)
    update.update_mask.paths.append("description")
    await refused(served.admin.UpdateNamespace(update), "ETAG_MISMATCH")
    update.namespace.etag = made.etag
    changed = (await served.admin.UpdateNamespace(update)).namespace
    assert (changed.description, changed.retention.seconds) == ("changed", 60)
    assert changed.etag != made.etag
    update.update_mask.paths.append("virtual_time")
    update.namespace.etag = ""
    await refused(served.admin.UpdateNamespace(update), "INVALID_FIELD")


async def test_namespaces_that_are_refused(served: Served) -> None:
    await create(served, "a")
    await refused(create(served, "a"), "NAMESPACE_EXISTS")
    for name in ("", "UPPER", "with space", "x" * 64, "a/b"):
        await refused(create(served, name), "INVALID_FIELD")
    await refused(create(served, "default", virtual_time=True), "INVALID_FIELD")
    await refused(served.admin.GetNamespace(pb.GetNamespaceRequest(name="x")), "NAMESPACE_NOT_FOUND")
    missing = pb.UpdateNamespaceRequest(namespace=pb.Namespace(name="x"))
    await refused(served.admin.UpdateNamespace(missing), "NAMESPACE_NOT_FOUND")


async def test_closed_runs_are_removed_when_their_retention_is_over(served: Served) -> None:
    await create(served, "short", retention=seconds(3600))
    await served.register(instant(), ns="short")
    await served.register(waiting(), ns="short")
    await served.register(instant())
    closed = [await served.start("instant", namespace="short") for _ in range(3)]
    open_ = await served.start("wait", namespace="short")
    kept = await served.start("instant")
    served.advance(3599)
    await served.engine.sweeper.turn()
    assert (await served.run(closed[0], "short")).HasField("close_time")
    served.advance(2)
    await served.engine.sweeper.turn()
    for run_id in closed:
        await refused(served.run(run_id, "short"), "RUN_NOT_FOUND")
        assert not [key for key, _ in await served.dump() if run_id.encode() in key]
    assert (await served.run(open_, "short")).state == common_pb2.RUN_STATE_WAITING
    assert (await served.run(kept)).state == common_pb2.RUN_STATE_COMPLETED


# Virtual time


async def test_days_pass_at_a_word_and_timers_fire_in_order(served: Served) -> None:
    await simulated(served)
    long, short = await served.start("delay", namespace="sim"), await served.start("short", namespace="sim")
    late = await served.start("late", namespace="sim")
    served.advance(30 * DAY_SECONDS)  # the engine's own clock does not count here
    await served.engine.timers.turn()
    assert (await served.run(short, "sim")).state == common_pb2.RUN_STATE_WAITING
    first = await advance(served, next_timer=True)
    assert (first.current_time.seconds, first.fired) == (BEGIN + DAY_SECONDS, 1)
    assert (await served.run(short, "sim")).close_time.seconds == BEGIN + DAY_SECONDS
    rest = await advance(served, by=seconds(30 * DAY_SECONDS))
    assert rest.current_time.seconds == BEGIN + 31 * DAY_SECONDS
    assert (await served.run(long, "sim")).close_time.seconds == BEGIN + 3 * DAY_SECONDS
    assert (await served.run(late, "sim")).close_time.seconds == BEGIN + 7 * DAY_SECONDS


async def test_a_delayed_start_goes_by_the_clock_of_its_namespace(served: Served) -> None:
    await simulated(served)
    run_id = await served.start("instant", namespace="sim", start_delay=seconds(DAY_SECONDS))
    assert (await served.run(run_id, "sim")).virtual_time
    await advance(served, by=seconds(DAY_SECONDS - 1))
    assert (await served.run(run_id, "sim")).state == common_pb2.RUN_STATE_PENDING
    await advance(served, by=seconds(1))
    assert (await served.run(run_id, "sim")).state == common_pb2.RUN_STATE_COMPLETED


async def test_a_question_and_an_incident_are_dated_by_the_clock_of_their_namespace(served: Served) -> None:
    await simulated(served)
    lacking = {"task": {"runtime": "python", "handler": "pay"}, "input": {"path": "nothing"}}
    for name, after in (("asks", {"escalate": {"to": "ada", "message": "?"}}), ("stops", lacking)):
        states = {"rest": {"delay": "1d", "next": "then"}, "then": after}
        await served.register({"workflow": name, "initial": "rest", "states": states}, ns="sim")
        await served.start(name, namespace="sim")
    await advance(served, by=seconds(DAY_SECONDS))
    (asked,) = (await served.people.ListEscalations(people_pb.ListEscalationsRequest(namespace="sim"))).escalations
    (parked,) = (await served.runs.ListIncidents(run_pb.ListIncidentsRequest(namespace="sim"))).incidents
    assert [each.create_time.seconds for each in (asked, parked)] == [BEGIN + DAY_SECONDS] * 2


async def test_time_that_cannot_be_moved(served: Served) -> None:
    await simulated(served)
    request = pb.AdvanceTimeRequest(namespace="default", by=seconds(1))
    await refused(served.admin.AdvanceTime(request), "NOT_VIRTUAL_TIME")
    request.namespace = "nowhere"
    await refused(served.admin.AdvanceTime(request), "NAMESPACE_NOT_FOUND")
    back = pb.AdvanceTimeRequest(namespace="sim")
    await refused(served.admin.AdvanceTime(back), "INVALID_FIELD")
    back.to.seconds = BEGIN - 1
    await refused(served.admin.AdvanceTime(back), "TIME_IN_PAST")
    await refused(advance(served, by=seconds(-1)), "INVALID_FIELD")
    still = await advance(served, next_timer=True)
    assert (still.current_time.seconds, still.fired) == (BEGIN, 0)


# Standalone tasks


async def test_a_task_runs_without_a_workflow(served: Served) -> None:
    worker = await served.worker(lambda task: {"ran": task.input.decode()})
    request = run_pb.StartTaskRequest(runtime="javascript", inline=b"input + 1", workflow_id="job-1")
    request.input.data = b"41"
    request.timeouts.start_to_close.seconds = 7
    request.retry.max_attempts = 2
    limits = common_pb2.TaskLimits(stack_bytes=70_000, cpu=seconds(2), log_bytes=10, grants=["clock"])
    request.limits.CopyFrom(limits)
    response = await served.runs.StartTask(request)
    assert response.created
    run = await served.closed(response.run.run_id)
    assert (run.state, run.ref.workflow_id) == (common_pb2.RUN_STATE_COMPLETED, "job-1")
    assert run.output.data == b'{"ran":"41"}'
    assert worker.seen[0].timeout.seconds == 7
    assert worker.seen[0].limits == limits
    again = await served.runs.StartTask(run_pb.StartTaskRequest(handler="echo", runtime="python"))
    assert (await served.closed(again.run.run_id)).state == common_pb2.RUN_STATE_COMPLETED


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (run_pb.StartTaskRequest(runtime="javascript"), "INVALID_FIELD"),
        (run_pb.StartTaskRequest(runtime="javascript", module_digest="0" * 64), "MODULE_NOT_FOUND"),
        (run_pb.StartTaskRequest(runtime="cobol", inline=b"x"), "RUNTIME_UNSUPPORTED"),
        (run_pb.StartTaskRequest(handler="echo", priority=11), "INVALID_FIELD"),
        (run_pb.StartTaskRequest(handler="echo", input=common_pb2.Payload(data=b"{")), "INVALID_JSON"),
        (run_pb.StartTaskRequest(handler="echo", namespace="nowhere"), "NAMESPACE_NOT_FOUND"),
    ],
)
async def test_a_task_that_cannot_be_started(served: Served, request_: Any, reason: str) -> None:
    await refused(served.runs.StartTask(request_), reason)
    assert not [key for key, _ in await served.dump() if keys.describe(key).startswith("RUN")]
