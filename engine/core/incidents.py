"""Incidents: the run is parked, visibly, until someone repairs it (`ResolveIncident`)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from windlass.engine.core.commands import Failure
from windlass.engine.core.effects import AppendOutbox, OpenIncident
from windlass.engine.core.events import IncidentOpened
from windlass.engine.core.state import Incident
from windlass.engine.core.turn import Problem, Turn


def open_incident(turn: Turn, path: str, kind: str, failure: Failure) -> None:
    incident_id = f"{turn.state.run_id}:{turn.state.seq + 1}"
    incident = Incident(incident_id, path, kind, failure.code, failure.message, turn.now_us)
    turn.apply(IncidentOpened(turn.now_us, incident, failure))
    turn.owe(OpenIncident(incident_id=incident_id, code=failure.code, message=failure.message))
    row = {"incident_id": incident_id, "path": path, "code": failure.code, "message": failure.message}
    turn.owe(AppendOutbox(name="incident.opened", payload=msgspec.json.encode(row)))


def from_problem(turn: Turn, path: str, kind: str, problem: Problem) -> None:
    open_incident(turn, path, kind, Failure(problem.code, str(problem), retryable=False))


def later(turn: Turn, path: str, kind: str, problem: Problem) -> Callable[[], None]:
    """The same once the node is part of the state."""
    return lambda: from_problem(turn, path, kind, problem)


def blocking(turn: Turn) -> bool:
    """True if the run as a whole may not go on: an incident that belongs to no open leaf."""
    return any(incident.kind not in ("open", "lease", "items") for incident in turn.state.incidents)
