"""Starting runs: idempotency, id conflicts, input checks, and the Start command, all in the one transaction that
creates the run.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from windlass.engine import keys
from windlass.engine.core import commands as cmd
from windlass.engine.core import units
from windlass.engine.core.definition import Definition
from windlass.engine.core.limits import name_flaw
from windlass.engine.core.starting import started as started_run
from windlass.engine.core.state import CLOSED, RunState
from windlass.engine.eager import FirstTask
from windlass.engine.errors import EngineError
from windlass.engine.records import get_large, pack, unpack
from windlass.engine.requests import TTL_US, recall, remember
from windlass.engine.unit import Unit

_RUN_ID: Final = re.compile("[0-9a-f]{32}")


class OpenPolicy(enum.Enum):
    """What if a run with this workflow id is open."""

    FAIL = "fail"
    USE_EXISTING = "use_existing"
    TERMINATE_EXISTING = "terminate_existing"


class ClosedPolicy(enum.Enum):
    """What if the newest run with this workflow id is closed."""

    ALLOW = "allow"
    ALLOW_IF_FAILED = "allow_if_failed"
    REJECT = "reject"


class StartPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a start needs; ids and times are made before the transaction, because it may run more than once.

    `asked` is the whole request, with which a repeated request id must agree; a business key (`idempotency_key`) stands
    for what is started, and so only that is compared.
    """

    namespace: str
    workflow: str
    run_id: str
    input: bytes
    revision: str = ""
    workflow_id: str = ""
    request_id: str = ""
    idempotency_key: str = ""
    idempotency_ttl_us: int = 86_400_000_000
    open_policy: OpenPolicy = OpenPolicy.FAIL
    closed_policy: ClosedPolicy = ClosedPolicy.ALLOW
    queue: str = ""
    priority: int | None = None
    start_us: int = 0
    delay_us: int = 0  #: instead of `start_us`: from now, by the namespace's clock
    timeout_us: int | None = None
    timeout_from: str = "start"
    metadata: dict[str, str] = {}
    config: bytes = b"{}"
    validate_only: bool = False
    definition: Definition | None = None  #: given by StartTask and ForkRun, which know it already
    state: str = ""
    context: dict[str, bytes] | None = None
    forked_from: str = ""
    asked: bytes = b""
    paused: bool = False  #: before its first state
    eager: FirstTask | None = None  #: a worker that takes the first task with the answer

    def digest(self, key: str) -> bytes:
        """Hash of what was asked under this key, to tell a repeated request from a reused id."""
        if key == self.request_id and self.asked:
            return hashlib.sha256(self.asked).digest()
        asked = (self.workflow, self.revision, self.workflow_id, self.input, self.config, self.queue, self.state)
        return hashlib.sha256(msgspec.msgpack.encode(asked)).digest()


class Started(msgspec.Struct, frozen=True, array_like=True):
    """The answer to a start."""

    run_id: str
    workflow_id: str
    workflow: str
    revision: str
    created: bool


def check_name(value: str, field: str, *, required: bool = True) -> str:
    """A name from outside. Raises EngineError INVALID_FIELD if it is missing, too long, or holds control characters."""
    if problem := name_flaw(value) if value or not required else "is missing":
        raise EngineError("INVALID_FIELD", f"{field} {problem}", field=field)
    return value


def check_units(given: Mapping[str, int], field: str, most: int) -> dict[str, int]:
    """Units from outside. Raises EngineError INVALID_FIELD for a name or an amount that cannot be."""
    if len(given) > most:
        raise EngineError("INVALID_FIELD", f"{field}: at most {most} different units", field=field)
    for name, amount in given.items():
        if flaw := units.flaw(name, amount):
            raise EngineError("INVALID_FIELD", f"{field}: {name[:60]!r} {flaw}", field=field)
    return dict(given)


def check_priority(priority: int) -> int:
    """Raises EngineError INVALID_FIELD unless it is from 0 to 9."""
    if not 0 <= priority <= 9:
        raise EngineError("INVALID_FIELD", "priority must be from 0 to 9", field="priority")
    return priority


async def start(unit: Unit, plan: StartPlan) -> Started:
    """Start a run in this unit, or find the one that an earlier, equal request started.

    Raises EngineError WORKFLOW_NOT_REGISTERED, REVISION_NOT_FOUND, INPUT_SCHEMA_MISMATCH, INVALID_JSON,
    RUN_ALREADY_STARTED, REQUEST_ID_REUSED, NAMESPACE_NOT_FOUND, BACKLOG_FULL, RATE_LIMITED, and Rejection.
    """
    tr, ns = unit.tr, plan.namespace
    if plan.request_id or plan.idempotency_key or unit.tr.maybe_committed:
        earlier = await _earlier(unit, plan)
        if earlier is not None:
            return earlier
    definition = plan.definition or await unit.transition.definitions.resolve(tr, ns, plan.workflow, plan.revision)
    if plan.context is None:
        unit.transition.definitions.check_input(definition, plan.input)
    if plan.config != b"{}":
        unit.transition.definitions.check_config(definition, plan.config)
    if plan.workflow_id:
        existing = await _conflict(unit, plan)
        if existing is not None:
            if not plan.validate_only:
                _remember(unit, plan, existing)  # repeated when that run is closed, it must not start another
            return existing
    if plan.validate_only:
        started_run(definition, await _command(unit, plan), unit.now_us)
        return Started("", plan.workflow_id, definition.name, definition.revision, False)
    started = Started(plan.run_id, plan.workflow_id or plan.run_id, definition.name, definition.revision, True)
    await _create(unit, plan, definition)
    _remember(unit, plan, started)
    return started


async def _earlier(unit: Unit, plan: StartPlan) -> Started | None:
    """What an equal request did before: by request id, by idempotency key, or by this very transaction if it had
    landed.
    """
    for key in _request_keys(plan):
        found = await recall(unit, plan.namespace, key, "StartRun", plan.digest(key))
        if found is not None:
            started = unpack(Started, found)  # by this very call, if its commit landed and it is tried again
            return msgspec.structs.replace(started, created=started.created and started.run_id == plan.run_id)
    if unit.tr.maybe_committed:
        value = await get_large(unit.tr, keys.run(plan.namespace, plan.run_id))
        if value is not None:
            state = unpack(RunState, value)
            return Started(state.run_id, state.workflow_id, state.workflow, state.revision, True)
    return None


def _request_keys(plan: StartPlan) -> list[str]:
    keys_of = [plan.request_id] if plan.request_id else []
    if plan.idempotency_key:
        keys_of.append(f"start:{plan.workflow}:{plan.idempotency_key}")
    return keys_of


def _remember(unit: Unit, plan: StartPlan, started: Started) -> None:
    for key in _request_keys(plan):
        ttl = plan.idempotency_ttl_us if key != plan.request_id else TTL_US
        answer = pack(started)
        remember(unit, plan.namespace, key, "StartRun", plan.digest(key), answer, ttl_us=ttl, run_id=started.run_id)


async def _conflict(unit: Unit, plan: StartPlan) -> Started | None:
    """Apply the two policies to the newest run with this workflow id; the run to answer with, if no new one is made."""
    value = await unit.tr.get(keys.workflow_id(plan.namespace, plan.workflow_id))
    if value is None:
        return await _unnamed_conflict(unit, plan) if _RUN_ID.fullmatch(plan.workflow_id) else None
    state = await unit.peek(plan.namespace, value.decode())
    if state is None:
        return None  # deleted
    return await _settled(unit, plan, state)


async def _unnamed_conflict(unit: Unit, plan: StartPlan) -> Started | None:
    """A run that was started without a workflow id has its run id for one."""
    state = await unit.peek(plan.namespace, plan.workflow_id)
    return await _settled(unit, plan, state) if state is not None and state.workflow_id == state.run_id else None


async def _settled(unit: Unit, plan: StartPlan, state: RunState) -> Started | None:
    if state.status not in CLOSED:
        return await _open_conflict(unit, plan, state)
    reusable = plan.closed_policy is ClosedPolicy.ALLOW or (
        plan.closed_policy is ClosedPolicy.ALLOW_IF_FAILED and state.status != "completed"
    )
    if not reusable:
        raise _already(plan, state)
    return None


async def _open_conflict(unit: Unit, plan: StartPlan, state: RunState) -> Started | None:
    if plan.open_policy is OpenPolicy.USE_EXISTING:
        return Started(state.run_id, state.workflow_id, state.workflow, state.revision, False)
    if plan.open_policy is OpenPolicy.FAIL:
        raise _already(plan, state)
    if not plan.validate_only:
        reason = f"replaced by run {plan.run_id}"
        await unit.give(plan.namespace, state.run_id, cmd.Terminate(reason=reason, source="system"))
    return None


def _already(plan: StartPlan, state: RunState) -> EngineError:
    return EngineError(
        "RUN_ALREADY_STARTED",
        f"workflow id {plan.workflow_id!r} belongs to run {state.run_id}, which is {state.status}",
        workflow_id=plan.workflow_id,
        run_id=state.run_id,
        state=state.status,
    )


async def _create(unit: Unit, plan: StartPlan, definition: Definition) -> None:
    ns = plan.namespace
    unit.transition.quotas.admit(ns, plan.queue or definition.queue, plan.run_id)
    command = await _command(unit, plan)
    unit.eager = plan.eager
    await unit.apply(unit.create(ns, plan.run_id, definition), command)
    if plan.workflow_id:
        unit.tr.set(keys.workflow_id(ns, plan.workflow_id), plan.run_id.encode())


async def _command(unit: Unit, plan: StartPlan) -> cmd.Start:
    ns = plan.namespace
    virtual, now_us = False, unit.now_us
    if ns != "default":
        record = await unit.transition.definitions.namespace(unit.tr, ns)
        virtual, now_us = record.virtual_time, record.virtual_now_us if record.virtual_time else now_us
    return cmd.Start(
        run_id=plan.run_id,
        namespace=ns,
        workflow_id=plan.workflow_id or plan.run_id,
        input=plan.input,
        queue=plan.queue,
        priority=plan.priority,
        config=plan.config,
        metadata=plan.metadata,
        start_us=now_us + plan.delay_us if plan.delay_us else plan.start_us,
        timeout_us=plan.timeout_us,
        timeout_from=plan.timeout_from,
        state=plan.state,
        context=plan.context,
        forked_from=plan.forked_from,
        virtual_time=virtual,
        paused=plan.paused,
        retry=unit.transition.quotas.retry_of(ns),
    )
