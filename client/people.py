"""Questions of runs to people, and their answers."""

from __future__ import annotations

from collections.abc import AsyncIterator

from windlass.client.part import Part
from windlass.client.values import Json, new_id, payload
from windlass.v1 import human_task_service_pb2 as wire
from windlass.v1 import human_task_service_pb2_grpc as stubs

_STATES = {"open": 1, "approved": 2, "rejected": 3, "timed_out": 4, "cancelled": 5}


class People(Part):
    """Part of `Client`: escalations."""

    @property
    def _people(self) -> stubs.HumanTaskServiceAsyncStub:
        return stubs.HumanTaskServiceStub(self.connection.channel)

    async def escalations(
        self, *, state: str = "open", run_id: str = "", to: str = ""
    ) -> AsyncIterator[wire.Escalation]:
        """Escalations, oldest first. `state`: open, approved, rejected, timed_out or cancelled."""
        if state not in _STATES:
            raise ValueError(f"{state!r} is no state of an escalation; there are {', '.join(_STATES)}")
        request = wire.ListEscalationsRequest(
            namespace=self.namespace, state=wire.EscalationState.ValueType(_STATES[state]), run_id=run_id, to=to
        )
        while True:
            reply = await self.connection.call(self._people.ListEscalations, request)
            for escalation in reply.escalations:
                yield escalation
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def get_escalation(self, escalation_id: str) -> wire.Escalation:
        """One escalation. Raises WindlassError (ESCALATION_NOT_FOUND)."""
        request = wire.GetEscalationRequest(namespace=self.namespace, escalation_id=escalation_id)
        return (await self.connection.call(self._people.GetEscalation, request)).escalation

    async def approve(self, escalation_id: str, values: Json = None, *, by: str = "") -> wire.Escalation:
        """Answers yes, with values by field id. Raises WindlassError (REPLY_INVALID, ESCALATION_CLOSED)."""
        return await self._reply(escalation_id, True, values, by)

    async def reject(self, escalation_id: str, values: Json = None, *, by: str = "") -> wire.Escalation:
        """Answers no, with values by field id. Raises WindlassError (REPLY_INVALID, ESCALATION_CLOSED)."""
        return await self._reply(escalation_id, False, values, by)

    async def cancel_escalation(self, escalation_id: str, reason: str = "") -> wire.Escalation:
        """Withdraws a question: the run takes it as rejected."""
        request = wire.CancelEscalationRequest(
            namespace=self.namespace, escalation_id=escalation_id, reason=reason, request_id=new_id()
        )
        return (await self.connection.call(self._people.CancelEscalation, request)).escalation

    async def _reply(self, escalation_id: str, approved: bool, values: Json, by: str) -> wire.Escalation:
        request = wire.ReplyEscalationRequest(
            namespace=self.namespace,
            escalation_id=escalation_id,
            approved=approved,
            values=payload({} if values is None else values),
            by=by,
            request_id=new_id(),
        )
        return (await self.connection.call(self._people.ReplyEscalation, request)).escalation
