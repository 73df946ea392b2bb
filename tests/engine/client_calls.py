"""Random calls of clients, and a dumb model of what they do: no time passes and no worker works, so that every answer
is known before it comes.

The model holds what the comments of the protos promise, in the plainest words; what the engine does otherwise is a
defect of one of them.
"""

from __future__ import annotations

import copy
import dataclasses
from random import Random
from typing import Any, Final

from tests.engine.documents import Document, instant, waiting
from tests.engine.served import Served, payload, refused, seconds
from windlass.v1 import common_pb2
from windlass.v1 import event_service_pb2 as event_pb
from windlass.v1 import workflow_service_pb2 as pb

DOCUMENTS: Final[tuple[Document, ...]] = (
    instant(),
    waiting(),
    waiting("pay", wait={"signals": ["paid"], "correlate": "order"}),
)
NAMESPACES: Final = ("default", "other")
#: Which calls are made, and how often.
SHARES: Final = {
    "StartRun": 9,
    "SignalRun": 5,
    "CancelRun": 2,
    "TerminateRun": 2,
    "PauseRun": 3,
    "UnpauseRun": 4,
    "DeleteRun": 2,
    "PublishMessage": 4,
}
CLOSED: Final = ("completed", "cancelled", "terminated")
AWAITED: Final = {"wait": "go", "pay": "paid"}


class Refused(Exception):
    """The model's refusal; nothing may have changed."""


@dataclasses.dataclass
class Run:
    """What is known of a run."""

    run_id: str
    workflow: str
    workflow_id: str
    order: str = ""
    state: str = "waiting"
    entered: bool = True  #: its first state
    held: bool = False
    delayed: bool = False
    inbox: list[str] = dataclasses.field(default_factory=list)
    events: int = 0  #: as last seen

    def settle(self) -> None:
        """What it comes to by itself."""
        if self.state in CLOSED:
            return
        self.state = "paused" if self.held else "pending" if self.delayed else "waiting"
        if self.state == "waiting":
            self.entered = True
            if self.workflow == "instant" or AWAITED[self.workflow] in self.inbox:
                self.state = "completed"


class Tenant:
    """One namespace."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.newest: dict[str, str] = {}
        self.answers: dict[str, tuple[Any, Any]] = {}  #: by request id: the request and its answer
        self.kept: dict[tuple[str, str], bool] = {}  #: by key and message id: whether it was delivered

    def find(self, request: Any) -> Run:
        run_id = request.run_id or self.newest.get(request.workflow_id, request.workflow_id)
        if run_id not in self.runs:
            raise Refused("RUN_NOT_FOUND")
        return self.runs[run_id]

    def find_open(self, request: Any) -> Run:
        run = self.find(request)
        if run.state in CLOSED:
            raise Refused("RUN_CLOSED")
        return run

    # What each call does: its answer, as far as it is known.

    def start_run(self, request: pb.StartRunRequest) -> dict[str, Any]:
        there = self.runs.get(self.newest.get(request.workflow_id, ""))
        if there is not None and there.state not in CLOSED:
            if request.open_run_policy == pb.OPEN_RUN_POLICY_USE_EXISTING:
                return {"run_id": there.run_id, "created": False}
            if request.open_run_policy != pb.OPEN_RUN_POLICY_TERMINATE_EXISTING:
                raise Refused("RUN_ALREADY_STARTED")
            there.state = "terminated"
        elif there is not None and (
            request.closed_run_policy == pb.CLOSED_RUN_POLICY_REJECT
            or (request.closed_run_policy == pb.CLOSED_RUN_POLICY_ALLOW_IF_FAILED and there.state == "completed")
        ):
            raise Refused("RUN_ALREADY_STARTED")
        return {"created": True}

    def started(self, request: pb.StartRunRequest, run_id: str, order: str) -> None:
        """The engine has named the run."""
        held, delayed = request.paused, request.HasField("start_delay")
        run = Run(run_id, request.workflow, request.workflow_id or run_id, order, "", False, held, delayed)
        self.runs[run_id] = run
        if request.workflow_id:
            self.newest[request.workflow_id] = run_id
        self.enter(run)

    def enter(self, run: Run) -> None:
        """It goes on; a kept message ends its wait if it has just begun."""
        entered = run.entered
        run.settle()
        if run.state == "waiting" and not entered and run.workflow == "pay":
            kept = [place for place, delivered in self.kept.items() if place[0] == run.order and not delivered]
            if kept:
                self.kept[kept[0]] = True
                run.state = "completed"

    def signal_run(self, request: pb.SignalRunRequest) -> dict[str, Any]:
        run = self.find_open(request)
        run.inbox.append(request.name)
        run.settle()
        return {"run_id": run.run_id, "duplicate": False}

    def cancel_run(self, request: pb.CancelRunRequest) -> dict[str, Any]:
        run, effects = self.find(request), pb.CancelRunResponse
        late = run.state in CLOSED
        run.state = run.state if late else "cancelled"
        return {"effect": effects.EFFECT_ALREADY_CLOSED if late else effects.EFFECT_REQUESTED, "state": run.state}

    def terminate_run(self, request: pb.TerminateRunRequest) -> dict[str, Any]:
        self.find_open(request).state = "terminated"
        return {}

    def pause_run(self, request: pb.PauseRunRequest) -> dict[str, Any]:
        run = self.find_open(request)
        run.held = True
        run.settle()
        return {"state": run.state}

    def unpause_run(self, request: pb.UnpauseRunRequest) -> dict[str, Any]:
        run = self.find_open(request)
        if not run.held:
            raise Refused("RUN_NOT_PAUSED")
        run.held = False
        self.enter(run)
        return {"state": run.state}

    def delete_run(self, request: pb.DeleteRunRequest) -> dict[str, Any]:
        run = self.runs.get(request.run_id)
        if run is None:
            raise Refused("RUN_NOT_FOUND")
        if run.state not in CLOSED:
            raise Refused("RUN_OPEN")
        del self.runs[run.run_id]
        if self.newest.get(run.workflow_id) == run.run_id:
            del self.newest[run.workflow_id]
        return {}

    def publish_message(self, request: event_pb.PublishMessageRequest) -> dict[str, Any]:
        place = request.correlation_key, request.message_id or f"~{len(self.kept)}"
        if place in self.kept:
            raise Refused("MESSAGE_DUPLICATE")
        reached = [
            run
            for run in self.runs.values()
            if run.workflow == "pay" and run.order == place[0] and run.state not in CLOSED and run.entered
            and AWAITED["pay"] not in run.inbox
        ]  # fmt: skip
        for run in reached:
            run.inbox.append("paid")
            run.settle()
        kept = request.HasField("ttl") and not reached
        if request.HasField("ttl") and (request.message_id or not reached):
            self.kept[place] = bool(reached)
        return {"runs": sorted(run.run_id for run in reached), "kept": kept}


class Client:
    """Makes calls of one tenant at random engines, and holds the answers to the model."""

    def __init__(self, engines: list[Served], ns: str, rnd: Random) -> None:
        self._engines, self._ns, self._rnd = engines, ns, rnd
        self.model = Tenant()

    def _chance(self, share: float) -> bool:
        return self._rnd.random() < share

    def _request(self) -> Any:
        rnd = self._rnd
        method = rnd.choices(list(SHARES), list(SHARES.values()))[0]
        of = event_pb if method == "PublishMessage" else pb
        request: Any = getattr(of, f"{method}Request")(
            namespace=self._ns if self._chance(0.8) or self._ns != "default" else ""
        )
        if self._chance(0.4):
            request.request_id = f"r{rnd.randrange(12)}"
        if method == "StartRun":
            self._say_start(request)
        elif method == "PublishMessage":
            self._say_message(request)
        else:
            self._say_run(request, method)
        return request

    def _say_start(self, request: pb.StartRunRequest) -> None:
        rnd = self._rnd
        request.workflow = rnd.choice(["instant", "wait", "wait", "pay", "pay"])
        request.workflow_id = rnd.choice(["", "a", "b", "c"])
        request.open_run_policy = rnd.choice([0, 1, 2, 3])  # type: ignore[assignment]
        request.closed_run_policy = rnd.choice([0, 1, 2, 3])  # type: ignore[assignment]
        request.input.CopyFrom(payload({"order": rnd.choice("xyz")}))
        request.paused = self._chance(0.15)
        if self._chance(0.15):
            request.start_delay.CopyFrom(seconds(3600))

    def _say_message(self, request: event_pb.PublishMessageRequest) -> None:
        request.name, request.correlation_key = "paid", self._rnd.choice("xyz")
        request.message_id = self._rnd.choice(["", "m", "n"])
        if self._chance(0.6):
            request.ttl.CopyFrom(seconds(3600))

    def _say_run(self, request: Any, method: str) -> None:
        if self._chance(0.35) and method != "DeleteRun":
            request.workflow_id = self._rnd.choice("abc")
        else:
            request.run_id = self._rnd.choice([*self.model.runs, "f" * 32])
        if method == "SignalRun":
            request.name = self._rnd.choice(["go", "paid", "other"])

    async def call(self) -> None:
        """One call, new or repeated, and what must be true after it."""
        request = self._request()
        if self.model.answers and self._chance(0.15):
            request = self._rnd.choice([asked for asked, _ in self.model.answers.values()])
        engine = self._rnd.choice(self._engines)
        method = type(request).__name__.removesuffix("Request")
        before, rows = copy.deepcopy(self.model), await engine.dump()
        try:
            expected = self._expected(request, method)
        except Refused as refusal:
            self.model = before
            expected = str(refusal)
        stub = engine.events if method == "PublishMessage" else engine.runs
        if isinstance(expected, str):
            await refused(getattr(stub, method)(request), expected)
            assert await engine.dump() == rows
        else:
            self._learn(request, method, expected, await getattr(stub, method)(request))
        await self._agrees()

    def _expected(self, request: Any, method: str) -> Any:
        """The answer; a reason, or nothing but what is known of a new run."""
        known = self.model.answers.get(request.request_id)
        if known is None:
            name = "".join(f"_{each.lower()}" if each.isupper() else each for each in method).lstrip("_")
            return getattr(self.model, name)(request)
        asked, answer = known
        if type(asked) is not type(request) or asked != request:
            raise Refused("REQUEST_ID_REUSED")
        again = copy.deepcopy(answer)
        for field, value in (("created", False), ("duplicate", True)):
            if field in again.DESCRIPTOR.fields_by_name:
                setattr(again, field, value)
        return again

    def _learn(self, request: Any, method: str, expected: Any, answer: Any) -> None:
        if not isinstance(expected, dict):
            assert answer == expected
            return
        for field, value in expected.items():
            assert _said(answer, field) == value, f"{field} of {answer} for {request}, expected {expected}"
        if method == "StartRun" and answer.created:
            order = request.input.data.decode()[-3]
            self.model.started(request, answer.run.run_id, order)
        if request.request_id:
            self.model.answers[request.request_id] = (request, answer)

    async def _agrees(self) -> None:
        """What is listed, counted, read and recorded is what the model has."""
        engine, model = self._rnd.choice(self._engines), self.model
        found: list[pb.Run] = []
        request = pb.ListRunsRequest(namespace=self._ns, page_size=self._rnd.choice([0, 3, 7]))
        while True:
            page = await engine.runs.ListRuns(request)
            found += page.runs
            request.page_token = page.next_page_token
            if not request.page_token:
                break
        newest_first = sorted(model.runs.values(), key=lambda each: each.run_id, reverse=True)
        assert [(r.ref.run_id, _name(r.state)) for r in found] == [(each.run_id, each.state) for each in newest_first]
        counted = await engine.runs.CountRuns(pb.CountRunsRequest(namespace=self._ns))
        states = [each.state for each in model.runs.values()]
        assert counted.total == len(states)
        assert {_name(each.state): each.count for each in counted.counts} == {s: states.count(s) for s in set(states)}
        for run in found:
            assert run.ref.workflow_id == model.runs[run.ref.run_id].workflow_id
        if found:
            await self._recorded(engine, self._rnd.choice(found))

    async def _recorded(self, engine: Served, run: pb.Run) -> None:
        ref: dict[str, Any] = {"namespace": self._ns, "run_id": run.ref.run_id}
        history = await engine.runs.GetHistory(pb.GetHistoryRequest(**ref))
        assert [event.number for event in history.events] == list(range(1, run.last_event_number + 1))
        full = (await engine.runs.GetRun(pb.GetRunRequest(**ref))).run
        known = self.model.runs[run.ref.run_id]
        assert (_name(full.state), full.HasField("close_time")) == (known.state, known.state in CLOSED)
        assert full.last_event_number >= known.events
        assert known.state not in CLOSED or not full.open_work
        if known.state in ("pending", "waiting"):
            assert full.unread_signals == len(known.inbox)
        known.events = full.last_event_number


def _said(answer: Any, field: str) -> Any:
    """What an answer says, in the model's words."""
    if field == "run_id":
        return answer.run.run_id
    if field == "runs":
        return sorted(run.run_id for run in answer.runs)
    return _name(answer.state) if field == "state" else getattr(answer, field)


def _name(state: common_pb2.RunState.ValueType) -> str:
    return common_pb2.RunState.Name(state).removeprefix("RUN_STATE_").lower()
