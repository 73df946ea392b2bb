"""Tasks that must not run twice, held against what was run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from windlass.engine.core import events as e
from windlass.engine.core import evolve
from windlass.engine.core.branches import branch_at, task_of
from windlass.engine.core.definition import Definition
from windlass.engine.core.state import RunState
from windlass.engine.core.tree import ItemTable

#: A task of a run: visit, path.
Place = tuple[int, str]


def ran_again(
    run_id: str, definition: Definition, events: Sequence[e.AnyEvent], executed: Mapping[str, int]
) -> Iterator[str]:
    """At-most-once tasks that were begun more often than people and the task itself asked for."""
    tasks, again = _asked(definition, events)
    for visit, path in sorted(tasks):
        most = 1 + sum(count for (at, above), count in again.items() if at == visit and path.startswith(above))
        if (count := executed.get(f"{run_id}:{visit}:{path}", 0)) > most:
            yield f"run {run_id}: the at-most-once task {path!r} of visit {visit} was begun {count} times, not {most}"


def _asked(definition: Definition, events: Sequence[e.AnyEvent]) -> tuple[set[Place], Counter[Place]]:
    """The at-most-once tasks that were leased, and where something was run again on purpose, how often."""
    tasks: set[Place] = set()
    again: Counter[Place] = Counter()
    incidents: dict[str, Place] = {}
    state: RunState | None = None
    items = ItemTable()
    for event in events:
        if state is not None and isinstance(event, e.IncidentOpened):
            incidents[event.incident.incident_id] = state.visit, event.incident.path
        if isinstance(event, e.IncidentResolved) and event.incident_id in incidents:
            again[incidents[event.incident_id]] += 1
        if state is not None and isinstance(event, e.TaskAsked):
            again[state.visit, event.path] += 1
        state = evolve.apply(state, items, event)
        if isinstance(event, e.AttemptStarted) and task_of(branch_at(definition, state, event.path)).at_most_once:
            tasks.add((state.visit, event.path))
    return tasks, again
