"""Child runs: spawned by a step of the definition, or asked for by task code."""

from __future__ import annotations

import hashlib

from windlass.engine.core.branches import Extra, input_of
from windlass.engine.core.closing import close
from windlass.engine.core.commands import Cancel, ChildClosed, Failure, ParentRef, Spawn, Terminate
from windlass.engine.core.definition import Branch, SpawnBody
from windlass.engine.core.effects import StartChild, TellRun
from windlass.engine.core.selectors import render
from windlass.engine.core.state import Node
from windlass.engine.core.turn import Problem, Turn, evaluating


def child_run_id(turn: Turn, path: str, ordinal: int) -> str:
    """Time-ordered and stable: the same decision taken twice starts the same run."""
    seed = f"{turn.state.run_id}:{turn.state.visit}:{path}:{ordinal}:{turn.state.seq}"
    return f"{turn.now_us // 1000:012x}{hashlib.sha256(seed.encode()).hexdigest()[:20]}"


def open_spawn(turn: Turn, path: str, branch: Branch, body: SpawnBody, extra: Extra) -> Node:
    given = evaluating(lambda: input_of(branch, turn.state.context, extra))
    run_id = child_run_id(turn, path, 0)
    workflow_id = run_id
    if body.workflow_id is not None:
        template = body.workflow_id
        workflow_id = str(evaluating(lambda: render(template, turn.values(extra))))
        if not workflow_id:
            raise Problem("NOT_A_KEY", "the child's workflow id is empty")
    start(
        turn,
        path,
        run_id,
        body.workflow,
        body.revision,
        workflow_id,
        given,
        body.close_policy.value,
        body.detach,
        body.queue,
    )
    if body.detach:
        output = b'{"run_id":"' + run_id.encode() + b'"}'
        return Node("done", "spawn", opened_us=turn.now_us, outcome="success", output=output, child=run_id)
    return waiting_child(turn, run_id, body.close_policy.value)


def waiting_child(turn: Turn, run_id: str, policy: str) -> Node:
    return Node("waiting", "spawn", opened_us=turn.now_us, child=run_id, data=policy.encode())


def start(
    turn: Turn,
    path: str,
    run_id: str,
    workflow: str,
    revision: str,
    workflow_id: str,
    given: bytes,
    policy: str,
    detach: bool,
    queue: str = "",
) -> None:
    parent = ParentRef(turn.state.run_id, turn.state.visit, path, policy, detach)
    turn.spawned_bytes += len(given)
    turn.owe(
        StartChild(
            run_id=run_id,
            workflow=workflow,
            revision=revision,
            workflow_id=workflow_id,
            input=given,
            parent=parent,
            queue=queue,
        )
    )


def start_asked(turn: Turn, path: str, ordinal: int, ask: Spawn) -> Node:
    """A child that task code asked for; a detached one is a node that is done at once."""
    run_id = child_run_id(turn, path, ordinal)
    where = path if ask.detach else f"{path}/{ordinal}" if path else str(ordinal)
    workflow_id = ask.workflow_id or run_id
    start(turn, where, run_id, ask.workflow, "", workflow_id, ask.input, ask.close_policy, ask.detach)
    return waiting_child(turn, run_id, ask.close_policy)


def let_go(turn: Turn, node: Node, reason: str) -> None:
    """The parent no longer waits for this child: its close policy says what becomes of it."""
    policy = node.data.decode()
    if policy == "terminate":
        turn.owe(TellRun(run_id=node.child, command=Terminate(reason=reason, source="parent")))
    elif policy == "cancel":
        turn.owe(TellRun(run_id=node.child, command=Cancel(source="parent", reason=reason)))


def child_closed(turn: Turn, command: ChildClosed) -> None:
    """A child that the run no longer waits for changes nothing."""
    node = turn.live(command.visit, command.path)
    if node is None or node.phase != "waiting" or node.child != command.child_run_id:
        return
    if command.status == "completed":
        close(turn, command.path, "success", command.output or b"null")
        return
    failure = command.failure or Failure(
        f"CHILD_{command.status.upper()}",
        f"child run {command.child_run_id} ended as {command.status}",
        retryable=False,
    )
    close(turn, command.path, "failure", b"null", failure)
