"""Waits for named signals, and the run's inbox.

A signal that nothing waits for is buffered outside the run record; the run only knows how many there are (`inbox`). A
wait that opens takes the oldest of each of its names. `Node.data` of a wait is a `Received`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from windlass.engine.core import jsontext
from windlass.engine.core.branches import Extra, branch_at
from windlass.engine.core.clock import due_of
from windlass.engine.core.closing import close
from windlass.engine.core.definition import WaitBody
from windlass.engine.core.effects import ConsumeSignal, Defer, SubscribeMessage, UnsubscribeMessage
from windlass.engine.core.events import Deferred, SignalDropped, SignalTaken
from windlass.engine.core.state import Node
from windlass.engine.core.turn import Problem, Turn, evaluating


class Received(msgspec.Struct, frozen=True, array_like=True):
    """What a wait has got so far, and what it is subscribed to."""

    names: tuple[str, ...]
    any: bool = False
    got: Mapping[str, bytes] = {}
    key: str | None = None  #: business key of the subscription


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Received).decode


def received(node: Node) -> Received:
    return _decode(node.data)


def wait_id(turn: Turn, path: str) -> str:
    return f"{turn.state.visit}:{path}"


def open_wait(turn: Turn, path: str, body: WaitBody, extra: Extra) -> Node:
    timers: tuple[tuple[str, int], ...] = ()
    if body.until is not None:
        timers = (turn.arm(path, "until", due_of(turn, body.until, extra)),)
    key = None
    if body.correlate is not None:
        key = _key(turn, body, extra)
        for name in body.names:
            turn.owe(SubscribeMessage(name=name, correlation_key=key, wait_id=wait_id(turn, path)))
    return new_wait(turn, path, Received(body.names, body.any, {}, key), "wait", timers)


def _key(turn: Turn, body: WaitBody, extra: Extra) -> str:
    assert body.correlate is not None
    expression = body.correlate
    value = evaluating(lambda: expression.evaluate(turn.values(extra)))
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise Problem("NOT_A_KEY", f"{expression.source!r} gave {value!r}; a business key is a text or a whole number")
    return str(value)


def new_wait(turn: Turn, path: str, wants: Received, kind: str, timers: tuple[tuple[str, int], ...]) -> Node:
    if turn.state.inbox:
        turn.later.append(lambda: feed(turn, path))
    return Node("waiting", kind, opened_us=turn.now_us, timers=timers, data=_encode(wants))


def feed(turn: Turn, path: str) -> None:
    """Give the wait what lies in the inbox for it, in the order of arrival: the first decides where any is enough."""
    node = turn.node(path)
    if node is None or node.phase != "waiting" or not turn.state.inbox:
        return
    has = received(node)
    missing = tuple(name for name in has.names if name not in has.got)
    found = turn.view.signals(missing)
    for name, (key, payload) in found.items():
        if not _take_buffered(turn, path, name, key, payload):
            again(turn, f"feed:{turn.state.visit}:{path}")
        node = turn.node(path)
        if node is None or node.phase != "waiting":
            return


def again(turn: Turn, token: str) -> None:
    """The view shows one signal per name: look for the next one in a decision of its own."""
    if turn.state.inbox and token not in turn.state.deferred:
        turn.apply(Deferred(turn.now_us, token))
        turn.owe(Defer(token=token))


def _take_buffered(turn: Turn, path: str, name: str, key: bytes, payload: bytes) -> bool:
    """False if the wait still lacks this signal and there may be more."""
    if key in turn.taken:
        return False
    turn.taken.add(key)
    turn.owe(ConsumeSignal(key=key))
    why = misfit(turn, path, name, payload)
    if why:
        turn.apply(SignalDropped(turn.now_us, name, payload, why))
        return False
    receive(turn, path, name, payload, buffered=True)
    return True


def misfit(turn: Turn, path: str, name: str, payload: bytes) -> str:
    """Why the payload does not fit the wait's schema; "" if it does."""
    node = turn.must(path)
    if node.kind != "wait":
        return ""
    body = branch_at(turn.definition, turn.state, path).body
    schemas = dict(body.schemas) if isinstance(body, WaitBody) else {}
    schema = schemas.get(name)
    return jsontext.misfit(schema, payload) if schema is not None else ""


def receive(turn: Turn, path: str, name: str, payload: bytes, buffered: bool = False) -> None:
    """The wait has got this signal; it ends when it has all that it waits for."""
    has = received(turn.must(path))
    got = {**has.got, name: payload}
    data = _encode(msgspec.structs.replace(has, got=got))
    turn.apply(SignalTaken(turn.now_us, name, payload, path, buffered, data))
    if has.any or all(wanted in got for wanted in has.names):
        end_wait(turn, path, "success")


def end_wait(turn: Turn, path: str, outcome: str) -> None:
    """Close the wait; its result is what came."""
    node = turn.must(path)
    has = received(node)
    unsubscribe(turn, path, node)
    close(turn, path, outcome, msgspec.json.encode({name: msgspec.Raw(value) for name, value in has.got.items()}))


def unsubscribe(turn: Turn, path: str, node: Node) -> None:
    has = received(node)
    if has.key is not None:
        for name in has.names:
            turn.owe(UnsubscribeMessage(name=name, correlation_key=has.key, wait_id=wait_id(turn, path)))
