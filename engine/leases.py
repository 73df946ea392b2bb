"""Results, returns and heartbeats of leased tasks, whatever way they come in: stream, unary calls, simulation.

A token names one lease (run, visit, path, epoch); the epoch in the run's record decides whether a report still counts.
Reports are applied in batches: those of one run together, several runs in one transaction. A report that the batch
cannot digest is tried by itself, so that one bad report never takes its neighbours down, and one that still cannot be
recorded becomes a failure or an incident of its own run, never a loop.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from windlass.engine import keys
from windlass.engine.core import commands as cmd
from windlass.engine.core.decide import Rejection
from windlass.engine.errors import EngineError, store_failed
from windlass.engine.records import LeaseRecord, unpack
from windlass.engine.transition import Transition
from windlass.engine.unit import Unit
from windlass.engine.work import TaskKey

log = logging.getLogger(__name__)

#: Reports recorded in one transaction, on a store of one engine and on a shared one (a conflict repeats all of them).
BATCH_LOCAL: Final = 128
BATCH_SHARED: Final = 16

#: A token is shorter than the key of its lease, which adds the session (32 bytes) and must fit into 480 bytes.
TOKEN_BYTES_MAX: Final = 440

#: Why a checkpoint is not kept although its lease stands.
UNKEPT: Final = frozenset({"PAYLOAD_TOO_LARGE", "INVALID_JSON"})

Report = cmd.TaskSucceeded | cmd.TaskFailed | cmd.TaskReturned | cmd.TaskTimedOut | cmd.TaskHeartbeat | cmd.TaskExtended

_token_encode = msgspec.msgpack.Encoder().encode
_token_decode = msgspec.msgpack.Decoder(tuple[str, str, int, str, int]).decode


class Told(NamedTuple):
    """What became of a report: accepted, or refused with a reason."""

    accepted: bool
    error: EngineError | None = None

    @property
    def over(self) -> bool:
        """Whether the lease is gone, so that what it took of its worker is free."""
        return self.error is None or self.error.reason in ("LEASE_LOST", "RUN_CLOSED", "RUN_NOT_FOUND")


def token_of(task: TaskKey) -> bytes:
    """The opaque task token of a lease."""
    return _token_encode(task)


def parse_token(token: bytes) -> TaskKey:
    """Raises EngineError BAD_TASK_TOKEN for bytes that no engine made."""
    try:
        task = _token_decode(token)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise EngineError("BAD_TASK_TOKEN", "the task token was not made by this engine") from error
    if len(token) > TOKEN_BYTES_MAX or "\0" in task[0] + task[1] + task[3]:  # no key of the store can name such a task
        raise EngineError("BAD_TASK_TOKEN", "the task token was not made by this engine")
    return task


class Leases:
    """Records reports about leased tasks."""

    def __init__(self, transition: Transition) -> None:
        self._transition = transition
        self._most = BATCH_SHARED if transition.storage.shared else BATCH_LOCAL

    async def report(self, reports: Sequence[tuple[TaskKey, Report]]) -> list[Told]:
        """Record reports; one answer each, in order. Raises the storage's errors (then nothing was recorded)."""
        told: list[Told] = []
        for at in range(0, len(reports), self._most):
            told += await self._batch(reports[at : at + self._most])
        return told

    async def stands(self, session_id: str, task: TaskKey) -> bool:
        """Whether this lease is in the store: it may have ended through another engine."""
        ns, run_id, visit, path, epoch = task
        key = keys.lease_of(session_id, keys.of_run(ns, run_id), visit, path)
        value = await self._transition.storage.read(lambda tr: tr.get(key))
        return value is not None and unpack(LeaseRecord, value).epoch == epoch

    async def _batch(self, reports: Sequence[tuple[TaskKey, Report]]) -> list[Told]:
        async def work(unit: Unit) -> list[Told]:
            await unit.load_ahead((task[0], task[1]) for task, _ in reports)
            return [await self._give(unit, task, report) for task, report in reports]

        try:
            return await self._transition.run(work)
        except Exception as error:  # whatever it is, the neighbours in the batch must not suffer
            if store_failed(error, len(reports)):
                raise
            return await self._apart(reports, error)

    async def _apart(self, reports: Sequence[tuple[TaskKey, Report]], error: Exception) -> list[Told]:
        if len(reports) > 1:
            return [(await self._batch([each]))[0] for each in reports]
        task, report = reports[0]
        code = error.reason if isinstance(error, EngineError) else "RESULT_NOT_RECORDED"
        log.error("report %s on %s could not be recorded", type(report).__name__, task, exc_info=error)
        return [await self._park(task, code, f"the engine could not record the task's result: {error}")]

    async def _park(self, task: TaskKey, code: str, message: str) -> Told:
        """A report that cannot be digested: fail the attempt for good, or, if even that fails, park the run visibly."""
        ns, run_id, visit, path, epoch = task
        failed = cmd.TaskFailed(
            path=path, visit=visit, epoch=epoch, failure=cmd.Failure(code, message, retryable=False)
        )
        for command in (failed, cmd.RaiseIncident(code=code, message=message)):
            try:
                await self._transition.give(ns, run_id, command)
            except (Rejection, EngineError) as refused:
                if refused.reason == "ALREADY_RECORDED":  # by a commit whose answer was lost
                    return Told(True)
                return Told(False, refusal(refused))
            except Exception as error:
                if store_failed(error):
                    raise
                log.exception("run %s cannot take %s", run_id, type(command).__name__)
            else:
                return Told(True)
        return Told(False, EngineError("INTERNAL", message, run_id=run_id))

    async def _give(self, unit: Unit, task: TaskKey, report: Report) -> Told:
        try:
            await unit.give(task[0], task[1], report)
        except Rejection as refused:
            if refused.reason == "ALREADY_RECORDED":
                return Told(True)
            if isinstance(report, cmd.TaskHeartbeat) and refused.reason in UNKEPT:
                await unit.give(task[0], task[1], _spoilt(report, refused))
            return Told(False, refusal(refused))
        except EngineError as error:
            if error.reason == "RUN_NOT_FOUND":
                return Told(False, EngineError("LEASE_LOST", f"run {task[1]} is gone", run_id=task[1]))
            raise
        return Told(True)


def _spoilt(beat: cmd.TaskHeartbeat, why: Rejection) -> cmd.TaskFailed:
    """Whoever is refused a heartbeat stops the task: so the attempt has failed, or nobody would ever end it."""
    failure = cmd.Failure("INVALID_ASK", str(why), retryable=False)
    return cmd.TaskFailed(path=beat.path, visit=beat.visit, epoch=beat.epoch, failure=failure)


def refusal(error: Rejection | EngineError) -> EngineError:
    """A refusal of the core as one for the caller."""
    return error if isinstance(error, EngineError) else EngineError(error.reason, str(error), metadata=error.metadata)
