"""Watching and producing across broken connections: nothing is missed, comes twice, or is started twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.rpc import code_pb2

from tests.client.scripted import draining, refuse, served, status
from windlass.client import WindlassError
from windlass.v1 import common_pb2
from windlass.v1 import workflow_service_pb2 as wire

LAST = 7


class Breaking:
    """Watches break after every two events: by an error, by a plain end, and with an idle mark before it."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    async def WatchRun(self, request: wire.WatchRunRequest, context: Any) -> AsyncIterator[wire.WatchRunResponse]:
        self.tokens.append(request.resume_token)
        first = int(request.resume_token or 0) + 1
        for number in range(first, min(first + 2, LAST + 1)):
            event = common_pb2.HistoryEvent(number=number, type="Something")
            done = common_pb2.RunResult(state=common_pb2.RUN_STATE_COMPLETED) if number == LAST else None
            yield wire.WatchRunResponse(events=[event], resume_token=str(number), result=done)
        yield wire.WatchRunResponse(resume_token=str(min(first + 1, LAST)))
        if len(self.tokens) % 2:
            await refuse(context, draining())


async def test_a_watch_goes_on_behind_what_was_seen() -> None:
    engine = Breaking()
    async with served(engine) as client:
        messages = [message async for message in client.watch("my-order")]
    assert [event.number for message in messages for event in message.events] == list(range(1, LAST + 1))
    assert engine.tokens == ["", "2", "4", "6"]
    assert messages[-1].HasField("result")


async def test_idle_marks_are_given_only_to_those_who_ask() -> None:
    async with served(Breaking()) as client:
        with_marks = [message async for message in client.watch("my-order", idle=True)]
    assert any(not message.events for message in with_marks)


async def test_time_in_which_a_watch_was_quiet_is_no_time_without_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    class Quiet(Breaking):
        breaks = asyncio.Event()

        async def WatchRun(self, request: wire.WatchRunRequest, context: Any) -> AsyncIterator[wire.WatchRunResponse]:
            if not request.resume_token:
                yield wire.WatchRunResponse(events=[common_pb2.HistoryEvent(number=1)], resume_token="1")
                await self.breaks.wait()
                await refuse(context, draining())
            async for message in super().WatchRun(request, context):
                yield message

    engine, loop = Quiet(), asyncio.get_running_loop()
    now = loop.time
    async with served(engine) as client:
        watch = client.watch("my-order")
        await anext(watch)
        monkeypatch.setattr(loop, "time", lambda: now() + 3600.0)
        engine.breaks.set()
        assert (await anext(watch)).events[0].number == 2


async def test_a_watch_of_nothing_ends_with_the_engines_word() -> None:
    class Empty:
        async def WatchRun(self, request: wire.WatchRunRequest, context: Any) -> AsyncIterator[wire.WatchRunResponse]:
            await refuse(context, status(code_pb2.NOT_FOUND, "RUN_NOT_FOUND", "no such run"))
            yield wire.WatchRunResponse()

    async with served(Empty()) as client:
        with pytest.raises(WindlassError, match="RUN_NOT_FOUND"):
            await anext(client.watch("nothing"))


class Producing:
    """Starts what comes, once per request_id, and breaks the stream after every few outcomes."""

    def __init__(self, break_after: int) -> None:
        self.break_after, self.streams = break_after, 0
        self.runs: dict[str, str] = {}

    async def StreamRuns(
        self, requests: AsyncIterator[wire.StreamRunsRequest], context: Any
    ) -> AsyncIterator[wire.StreamRunsResponse]:
        self.streams += 1
        sent = 0
        async for batch in requests:
            for start in batch.starts:
                for outcome in self._outcomes(start):
                    yield wire.StreamRunsResponse(outcomes=[outcome])
                    sent += 1
                    if sent == self.break_after:
                        await refuse(context, draining())

    def _outcomes(self, start: wire.StreamedStart) -> list[wire.StreamedOutcome]:
        if start.request.workflow == "nope":
            refusal = status(code_pb2.NOT_FOUND, "WORKFLOW_NOT_REGISTERED", "no such workflow")
            return [wire.StreamedOutcome(tag=start.tag, error=refusal)]
        created = start.request.request_id not in self.runs
        run_id = self.runs.setdefault(start.request.request_id, f"{len(self.runs):032x}")
        started = wire.StartRunResponse(run=common_pb2.RunRef(run_id=run_id), created=created)
        outcomes = [wire.StreamedOutcome(tag=start.tag, started=started)]
        if start.wait:
            closed = common_pb2.RunResult(state=common_pb2.RUN_STATE_COMPLETED)
            outcomes.append(wire.StreamedOutcome(tag=start.tag, closed=closed))
        return outcomes


async def test_a_stream_that_breaks_starts_everything_once() -> None:
    engine = Producing(break_after=7)
    async with served(engine) as client:
        outcomes = [each async for each in client.stream([client.start_request("hello") for _ in range(40)])]
    assert sorted(each.tag for each in outcomes) == list(range(40))
    assert len(engine.runs) == 40
    assert engine.streams > 1


async def test_with_wait_each_start_is_told_twice_and_never_more() -> None:
    engine = Producing(break_after=7)
    async with served(engine) as client:
        starts = (client.start_request("hello") for _ in range(20))
        outcomes = [each async for each in client.stream(starts, wait=True)]
    assert sorted(each.tag for each in outcomes if each.started) == list(range(20))
    assert sorted(each.tag for each in outcomes if each.result) == list(range(20))


async def test_a_refused_start_does_not_hold_up_the_others() -> None:
    async with served(Producing(break_after=1000)) as client:
        starts = [client.start_request(name) for name in ("hello", "nope", "hello")]
        outcomes = {each.tag: each async for each in client.stream(starts)}
    assert outcomes[0].started is not None
    assert outcomes[1].error is not None
    assert outcomes[1].error.reason == "WORKFLOW_NOT_REGISTERED"
    assert outcomes[2].started is not None


async def test_only_so_many_starts_are_open_at_once() -> None:
    async with served(Producing(break_after=1000)) as client:
        starts = [client.start_request("hello") for _ in range(30)]
        outcomes = [each async for each in client.stream(starts, open_max=4)]
    assert len(outcomes) == 30


async def test_a_stream_that_broke_takes_no_more_starts() -> None:
    class Once(Producing):
        again = asyncio.Event()

        async def StreamRuns(
            self, requests: AsyncIterator[wire.StreamRunsRequest], context: Any
        ) -> AsyncIterator[wire.StreamRunsResponse]:
            if not self.streams:
                self.streams += 1
                await anext(requests)
                await refuse(context, draining())
            self.again.set()
            async for message in super().StreamRuns(requests, context):
                yield message

    engine, told = Once(break_after=1000), asyncio.Event()
    async with served(engine) as client:

        async def starts() -> AsyncIterator[wire.StartRunRequest]:
            yield client.start_request("hello")
            await engine.again.wait()
            yield client.start_request("hello")
            await told.wait()  # a service that starts the next run when this one is there

        async with asyncio.timeout(10):
            async for outcome in client.stream(starts()):
                if outcome.tag == 1:
                    told.set()
    assert engine.streams == 2


async def test_a_stream_of_no_starts_at_a_time_is_refused() -> None:
    async with served(Producing(break_after=1)) as client:
        with pytest.raises(ValueError, match="open_max is 0"):
            await anext(client.stream([client.start_request("hello")], open_max=0))


async def test_an_error_of_the_callers_own_iterable_is_the_callers() -> None:
    async with served(Producing(break_after=1000)) as client:

        async def starts() -> AsyncIterator[wire.StartRunRequest]:
            yield client.start_request("hello")
            raise LookupError("no more orders")

        outcomes = client.stream(starts())
        assert (await anext(outcomes)).started is not None
        with pytest.raises(LookupError, match="no more orders"):
            await anext(outcomes)
