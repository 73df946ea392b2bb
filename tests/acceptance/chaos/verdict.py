"""What must be true at the end: every promise kept, nothing recorded twice, and the store in order.

The verdict trusts no engine: it reads the store itself after all of them have stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from tests.acceptance.chaos.cluster import Cluster
from tests.acceptance.chaos.handlers import executions
from tests.acceptance.chaos.load import Accepted, Record
from tests.acceptance.chaos.workloads import DELAY_MS, ENDS
from windlass.engine import keys
from windlass.engine.checking import Scan, Tables, check_rows, scan_of
from windlass.engine.core.events import AnyEvent, AttemptStarted, TaskCompleted, decode_events
from windlass.engine.core.state import CLOSED, RunState
from windlass.engine.records import unpack
from windlass.storage.port import Row, Storage


async def judge(cluster: Cluster, record: Record, *, beside: str = "-") -> tuple[list[str], dict[str, int]]:
    """The problems found, and figures for the report. The cluster must have stopped.

    `beside`: runs whose names begin so are not the load's, and may be open.
    """
    storage = await cluster.store()
    try:
        scan = scan_of(await _rows(storage))
    finally:
        await storage.close()
    runs = {state.run_id: state for state in (unpack(RunState, e.value) for e in Tables(scan).entries("RUN", 2))}
    problems = check_rows(scan, settled=True)
    executed = executions(cluster.ledger)
    problems += [f"refused: {refusal}" for refusal in record.refusals]
    for run in record.runs:
        problems += [f"{run.kind} {run.run_id}: {problem}" for problem in _promise(run, runs.get(run.run_id))]
    ours = {run_id: state for run_id, state in runs.items() if not state.workflow_id.startswith(beside)}
    problems += _every_run(ours, record)
    problems += _stories(scan, [state for state in ours.values() if state.status not in CLOSED])
    problems += [each for state in runs.values() if state.workflow == "slow" for each in _signed(scan, state)]
    problems += _logs(cluster)
    return problems, {
        "accepted": len(record.runs),
        "signals": sum(run.signals for run in record.runs),
        "runs": len(runs),
        "events": sum(state.seq for state in runs.values()),
        "executions counted": sum(executed.values()),
        "executed again": sum(count - 1 for count in executed.values()),
        "parked and repaired": record.repaired,
        "calls repeated": record.repeated.total(),
        "connections cut": sum(way.cuts for way in cluster.ways.values()),
    }


async def _rows(storage: Storage) -> list[Row]:
    rows: list[Row] = []
    begin = b"\x01"
    while page := await storage.read(lambda tr, at=begin: tr.get_range(at, b"\xff", limit=2000, snapshot=True)):  # type: ignore[misc]
        rows += page
        begin = page[-1][0] + b"\0"
    return rows


def _promise(run: Accepted, state: RunState | None) -> Iterator[str]:
    """An accepted start is there, and has ended as it had to."""
    if state is None:
        yield "accepted, and lost"
        return
    status, output = ENDS[run.kind]
    if state.status != status:
        yield f"is {state.status}, should be {status}: {state.failure}"
    elif status == "completed" and msgspec.json.decode(state.output) != output:
        yield f"ended with {state.output!r}, should be {output}: a step was recorded twice or not at all"
    if run.result is None:
        yield "its end was never told"
    elif run.result.state != state.status:
        yield f"was told to be {run.result.state}, and is {state.status}"
    if run.kind == "timer" and state.closed_us - state.created_us < DELAY_MS * 1000:
        yield f"its timer fired early: {state.closed_us - state.created_us} us"


def _signed(scan: Scan, state: RunState) -> Iterator[str]:
    """What is recorded is the result of the worker that held the lease then, and of no other."""
    holder = ""
    for event in _events(scan, state):
        if isinstance(event, AttemptStarted):
            holder = event.worker
        elif isinstance(event, TaskCompleted) and msgspec.json.decode(event.output)["by"] != holder:
            yield f"run {state.run_id}: {holder} held the lease, and {event.output!r} was recorded"


def _every_run(runs: dict[str, RunState], record: Record) -> Iterator[str]:
    """Also runs whose start was never answered, and children: closed, and one for each name."""
    for state in runs.values():
        if state.status not in CLOSED:
            yield f"{state.workflow} {state.run_id} is still {state.status} in {state.state!r}"
        if state.parent is None and state.workflow_id not in record.asked:
            yield f"{state.run_id} has the name {state.workflow_id!r}, for which nobody asked"
    names = Counter(state.workflow_id for state in runs.values() if state.parent is None)
    yield from (f"{count} runs have the name {name}" for name, count in names.items() if count > 1)
    children = Counter(state.parent for state in runs.values() if state.parent is not None)
    yield from (f"{count} children of {parent}" for parent, count in children.items() if count > 1)


def _stories(scan: Scan, stuck: list[RunState]) -> Iterator[str]:
    """How the first runs that stand still came to where they are."""
    for state in stuck[:3]:
        last = _events(scan, state)[-12:]
        yield f"the last events of {state.run_id}:\n" + "\n".join(f"    {event}" for event in last)


def _events(scan: Scan, state: RunState) -> list[AnyEvent]:
    head = keys.events(state.namespace, state.run_id)
    tables = Tables(lambda begin, end: scan(begin, end) if begin == head else ())
    return [each for entry in tables.entries("EVENTS", 3, head) for each in decode_events(entry.value)]


def _logs(cluster: Cluster) -> Iterator[str]:
    """No program may have met something that its authors did not expect."""
    for name, said in cluster.logs().items():
        for sign in ("Traceback", "defect in a handler", "a turn failed", "never retrieved"):
            if (at := said.find(sign)) >= 0:
                yield f"{name} met the unexpected:\n{said[max(0, at - 200) : at + 1800]}"
