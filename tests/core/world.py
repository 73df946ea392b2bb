"""A shell that fits in one file: it carries out effects in dictionaries, and checks everything after every decision.

What it checks: replaying the stored events gives the same state and items as the live run; the records survive being
stored; the invariants hold; and what is owed outside (queue, leases, timers, inbox, escalations, incidents) is what
the record says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from windlass.engine.core import commands as c
from windlass.engine.core import effects as f
from windlass.engine.core import events as e
from windlass.engine.core.activation import TaskActivation, activation_of
from windlass.engine.core.compaction import compacted
from windlass.engine.core.decide import Decision, NeedItems, NeedSignals, Rejection, decide
from windlass.engine.core.definition import Definition
from windlass.engine.core.evolve import fold
from windlass.engine.core.invariants import Outside, check
from windlass.engine.core.state import Node, RunState
from windlass.engine.core.tree import ItemTable, find
from windlass.engine.core.view import Loaded

NOW = 1_700_000_000_000_000
SECOND = 1_000_000


class World:
    """One run and what is around it."""

    def __init__(self, definition: Definition, *, checked: bool = True) -> None:
        self.definition = definition
        self.checked = checked
        self.now = NOW
        self.state: RunState = None  # type: ignore[assignment]
        self.items = ItemTable()
        self.history: list[bytes] = []
        self.events: list[Any] = []
        self.inbox: list[tuple[bytes, str, bytes]] = []
        self.queue: dict[tuple[int, str], f.ScheduleTask] = {}
        self.leases: dict[tuple[int, str], int] = {}
        self.timers: set[tuple[str, int]] = set()
        self.deferred: list[str] = []
        self.escalations: dict[str, str] = {}
        self.incidents: dict[str, str] = {}
        self.subscriptions: set[tuple[str, str, str]] = set()
        self.outbox: list[tuple[str, bytes]] = []
        self.children: dict[str, f.StartChild] = {}
        self.told: list[f.Effect] = []
        self.stops: list[f.StopTask] = []
        self.decision: Decision = None  # type: ignore[assignment]
        self.watch: Callable[[Decision], None] | None = None

    # -- commands ---------------------------------------------------------------------------------------------------

    def start(self, given: Any = None, **more: Any) -> World:
        text = b"{}" if given is None else msgspec.json.encode(given)
        fields = {"run_id": "r1", "namespace": "default", "workflow_id": "w1", "input": text, **more}
        self.do(c.Start(**fields))
        return self

    def do(self, command: c.Command) -> Decision:
        """Decide as the shell does: with an empty view first, loading what is asked for."""
        view = Loaded()
        for _ in range(50):
            try:
                decision = decide(self.definition, self.state, view, command, self.now)
                if self.checked:
                    again = decide(self.definition, self.state, view, command, self.now)
                    assert again == decision, "the same question has two answers"
                break
            except NeedItems as need:
                self._load(view, need.path)
            except NeedSignals as need:
                view.add_signals(need.names, {name: entry for name in need.names if (entry := self._oldest(name))})
        else:
            raise AssertionError("decide keeps asking")
        self._commit(decision)
        return decision

    def _load(self, view: Loaded, path: str) -> None:
        if path.endswith("#"):
            view.add_items(path, {key: node for key, node in self.items.items() if key.startswith(path)})
        else:
            view.add_item(path, self.items.get(path))

    def _oldest(self, name: str) -> tuple[bytes, bytes] | None:
        return next(((key, payload) for key, given, payload in self.inbox if given == name), None)

    def refused(self, command: c.Command) -> str:
        """The reason of the rejection; nothing may have changed."""
        before = (self.state, dict(self.items), len(self.events))
        try:
            self.do(command)
        except Rejection as rejection:
            assert before == (self.state, self.items, len(self.events))
            return rejection.reason
        raise AssertionError(f"{command} was accepted")

    def _commit(self, decision: Decision) -> None:
        self.decision = decision
        self.state = decision.state
        if decision.items_cleared:
            self.items.clear()
        for path, node in decision.items.items():
            if node is None:
                self.items.pop(path, None)
            else:
                self.items[path] = node
        self.events += decision.events
        if decision.events:
            self.history.append(e.encode_events(decision.events))
        for effect in decision.effects:
            self._carry_out(effect)
        if self.watch is not None:
            self.watch(decision)
        if self.checked:
            self.verify()

    def _carry_out(self, effect: f.Effect) -> None:
        match effect:
            case f.ScheduleTask(path=path, visit=visit):
                assert (visit, path) not in self.queue, f"{path} queued twice"
                self.queue[visit, path] = effect
            case f.WithdrawTask(path=path, visit=visit):
                entry = self.queue.pop((visit, path))
                assert entry.queued_us == effect.queued_us
            case f.StopTask():
                self.stops.append(effect)
            case f.ExtendLease(path=path, visit=visit, epoch=epoch):
                assert self.leases[visit, path] == epoch
            case f.ReleaseLease(path=path, visit=visit, epoch=epoch):
                assert self.leases.pop((visit, path)) == epoch
            case f.ArmTimer(timer=timer, due_us=due_us):
                assert (timer, due_us) not in self.timers, f"{timer} armed twice"
                self.timers.add((timer, due_us))
            case f.DisarmTimer(timer=timer, due_us=due_us):
                self.timers.remove((timer, due_us))
            case f.Defer(token=token):
                self.deferred.append(token)
            case f.BufferSignal(name=name, payload=payload):
                self.inbox.append((f"{self.state.seq:08d}".encode(), name, payload))
            case f.ConsumeSignal(key=key):
                found = [entry for entry in self.inbox if entry[0] == key]
                self.inbox.remove(found[0])
            case f.OpenEscalation(escalation_id=key):
                self.escalations[key] = "pending"
            case f.CloseEscalation(escalation_id=key, status=status):
                assert self.escalations[key] == "pending"
                self.escalations[key] = status
            case f.OpenIncident(incident_id=key, code=code):
                self.incidents[key] = code
            case f.CloseIncident(incident_id=key):
                del self.incidents[key]
            case f.SubscribeMessage(name=name, correlation_key=key, wait_id=wait):
                self.subscriptions.add((name, key, wait))
            case f.UnsubscribeMessage(name=name, correlation_key=key, wait_id=wait):
                self.subscriptions.remove((name, key, wait))
            case f.StartChild(run_id=run_id):
                self.children[run_id] = effect
            case f.AppendOutbox(name=name, payload=payload):
                self.outbox.append((name, payload))
            case _:
                self.told.append(effect)

    def verify(self) -> None:
        """Everything that must hold after every step."""
        stored = [event for batch in self.history for event in e.decode_events(batch)]
        state, items = fold(stored)
        assert _bare(state) == _bare(self.state), "replay differs from live"
        assert {k: _bare_node(v) for k, v in items.items()} == {k: _bare_node(v) for k, v in self.items.items()}
        assert state.seq == len(stored)
        fresh, fresh_event = compacted(self.state, self.items, self.now)
        assert fold([fresh_event]) == (fresh, self.items), "a fresh log is not the whole state"
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(self.state), type=RunState) == self.state
        outside = Outside(
            queued=set(self.queue), leased=set(self.leases.items()), timers=self.timers, inbox=len(self.inbox),
            deferred=set(self.deferred), incidents=set(self.incidents),
            escalations={key for key, status in self.escalations.items() if status == "pending"},
        )  # fmt: skip
        problems = check(self.state, self.items, outside)
        assert not problems, problems

    # -- the world's side --------------------------------------------------------------------------------------------

    def node(self, path: str = "") -> Node:
        found = find(self.state, self.items, path)
        assert found is not None, f"nothing at {path!r}"
        return found

    def lease(self, path: str = "", worker: str = "w") -> TaskActivation:
        """Take the queued task."""
        entry = self.queue.pop((self.state.visit, path))
        visit = entry.visit
        node = self.node(path)
        self.leases[visit, path] = node.epoch + 1
        self.do(
            c.TaskLeased(
                path=path, visit=visit, session="s", worker=worker, lease_us=self.now + entry.start_to_close_us
            )
        )
        return activation_of(self.definition, self.state, self.items.get, path, self.node(path))

    def report(self, path: str = "", result: Any = None, **more: Any) -> None:
        """The leased attempt's result."""
        text = more.pop("output", None)
        output = msgspec.json.encode(result) if text is None else text
        self.do(c.TaskSucceeded(path=path, visit=self.state.visit, epoch=self.node(path).epoch, output=output, **more))

    def succeed(self, path: str = "", result: Any = None, **more: Any) -> TaskActivation:
        activation = self.lease(path)
        self.report(path, result, **more)
        return activation

    def fail(self, path: str = "", code: str = "BOOM", **more: Any) -> None:
        self.lease(path)
        failure = c.Failure(code, more.pop("message", "it broke"), **more)
        self.do(c.TaskFailed(path=path, visit=self.state.visit, epoch=self.node(path).epoch, failure=failure))

    def crash(self, path: str = "") -> None:
        self.lease(path)
        self.do(
            c.TaskReturned(
                path=path, visit=self.state.visit, epoch=self.node(path).epoch, crashed=True, reason="killed"
            )
        )

    def signal(self, name: str, payload: Any = None) -> None:
        self.do(c.Signal(name=name, payload=msgspec.json.encode(payload)))

    def fire(self, timer: tuple[str, int]) -> None:
        """As the timer loop does: the timer is gone from its index in the transaction that applies it."""
        self.timers.discard(timer)
        self.do(c.TimerFired(timer=timer[0], due_us=timer[1]))

    def pass_time(self, seconds: float) -> None:
        """Let time go by, firing what becomes due in order."""
        end = self.now + int(seconds * SECOND)
        while due := [timer for timer in self.timers if timer[1] <= end]:
            timer = min(due, key=lambda timer: (timer[1], timer[0]))
            self.now = max(self.now, timer[1])
            self.fire(timer)
        self.now = end

    def catch_up(self) -> None:
        """Carry out what was deferred."""
        while self.deferred:
            token = self.deferred.pop(0)
            self.do(c.Continue(token=token))

    # -- what tests look at ------------------------------------------------------------------------------------------

    def context(self) -> dict[str, Any]:
        return {key: msgspec.json.decode(value) for key, value in self.state.context.items()}

    def output(self) -> Any:
        return msgspec.json.decode(self.state.output)

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


def _bare(state: RunState) -> RunState:
    """Without checkpoints, which are stored on the node and become history only when the attempt ends."""
    return state if state.node is None else msgspec.structs.replace(state, node=_bare_node(state.node))


def _bare_node(node: Node) -> Node:
    children: Mapping[str, Node] = {name: _bare_node(child) for name, child in node.children.items()}
    checkpoint = b"" if node.phase == "leased" else node.checkpoint
    return msgspec.structs.replace(node, checkpoint=checkpoint, children=children)
