"""What clients asked and what they were told, with the times: the material of the linearizability check."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Operation:
    """One call as its caller saw it, all its repetitions with the same request id included."""

    kind: str  #: start, signal, cancel, terminate, get, …
    workflow_id: str
    detail: str = ""
    called_s: float = 0.0
    answered_s: float = float("inf")
    outcome: str = "unknown"  #: ok, a refusal's reason, or unknown: it may have been carried out
    run_id: str = ""
    value: str = ""  #: what it read, for get: the run's status

    def __str__(self) -> str:
        return f"{self.kind} {self.workflow_id} {self.detail} -> {self.outcome} {self.value}"


@dataclass
class Record:
    """Everything the clients did."""

    operations: list[Operation] = field(default_factory=list)

    def of(self, workflow_id: str) -> list[Operation]:
        return [operation for operation in self.operations if operation.workflow_id == workflow_id]

    def accepted_signals(self) -> list[Operation]:
        return [operation for operation in self.operations if operation.kind == "signal"]
