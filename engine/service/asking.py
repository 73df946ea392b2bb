"""Mutating calls: deduplicated by request id, in the transaction that does the work. `ask` is the usual one: a
command to one run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol, TypeVar

from google.protobuf.message import Message

from windlass.engine.core.commands import Command
from windlass.engine.core.decide import Decision
from windlass.engine.core.state import CLOSED, RunState
from windlass.engine.engine import Engine
from windlass.engine.reading import find_run_id
from windlass.engine.requests import TTL_US, digest, recall, remember
from windlass.engine.starting import check_name
from windlass.engine.unit import Unit

Reply = TypeVar("Reply", bound=Message)

#: How long a command without a request id is remembered, in µs: longer than any transaction is tried.
_AGAIN_US: Final = 60_000_000


class Asked(NamedTuple):
    """A call as far as its repetition goes: whose it is, its id ("" = not repeatable), and all that was asked."""

    namespace: str
    request_id: str
    request: Message
    run_id: str = ""  #: the answer is kept while this run is open


async def namespace_of(engine: Engine, request: Message) -> str:
    """The request's namespace. Raises EngineError INVALID_FIELD, NAMESPACE_NOT_FOUND."""
    ns = check_name(getattr(request, "namespace", "") or "default", "namespace")
    if ns != "default":
        await engine.storage.read(lambda tr: engine.definitions.namespace(tr, ns))
    return ns


async def once(
    engine: Engine,
    asked: Asked,
    reply_type: type[Reply],
    work: Callable[[Unit], Awaitable[Reply]],
    repeated: Callable[[Reply], None] = lambda reply: None,
) -> Reply:
    """Do `work` in a transaction, or give the answer that the same request id got before, marked by `repeated`.

    Raises what `work` raises (then nothing changed), EngineError REQUEST_ID_REUSED, INVALID_FIELD.
    """
    request_id = check_name(asked.request_id, "request_id", required=False)
    ttl_us, run_id = TTL_US, asked.run_id
    if not request_id:
        if not engine.storage.shared:
            return await engine.transition.run(work)
        # The store may run the body again after a commit whose answer was lost: it must find what it did.
        request_id, ttl_us, run_id = f"~{engine.clock.new_id()}", _AGAIN_US, ""
    method = type(asked.request).__name__.removesuffix("Request")
    hashed = digest(asked.request.SerializeToString(deterministic=True))

    worked = False

    async def body(unit: Unit) -> Reply:
        nonlocal worked
        known = await recall(unit, asked.namespace, request_id, method, hashed)
        if known is not None:
            again = reply_type()
            again.ParseFromString(known)
            if not (worked and unit.tr.maybe_committed):  # else it is this call's own
                repeated(again)
            return again
        reply = await work(unit)
        worked = True
        answer = reply.SerializeToString()
        remember(unit, asked.namespace, request_id, method, hashed, answer, ttl_us=ttl_us, run_id=run_id)
        return reply

    return await engine.transition.run(body)


class RunRequest(Protocol):
    """The fields that all requests about one run have."""

    namespace: str
    run_id: str
    request_id: str


async def ask(
    engine: Engine,
    request: RunRequest,
    command: Command,
    reply_type: type[Reply],
    answer: Callable[[RunState, RunState, Decision], Reply],
    *,
    closed: Callable[[RunState], Reply] | None = None,
    while_open: bool = False,
    repeated: Callable[[Reply], None] = lambda reply: None,
) -> Reply:
    """Give `command` to the run the request names; `answer` makes the reply of the run before and after.

    `closed` makes the reply if the run has ended, where that is no refusal. The same request id gives the same reply
    again, with `while_open` at least as long as the run is open. Raises Rejection, EngineError RUN_NOT_FOUND,
    REQUEST_ID_REUSED.
    """
    ns = check_name(request.namespace or "default", "namespace")
    workflow_id = getattr(request, "workflow_id", "")
    asked = Asked(ns, request.request_id, request)  # type: ignore[arg-type]  # every request is a message
    if while_open and request.request_id:
        run_id = await engine.storage.read(lambda tr: find_run_id(tr, ns, request.run_id, workflow_id))
        asked = asked._replace(run_id=run_id)

    async def work(unit: Unit) -> Reply:
        run_id = await find_run_id(unit.tr, ns, request.run_id, workflow_id)
        if closed is not None and (state := await unit.peek(ns, run_id)) is not None and state.status in CLOSED:
            return closed(state)
        found = await unit.load(ns, run_id)
        before = found.state
        decision = await unit.apply(found, command)
        await unit.settle()  # a kept message may move it on at once, and the answer tells of the run after the call
        assert before is not None
        assert found.state is not None
        return answer(before, found.state, decision)

    return await once(engine, asked, reply_type, work, repeated)
