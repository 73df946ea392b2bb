"""One command to one run, asked over the wire: find the run, deduplicate by request id, give the command, answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from windlass.engine.core.commands import Command
from windlass.engine.core.decide import Decision
from windlass.engine.core.state import RunState
from windlass.engine.engine import Engine
from windlass.engine.reading import find_run_id
from windlass.engine.requests import digest, recall, remember
from windlass.engine.starting import check_name
from windlass.engine.unit import Unit

Reply = TypeVar("Reply", bound=Message)


class RunRequest(Protocol):
    """The fields that all requests about one run have."""

    namespace: str
    run_id: str
    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...


async def ask(
    engine: Engine,
    request: RunRequest,
    command: Command,
    reply_type: type[Reply],
    answer: Callable[[RunState, RunState, Decision], Reply],
) -> Reply:
    """Give `command` to the run the request names; `answer` makes the reply of the run before and after.

    The same request id gives the same reply again. Raises Rejection, EngineError RUN_NOT_FOUND, REQUEST_ID_REUSED.
    """
    ns = check_name(request.namespace or "default", "namespace")
    request_id = check_name(request.request_id, "request_id", required=False)
    method = type(request).__name__
    hashed = digest(request.SerializeToString(deterministic=True)) if request_id else b""

    async def work(unit: Unit) -> Reply:
        if request_id:
            known = await recall(unit, ns, request_id, method, hashed)
            if known is not None:
                again = reply_type()
                again.ParseFromString(known)
                return again
        run_id = await find_run_id(unit.tr, ns, request.run_id, getattr(request, "workflow_id", ""))
        found = await unit.load(ns, run_id)
        before = found.state
        decision = await unit.apply(found, command)
        assert before is not None
        assert found.state is not None
        reply = answer(before, found.state, decision)
        if request_id:
            remember(unit, ns, request_id, method, hashed, reply.SerializeToString())
        return reply

    return await engine.transition.run(work)
