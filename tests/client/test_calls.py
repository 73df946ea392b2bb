"""Which calls are repeated, with what, and what becomes of errors."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from tests.client.scripted import draining, refuse, served, status
from windlass.client import Client, WindlassError
from windlass.client.connection import Backoff
from windlass.client.signing import BadKey, SigningKey
from windlass.v1 import common_pb2
from windlass.v1 import definition_service_pb2 as definitions
from windlass.v1 import workflow_service_pb2 as wire


class Refusing:
    """Refuses starts with what it is given, in order; then starts."""

    def __init__(self, *refusals: status_pb2.Status) -> None:
        self.refusals, self.requests = list(refusals), list[wire.StartRunRequest]()

    async def StartRun(self, request: wire.StartRunRequest, context: Any) -> wire.StartRunResponse:
        self.requests.append(request)
        if self.refusals:
            await refuse(context, self.refusals.pop(0))
        return wire.StartRunResponse(run=common_pb2.RunRef(run_id="a" * 32), created=True)


async def test_unavailable_is_repeated_with_the_same_request_id() -> None:
    engine = Refusing(draining(), draining())
    async with served(engine) as client:
        assert (await client.start("hello", {"name": "Ada"})).run_id == "a" * 32
    first, *others = engine.requests
    assert len(others) == 2
    assert first.request_id
    assert all(other == first for other in others)


async def test_two_calls_have_two_request_ids() -> None:
    engine = Refusing()
    async with served(engine) as client:
        await client.start("hello")
        await client.start("hello")
    assert engine.requests[0].request_id != engine.requests[1].request_id


async def test_a_refusal_is_not_repeated_and_tells_everything_it_knows() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="input.name", description="is missing")
    details = error_details_pb2.BadRequest(field_violations=[violation])
    engine = Refusing(
        status(code_pb2.INVALID_ARGUMENT, "INPUT_SCHEMA_MISMATCH", "the input does not fit", details, workflow="hello")
    )
    async with served(engine) as client:
        with pytest.raises(WindlassError) as caught:
            await client.start("hello")
    error = caught.value
    assert (error.reason, error.code) == ("INPUT_SCHEMA_MISMATCH", grpc.StatusCode.INVALID_ARGUMENT)
    assert error.metadata == {"workflow": "hello"}
    assert [(each.field, each.description) for each in error.violations] == [("input.name", "is missing")]
    assert str(error) == "INPUT_SCHEMA_MISMATCH: the input does not fit"
    assert error.__suppress_context__  # a traceback shows this one, and no page of gRPC's before it
    assert len(engine.requests) == 1


async def test_a_full_backlog_is_tried_again_when_the_engine_says() -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(2)
    full = status(code_pb2.RESOURCE_EXHAUSTED, "BACKLOG_FULL", "too much is waiting", retry)
    engine = Refusing(full, full)
    async with served(engine) as client:
        assert (await client.start("hello")).created
    assert len({each.request_id for each in engine.requests}) == 1
    assert len(engine.requests) == 3


async def test_what_is_too_large_is_not_tried_again() -> None:
    engine = Refusing(status(code_pb2.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE", "the input is too large"))
    async with served(engine) as client:
        with pytest.raises(WindlassError) as caught:
            await client.start("hello")
    assert caught.value.retry_after is None
    assert len(engine.requests) == 1


async def test_advice_to_come_back_later_than_the_caller_will_wait_ends_the_call() -> None:
    async with served(Refusing(draining(seconds=60))) as client:
        with pytest.raises(WindlassError) as caught:
            await client.start("hello")
    assert caught.value.reason == "ENGINE_DRAINING"


async def test_a_batch_gives_each_start_its_own_outcome() -> None:
    class Batch:
        async def StartRuns(self, request: wire.StartRunsRequest, context: Any) -> wire.StartRunsResponse:
            good = wire.StartRunResponse(run=common_pb2.RunRef(run_id="b" * 32), created=True)
            bad = status(code_pb2.NOT_FOUND, "WORKFLOW_NOT_REGISTERED", "no such workflow", workflow="nope")
            return wire.StartRunsResponse(results=[wire.StartRunResult(started=good), wire.StartRunResult(error=bad)])

    async with served(Batch()) as client:
        good, bad = await client.start_many([client.start_request("hello"), client.start_request("nope")])
    assert not isinstance(good, WindlassError)
    assert good.created
    assert isinstance(bad, WindlassError)
    assert bad.reason == "WORKFLOW_NOT_REGISTERED"


async def test_waiting_polls_until_the_run_has_closed() -> None:
    class Slow:
        polls = 0

        async def WaitRun(self, request: wire.WaitRunRequest, context: Any) -> wire.WaitRunResponse:
            self.polls += 1
            ref = common_pb2.RunRef(run_id="c" * 32)
            if self.polls < 3:
                return wire.WaitRunResponse(run=ref, state=common_pb2.RUN_STATE_RUNNING)
            result = common_pb2.RunResult(state=common_pb2.RUN_STATE_COMPLETED, output=common_pb2.Payload(data=b"42"))
            return wire.WaitRunResponse(run=ref, state=common_pb2.RUN_STATE_COMPLETED, result=result)

    engine = Slow()
    async with served(engine) as client:
        assert (await client.wait("my-order")).value() == 42
        assert engine.polls == 3


async def test_waiting_with_a_limit_says_that_the_run_goes_on() -> None:
    class Never:
        async def WaitRun(self, request: wire.WaitRunRequest, context: Any) -> wire.WaitRunResponse:
            return wire.WaitRunResponse(run=common_pb2.RunRef(run_id="d" * 32), state=common_pb2.RUN_STATE_WAITING)

    async with served(Never()) as client:
        with pytest.raises(TimeoutError, match=r"d{32} is still waiting after 0 s; it goes on"):
            await client.wait("my-order", timeout=0)


def test_a_client_may_be_made_before_there_is_a_loop_and_belongs_to_the_first_one() -> None:
    client = Client("127.0.0.1:1", retry_for=0.0)
    with pytest.raises(WindlassError, match="UNAVAILABLE"):
        asyncio.run(client.info())
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(client.info())


async def test_a_closed_client_says_so() -> None:
    client = Client("127.0.0.1:1")
    await client.close()
    with pytest.raises(RuntimeError, match="this client is closed"):
        await client.info()
    with pytest.raises(RuntimeError, match="this client is closed"):
        await anext(client.watch("my-order"))
    await client.close()


async def test_a_name_that_is_none_is_answered_with_those_there_are() -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="format is 'svg'; it can be mermaid, dot"):
            await client.graph("hello", format="svg")
        with pytest.raises(ValueError, match="source is 'me'; it can be user, "):
            await client.cancel("my-order", source="me")
        with pytest.raises(ValueError, match="give one of the two"):
            await client.advance_time(5, to=datetime.now(UTC))


def test_a_key_is_read_from_a_path_as_text_too(tmp_path: Path) -> None:
    with pytest.raises(BadKey, match="cannot read the key"):
        SigningKey.load(str(tmp_path / "nope.pem"))


def test_backoff_doubles_to_its_limit_and_is_spread() -> None:
    low = Backoff(initial=1.0, maximum=4.0, random=lambda: 0.0).delays()
    high = Backoff(initial=1.0, maximum=4.0, random=lambda: 1.0).delays()
    assert [next(low) for _ in range(4)] == [0.5, 1.0, 2.0, 2.0]
    assert [next(high) for _ in range(4)] == [1.0, 2.0, 4.0, 4.0]


class LosingAnAnswer:
    """The first upload fails as if in the client's own gRPC: INTERNAL, and no word of the engine's."""

    def __init__(self) -> None:
        self.uploads = 0

    async def UploadModule(self, request_iterator: Any, context: Any) -> definitions.UploadModuleResponse:
        self.uploads += 1
        if self.uploads == 1:
            await context.abort(grpc.StatusCode.INTERNAL, "Internal error from Core")
        await refuse(context, status(code_pb2.RESOURCE_EXHAUSTED, "MODULE_TOO_LARGE", "over the limit"))
        raise AssertionError("refuse always raises")


async def test_an_upload_whose_refusal_grpc_has_lost_is_asked_for_again() -> None:
    engine = LosingAnAnswer()
    async with served(engine) as client:
        with pytest.raises(WindlassError, match="MODULE_TOO_LARGE"):
            await client.upload_module(b"1", "javascript")
    assert engine.uploads == 2
