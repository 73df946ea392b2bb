"""QueueService and EventService: workers and queues as operators see them, messages in, outbox out."""

from __future__ import annotations

from typing import Final

from windlass.engine import keys
from windlass.engine.core.commands import Signal
from windlass.engine.core.decide import Rejection
from windlass.engine.core.units import split_kind, units_of
from windlass.engine.engine import Engine
from windlass.engine.errors import EngineError
from windlass.engine.queues import depths, lacking, tasks_held, used_units
from windlass.engine.reading import PAGE_EVENTS, page_key, page_position, page_size, page_token
from windlass.engine.records import (
    MessageRecord,
    OutboxRecord,
    SessionRecord,
    clear_large,
    get_large,
    pack,
    set_record,
    unpack,
    whole_rows,
)
from windlass.engine.service import convert, show
from windlass.engine.service.asking import Asked, namespace_of, once
from windlass.engine.service.status import rpc
from windlass.engine.starting import check_name
from windlass.engine.unit import FOLLOW_UPS_BYTES, Unit
from windlass.v1 import common_pb2, event_service_pb2, event_service_pb2_grpc, queue_service_pb2, queue_service_pb2_grpc

#: Waits that a published message reaches in its own transaction; the others follow, each in one of its own.
REACH_MAX: Final = 1000


class QueueServicer(queue_service_pb2_grpc.QueueServiceServicer):
    """Handlers of QueueService."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @rpc
    async def ListWorkers(self, request: queue_service_pb2.ListWorkersRequest) -> queue_service_pb2.ListWorkersResponse:
        ns, size = await namespace_of(self._engine, request), page_size(request.page_size)
        after = page_position(request.page_token) if request.page_token else ""
        sessions = sorted(await self._engine.sessions.all(), key=_place)
        found = [s for s in sessions if s.namespace == ns and _place(s) > after and request.queue in ("", *s.queues)]
        token = page_token(_place(found[size - 1])) if len(found) > size else ""
        return queue_service_pb2.ListWorkersResponse(
            workers=[await self._worker(s) for s in found[:size]], next_page_token=token
        )

    async def _worker(self, record: SessionRecord) -> queue_service_pb2.Worker:
        connected = self._engine.dispatch.connected.get(record.session)
        state = queue_service_pb2.Worker.STATE_LIVE
        if connected is None and record.engine == self._engine.engine_id:
            state = queue_service_pb2.Worker.STATE_DISCONNECTED
        elif record.draining or (connected is not None and connected.record.draining):
            state = queue_service_pb2.Worker.STATE_DRAINING
        return queue_service_pb2.Worker(
            worker_id=record.worker,
            instance_id=record.instance,
            session_id=record.session,
            state=state,
            host=record.host,
            queues=record.queues,
            runtimes=[common_pb2.RuntimeInfo(name=name, version=version) for name, version in record.versions.items()],
            handlers=[kind.partition(":")[2] for kind in record.kinds if ":" in kind],
            slots=record.slots,
            running=await tasks_held(self._engine, record),
            labels=record.labels,
            sdk=record.sdk,
            active_guards=record.active_guards,
            missing_guards=record.missing_guards,
            create_time=convert.timestamp(record.registered_us),
            lease_expire_time=convert.timestamp(record.expires_us),
            engine_id=record.engine,
            offered_units=record.offer,
            used_units=await used_units(self._engine, record),
        )

    @rpc
    async def DescribeQueue(
        self, request: queue_service_pb2.DescribeQueueRequest
    ) -> queue_service_pb2.DescribeQueueResponse:
        ns, name = await namespace_of(self._engine, request), request.queue or "default"
        sessions = [s for s in await self._engine.sessions.all() if s.namespace == ns and name in s.queues]
        now = self._engine.clock.now_us()
        response = queue_service_pb2.DescribeQueueResponse(queue=name, workers=len(sessions))
        for depth in await depths(self._engine.storage, ns):
            if depth.queue != name:
                continue
            base, text = split_kind(depth.kind)
            runtime, _, handler = base.partition(":")
            needs = dict(units_of(text))
            response.backlogs.append(
                queue_service_pb2.Backlog(
                    runtime=runtime,
                    handler=handler,
                    queued=depth.queued,
                    oldest_age=convert.duration(max(0, now - depth.oldest_us)),
                    able_workers=sum(base in s.kinds and lacking(s.offer, needs) is None for s in sessions),
                    needs=needs,
                )
            )
        for session in sessions:
            response.leased += len(await self._engine.sessions.leases_of(session.session))
        return response


def _place(record: SessionRecord) -> str:
    """Where a session stands in the list of workers: by worker id, which has no control characters."""
    return f"{record.worker}\0{record.session}"


class EventServicer(event_service_pb2_grpc.EventServiceServicer):
    """Handlers of EventService."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @rpc
    async def PublishMessage(
        self, request: event_service_pb2.PublishMessageRequest
    ) -> event_service_pb2.PublishMessageResponse:
        """A message finds the waits with its name and business key; with a time to live it also waits for them."""
        ns = await namespace_of(self._engine, request)
        name, key = check_name(request.name, "name"), check_name(request.correlation_key, "correlation_key")
        message_id = check_name(request.message_id, "message_id", required=False) or self._engine.clock.new_id()
        payload = convert.json_in(request.payload, "payload")
        ttl_us = convert.span_us(request.ttl, "ttl") if request.HasField("ttl") else 0
        given = bool(request.message_id)
        return await once(
            self._engine,
            Asked(ns, request.request_id, request),
            event_service_pb2.PublishMessageResponse,
            lambda unit: _publish(unit, ns, name, key, message_id, payload, ttl_us, given),
        )

    @rpc
    async def ListOutbox(self, request: event_service_pb2.ListOutboxRequest) -> event_service_pb2.ListOutboxResponse:
        ns, size = await namespace_of(self._engine, request), page_size(request.page_size, PAGE_EVENTS)
        head = keys.outbox(ns)
        begin = page_key(request.page_token, head)

        rows = await self._engine.storage.read(lambda tr: whole_rows(tr, begin, keys.end(head), size + 1, 3))
        response = event_service_pb2.ListOutboxResponse(next_page_token=request.page_token)  # good for what comes
        room = show.PAGE_BYTES
        for key, value in rows[:size]:
            record = unpack(OutboxRecord, value)
            if request.run_id in ("", record.run_id):
                event = _event(ns, record)
                room -= event.ByteSize()
                if room < 0 and response.events:
                    break
                response.events.append(event)
            response.next_page_token = page_token((key + b"\xff").hex())
        return response


def _event(ns: str, record: OutboxRecord) -> event_service_pb2.OutboxEvent:
    return event_service_pb2.OutboxEvent(
        run=common_pb2.RunRef(namespace=ns, run_id=record.run_id),
        sequence=record.sequence,
        name=record.name,
        payload=convert.payload(record.payload),
        create_time=convert.timestamp(record.created_us),
    )


async def _publish(
    unit: Unit, ns: str, name: str, key: str, message_id: str, payload: bytes, ttl_us: int, given: bool
) -> event_service_pb2.PublishMessageResponse:
    kept_key = keys.messages(ns, name, key, message_id)
    known = await get_large(unit.tr, kept_key)
    if known is not None and unpack(MessageRecord, known).expires_us > unit.now_us:
        raise EngineError(
            "MESSAGE_DUPLICATE", f"message {message_id!r} was published before and is still kept", message_id=message_id
        )
    head = keys.subscriptions(ns, name, key)
    rows = await unit.tr.get_range(head, keys.end(head))
    response = event_service_pb2.PublishMessageResponse()
    for number, (row, _) in enumerate(rows):
        if await _reached(unit, ns, row, name, payload, later=number >= REACH_MAX):
            response.runs.append(common_pb2.RunRef(namespace=ns, run_id=str(keys.unpack(row)[4])))
    if ttl_us and (given or not response.runs):
        expires = unit.now_us + ttl_us
        delivered = bool(response.runs)
        record = MessageRecord(b"" if delivered else payload, expires, unit.now_us, delivered=delivered)
        clear_large(unit.tr, kept_key, len(known or b""))  # of the same id, its time over and not swept yet
        set_record(unit.tr, kept_key, pack(record))
        unit.tr.set(keys.expiry(expires, "message", ns, name, key, message_id), b"")
        response.kept = not response.runs
    return response


async def _reached(unit: Unit, ns: str, subscription: bytes, name: str, payload: bytes, *, later: bool) -> bool:
    """Give a message to one wait, or leave that to the next transactions if this one is large. Whether it is open."""
    *_, run_id, wait_id = map(str, keys.unpack(subscription))
    signal = Signal(name=name, payload=payload, wait_id=wait_id)
    if later or unit.run_bytes > FOLLOW_UPS_BYTES:
        unit.put_off(ns, run_id, signal)
        return True
    try:
        await unit.give(ns, run_id, signal)
    except (Rejection, EngineError) as refused:
        if refused.reason not in ("RUN_CLOSED", "RUN_NOT_FOUND", "WAIT_NOT_OPEN"):
            raise  # the content does not fit: its sender must know
        unit.tr.clear(subscription)  # the wait is gone: so is its subscription
        return False
    return True
