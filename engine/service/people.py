"""HumanTaskService: escalations, listed and answered."""

from __future__ import annotations

from typing import Any, Final

from windlass.engine import keys
from windlass.engine.core import commands as cmd
from windlass.engine.definitions import parse_json
from windlass.engine.engine import Engine
from windlass.engine.errors import EngineError
from windlass.engine.reading import page_key, page_size, page_token
from windlass.engine.records import EscalationRecord, get_large, unpack, whole_rows
from windlass.engine.service import convert, show
from windlass.engine.service.asking import Asked, namespace_of, once
from windlass.engine.service.status import rpc
from windlass.engine.unit import Unit
from windlass.storage.port import Transaction
from windlass.v1 import human_task_service_pb2 as pb
from windlass.v1 import human_task_service_pb2_grpc

_STATES: Final = {
    "pending": pb.ESCALATION_STATE_OPEN,
    "approved": pb.ESCALATION_STATE_APPROVED,
    "rejected": pb.ESCALATION_STATE_REJECTED,
    "timeout": pb.ESCALATION_STATE_TIMED_OUT,
    "cancelled": pb.ESCALATION_STATE_CANCELLED,
}
_NAMES: Final = {pb.ESCALATION_STATE_UNSPECIFIED: "pending", **{value: name for name, value in _STATES.items()}}


class HumanTaskServicer(human_task_service_pb2_grpc.HumanTaskServiceServicer):
    """Handlers of HumanTaskService."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @rpc
    async def ListEscalations(self, request: pb.ListEscalationsRequest) -> pb.ListEscalationsResponse:
        ns, size = await namespace_of(self._engine, request), page_size(request.page_size)
        head = keys.escalations(ns, convert.known(request.state, _NAMES, "state"))
        begin = last = page_key(request.page_token, head)
        response = pb.ListEscalationsResponse()
        room = show.PAGE_BYTES
        while True:
            at = begin
            rows = await self._engine.storage.read(lambda tr, at=at: whole_rows(tr, at, keys.end(head), size + 1, 4))  # type: ignore[misc]
            for key, value in rows:
                shown = escalation_out(unpack(EscalationRecord, value))
                if request.run_id not in ("", shown.run.run_id) or request.to not in ("", shown.to):
                    continue
                room -= shown.ByteSize()
                if len(response.escalations) == size or (response.escalations and room < 0):
                    response.next_page_token = page_token(last.hex())
                    return response
                response.escalations.append(shown)
                last = key
            if len(rows) <= size:
                return response
            begin = rows[-1][0] + b"\x00"

    @rpc
    async def GetEscalation(self, request: pb.GetEscalationRequest) -> pb.GetEscalationResponse:
        ns = request.namespace or "default"
        record = await self._engine.storage.read(lambda tr: find(tr, ns, request.escalation_id))
        return pb.GetEscalationResponse(escalation=escalation_out(record))

    @rpc
    async def ReplyEscalation(self, request: pb.ReplyEscalationRequest) -> pb.ReplyEscalationResponse:
        values = request.values.data or b"{}"
        parse_json(values, "values")
        command = cmd.ReplyEscalation(
            escalation_id=request.escalation_id, approved=request.approved, values=values, by=request.by
        )
        return pb.ReplyEscalationResponse(escalation=await self._reply(request, command))

    @rpc
    async def CancelEscalation(self, request: pb.CancelEscalationRequest) -> pb.CancelEscalationResponse:
        command = cmd.ReplyEscalation(
            escalation_id=request.escalation_id, approved=False, values=b"{}", withdrawn=True, by=request.reason
        )
        return pb.CancelEscalationResponse(escalation=await self._reply(request, command))

    async def _reply(self, request: Any, command: cmd.ReplyEscalation) -> pb.Escalation:
        ns = request.namespace or "default"

        async def work(unit: Unit) -> pb.Escalation:
            record = await find(unit.tr, ns, request.escalation_id)
            if record.status != "pending":
                raise EngineError(
                    "ESCALATION_CLOSED",
                    f"escalation {record.escalation_id} was already {record.status}"
                    + (f" by {record.by}" if record.by else ""),
                    escalation_id=record.escalation_id,
                    state=record.status,
                )
            await unit.give(ns, record.run_id, command)
            return escalation_out(await find(unit.tr, ns, request.escalation_id))

        return await once(self._engine, Asked(ns, request.request_id, request), pb.Escalation, work)


async def find(tr: Transaction, ns: str, escalation_id: str) -> EscalationRecord:
    """An escalation in whatever state. Raises EngineError ESCALATION_NOT_FOUND."""
    for status in _STATES:
        value = await get_large(tr, keys.escalations(ns, status, escalation_id))
        if value is not None:
            return unpack(EscalationRecord, value)
    raise EngineError(
        "ESCALATION_NOT_FOUND",
        f"there is no escalation {escalation_id!r} in namespace {ns!r}",
        escalation_id=escalation_id,
    )


def escalation_out(record: EscalationRecord) -> pb.Escalation:
    """An escalation as a message."""
    details = parse_json(record.details, "escalation details")
    message = pb.Escalation(
        escalation_id=record.escalation_id,
        state=_STATES[record.status],
        to=_text(details.get("to")),
        message=_text(details.get("message")),
        channel=_text(details.get("channel") or "person"),
        run_state_name=_text(details.get("state")),
        create_time=convert.timestamp(record.created_us),
        due_time=convert.timestamp(details.get("due_us") or 0),
        close_time=convert.timestamp(record.closed_us),
        values=record.values,
        replied_by=record.by,
        path=record.escalation_id.split(":", 2)[-1],
    )
    message.run.namespace = record.namespace
    message.run.run_id = record.run_id
    message.run.workflow = record.workflow
    for field in details.get("fields") or ():
        message.fields.append(_field(field))
    return message


def _field(field: dict[str, Any]) -> pb.FormField:
    options = [pb.FormOption(value=str(value), label=str(label)) for value, label in field.get("options") or ()]
    return pb.FormField(
        id=field["id"],
        kind=field.get("kind", "text"),
        label=field.get("label", ""),
        options=options,
        required=field.get("required", False),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
