"""AdminService: what this engine is, namespaces, and virtual time."""

from __future__ import annotations

import bisect
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import msgspec

from windlass.engine import keys
from windlass.engine.core import limits
from windlass.engine.definitions import DEFAULT_NAMESPACE
from windlass.engine.engine import Engine
from windlass.engine.errors import EngineError
from windlass.engine.modules import MODULE_BYTES_MAX
from windlass.engine.reading import page_position, page_size, page_token
from windlass.engine.records import NamespaceRecord, pack, unpack
from windlass.engine.service import convert, namespaces
from windlass.engine.service.asking import Asked, once
from windlass.engine.service.definitions import RUNTIMES
from windlass.engine.service.status import rpc
from windlass.engine.starting import check_name
from windlass.engine.timers import due_us
from windlass.engine.unit import Unit
from windlass.storage.port import Counted, Row, Transaction
from windlass.v1 import admin_service_pb2 as pb
from windlass.v1 import admin_service_pb2_grpc

FEATURES: Final = ("stream_tasks", "stream_runs", "virtual_time", "publish_message", "fork", "explain")
#: Timers fired by one AdvanceTime before it answers with what is left.
FIRED_MAX: Final = 10_000
BATCH: Final = 100
#: Fields of a namespace that an update may change.
_CHANGEABLE: Final = ("display_name", "description", "retention", "limits", "default_retry")


def package_version() -> str:
    """The installed version of Windlass."""
    try:
        return version("windlass")
    except PackageNotFoundError:
        return "0"


def check_namespace_name(name: str) -> str:
    """Raises EngineError INVALID_FIELD."""
    if not re.fullmatch(r"[a-z0-9-]{1,63}", name):
        raise EngineError("INVALID_FIELD", "a namespace has 1 to 63 of a-z, 0-9 and -", field="namespace.name")
    return name


class AdminServicer(admin_service_pb2_grpc.AdminServiceServicer):
    """Handlers of AdminService."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @rpc
    async def GetSystemInfo(self, request: pb.GetSystemInfoRequest) -> pb.GetSystemInfoResponse:
        engine = self._engine
        return pb.GetSystemInfoResponse(
            version=package_version(),
            features=FEATURES,
            engine_id=engine.engine_id,
            storage=engine.options.storage_name,
            start_time=convert.timestamp(engine.started_us),
            current_time=convert.timestamp(engine.clock.now_us()),
            limits={
                "module_bytes": MODULE_BYTES_MAX,
                "context_bytes": limits.CONTEXT_BYTES_MAX,
                "map_open": limits.MAP_OPEN_MAX,
                "message_bytes": 4 << 20,
                "inbox_signals": limits.INBOX_MAX,
            },
            runtimes=RUNTIMES,
            counters=engine.storage.counts() if isinstance(engine.storage, Counted) else {},
        )

    @rpc
    async def CreateNamespace(self, request: pb.CreateNamespaceRequest) -> pb.CreateNamespaceResponse:
        wanted = request.namespace
        name = check_namespace_name(wanted.name)
        if name == "default" and wanted.virtual_time:
            raise EngineError("INVALID_FIELD", "the default namespace keeps real time", field="namespace.virtual_time")
        now = self._engine.clock.now_us()
        virtual_now = convert.time_us(wanted.current_time) if wanted.HasField("current_time") else now
        record = NamespaceRecord(
            name,
            now,
            wanted.description,
            convert.span_us(wanted.retention, "retention") if wanted.HasField("retention") else 0,
            wanted.virtual_time,
            virtual_now if wanted.virtual_time else 0,
            display_name=wanted.display_name,
            updated_us=now,
            retry=namespaces.retry_in(wanted),
            **namespaces.limits_in(wanted.limits),
        )

        async def work(unit: Unit) -> pb.CreateNamespaceResponse:
            known = await unit.tr.get(keys.namespace(name))
            if known != pack(record):  # else this very transaction had been committed already
                if known is not None:
                    raise EngineError("NAMESPACE_EXISTS", f"namespace {name!r} exists", namespace=name)
                unit.tr.set(keys.namespace(name), pack(record))
            return pb.CreateNamespaceResponse(namespace=self._out(record))

        asked = Asked(name, request.request_id, request)
        response = await once(self._engine, asked, pb.CreateNamespaceResponse, work)
        await self._engine.transition.quotas.refresh()
        return response

    @rpc
    async def GetNamespace(self, request: pb.GetNamespaceRequest) -> pb.GetNamespaceResponse:
        return pb.GetNamespaceResponse(namespace=self._out(await self._get(request.name or "default")))

    async def _get(self, name: str) -> NamespaceRecord:
        return await self._engine.storage.read(lambda tr: self._engine.definitions.namespace(tr, name))

    @rpc
    async def ListNamespaces(self, request: pb.ListNamespacesRequest) -> pb.ListNamespacesResponse:
        size, after = page_size(request.page_size), page_position(request.page_token)
        begin = keys.namespace(after) + b"\x00" if after else keys.namespace()

        async def body(tr: Transaction) -> list[Row]:
            return await tr.get_range(begin, keys.end(keys.namespace()), limit=size + 1)

        found = [unpack(NamespaceRecord, value) for _, value in await self._engine.storage.read(body)]
        if after < DEFAULT_NAMESPACE and all(each.name != DEFAULT_NAMESPACE for each in found):
            bisect.insort(
                found, NamespaceRecord(DEFAULT_NAMESPACE, 0), key=lambda each: each.name
            )  # it needs no record
        token = page_token(found[size - 1].name) if len(found) > size else ""
        return pb.ListNamespacesResponse(namespaces=[self._out(each) for each in found[:size]], next_page_token=token)

    @rpc
    async def UpdateNamespace(self, request: pb.UpdateNamespaceRequest) -> pb.UpdateNamespaceResponse:
        wanted = request.namespace
        name = check_name(wanted.name, "namespace.name")
        changes: dict[str, object] = {}
        for path in request.update_mask.paths or _CHANGEABLE:
            if path == "retention":
                changes["retention_us"] = convert.span_us(wanted.retention, "retention")
            elif path == "limits":
                changes |= namespaces.limits_in(wanted.limits)
            elif path == "default_retry":
                changes["retry"] = namespaces.retry_in(wanted)
            elif path in ("description", "display_name"):
                changes[path] = getattr(wanted, path)
            else:
                raise EngineError("INVALID_FIELD", f"{path!r} cannot be changed", field="update_mask")

        async def work(unit: Unit) -> pb.UpdateNamespaceResponse:
            record = await self._engine.definitions.namespace(unit.tr, name)
            if wanted.etag and wanted.etag != str(record.updated_us):
                raise EngineError("ETAG_MISMATCH", f"namespace {name!r} was changed meanwhile", namespace=name)
            record = msgspec.structs.replace(record, updated_us=self._engine.clock.now_us(), **changes)
            unit.tr.set(keys.namespace(name), pack(record))
            return pb.UpdateNamespaceResponse(namespace=self._out(record))

        asked = Asked(name, request.request_id, request)
        response = await once(self._engine, asked, pb.UpdateNamespaceResponse, work)
        await self._engine.transition.quotas.refresh()
        return response

    def _out(self, record: NamespaceRecord) -> pb.Namespace:
        now = record.virtual_now_us if record.virtual_time else self._engine.clock.now_us()
        message = pb.Namespace(
            name=record.name,
            display_name=record.display_name,
            description=record.description,
            retention=convert.duration(record.retention_us) if record.retention_us else None,
            virtual_time=record.virtual_time,
            current_time=convert.timestamp(now),
            create_time=convert.timestamp(record.created_us),
            update_time=convert.timestamp(record.updated_us),
            etag=str(record.updated_us),
        )
        namespaces.show(record, message)
        return message

    @rpc
    async def AdvanceTime(self, request: pb.AdvanceTimeRequest) -> pb.AdvanceTimeResponse:
        """Moves a namespace's virtual time from timer to timer, so that each fires at its own instant.

        A repeated request has the target of the first one: it finishes what that one began, and moves no further.
        """
        record = await self._get(request.namespace)
        if not record.virtual_time:
            raise EngineError("NOT_VIRTUAL_TIME", f"namespace {record.name!r} keeps real time", namespace=record.name)
        wanted = await self._target(request, record)

        async def remembered(unit: Unit) -> pb.AdvanceTimeResponse:
            if wanted < record.virtual_now_us:
                raise EngineError("TIME_IN_PAST", "virtual time does not go back", field="to")
            if wanted > limits.FOREVER_US:
                raise EngineError("INVALID_FIELD", "virtual time ends with the year 2099", field="target")
            return pb.AdvanceTimeResponse(current_time=convert.timestamp(wanted))

        asked = Asked(record.name, request.request_id, request)
        target = convert.time_us((await once(self._engine, asked, pb.AdvanceTimeResponse, remembered)).current_time)
        fired = 0
        while fired < FIRED_MAX:
            rows = [row for row in await self._due(record.name) if due_us(row) <= target]
            if not rows:
                await self._set_time(record.name, target)
                break
            now = max(due_us(rows[0]), record.virtual_now_us)
            await self._set_time(record.name, now)
            same = [row for row in rows if due_us(row) <= now]
            await self._engine.timers.fire(same)
            fired += len(same)
        now = (await self._get(record.name)).virtual_now_us
        return pb.AdvanceTimeResponse(current_time=convert.timestamp(now), fired=fired)

    async def _target(self, request: pb.AdvanceTimeRequest, record: NamespaceRecord) -> int:
        kind = request.WhichOneof("target")
        if kind == "by":
            return record.virtual_now_us + convert.span_us(request.by, "by")
        if kind == "to":
            return convert.time_us(request.to, "to")
        if kind is None:
            raise EngineError("INVALID_FIELD", "say how far: by, to or next_timer", field="target")
        rows = await self._due(record.name)
        return due_us(rows[0]) if rows else record.virtual_now_us

    async def _due(self, ns: str) -> list[Row]:
        head = keys.virtual_timers(ns)

        async def body(tr: Transaction) -> list[Row]:
            return await tr.get_range(head, keys.end(head), limit=BATCH)

        return await self._engine.storage.read(body)

    async def _set_time(self, ns: str, now: int) -> None:
        async def body(tr: Transaction) -> None:
            record = await self._engine.definitions.namespace(tr, ns)
            if now > record.virtual_now_us:
                tr.set(keys.namespace(ns), pack(msgspec.structs.replace(record, virtual_now_us=now)))

        await self._engine.storage.transact(body)

    @rpc
    async def RunMaintenance(self, request: pb.RunMaintenanceRequest) -> pb.RunMaintenanceResponse:
        self._engine.check_accepting()
        done, more = await self._engine.maintain()
        return pb.RunMaintenanceResponse(more=more, **done)
