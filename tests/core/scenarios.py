"""Scenarios: a definition, commands, and what each of them brings about. A reader learns the semantics from
`scenarios/*.txt`.

A file has a definition in YAML, a line of ====, and blocks: commands, ----, the expected trace, an empty line. Lines
with # in front are for the reader. After a change of meaning: `python -m tests.core.scenarios --rewrite`, and read
the diff; commit it only if you can say why every line of it changed.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable, Iterator

import msgspec

from tests.core.trace import Trace
from tests.core.world import NOW, SECOND, World
from windlass.definition.compile import compile_document
from windlass.definition.source import loads
from windlass.engine.core import commands as c
from windlass.engine.core.clock import time_us
from windlass.engine.core.decide import Decision, Rejection
from windlass.engine.core.definition import Definition
from windlass.engine.core.explain import explain

FOLDER = pathlib.Path(__file__).parent / "scenarios"


class Player:
    """Plays the commands of one scenario."""

    def __init__(self, definition: Definition) -> None:
        self.world = World(definition)
        self.trace = Trace(NOW)
        self.seen: list[str] = []
        self.world.watch = self._saw

    def _saw(self, decision: Decision) -> None:
        self.seen += self.trace.decision(decision)

    def play(self, line: str) -> list[str]:
        """The trace of one command. `name@path` aims at a node."""
        name, _, rest = line.partition(" ")
        name, _, path = name.partition("@")
        self.seen = []
        try:
            _COMMANDS[name](self, path, rest.strip())
        except Rejection as refused:
            return [f"refused: {refused.reason}: {refused}"]
        return [*self.seen, self.trace.stand(self.world.state)]

    def start(self, path: str, rest: str) -> None:
        self.world.start(msgspec.json.decode(rest or "{}"))

    def start_paused(self, path: str, rest: str) -> None:
        self.world.start(msgspec.json.decode(rest or "{}"), paused=True)

    def step(self, path: str, rest: str) -> None:
        self.world.do(c.Step())

    def lease(self, path: str, rest: str) -> None:
        activation = self.world.lease(path)
        given = f"input {activation.input.decode()}, attempt {activation.attempt}, epoch {activation.epoch}"
        self.seen.append(f"  the worker gets {given}, idempotency key {activation.idempotency_key}")

    def succeed(self, path: str, rest: str) -> None:
        self.world.report(path, output=rest.encode() or b"null")

    def ask(self, path: str, rest: str) -> None:
        """JSON: `suspend` and `escalate` are JSON values, `spawn` names workflows, the rest as in `Asks`."""
        given = msgspec.json.decode(rest, type=dict[str, msgspec.Raw])
        fields = {name: bytes(given.pop(name)) for name in ("suspend", "escalate") if name in given}
        names = msgspec.json.decode(given.pop("spawn", msgspec.Raw(b"[]")), type=list[str])
        spawns = tuple(c.Spawn(workflow=name) for name in names)
        others = msgspec.convert({k: msgspec.json.decode(v) for k, v in given.items()}, c.Asks)
        self.world.report(path, asks=msgspec.structs.replace(others, spawn=spawns, **fields))

    def fail(self, path: str, rest: str) -> None:
        code, _, message = rest.partition(" ")
        self._give(c.TaskFailed, path, failure=c.Failure(code, message))

    def timeout(self, path: str, rest: str) -> None:
        self._give(c.TaskTimedOut, path, kind=rest)

    def crash(self, path: str, rest: str) -> None:
        self._give(c.TaskReturned, path, crashed=True, reason="killed")

    def drain(self, path: str, rest: str) -> None:
        self._give(c.TaskReturned, path, crashed=False)

    def stale(self, path: str, rest: str) -> None:
        """The report of an earlier attempt."""
        state = self.world.state
        visit, epoch = state.visit, (self.world.node(path).epoch if state.node is not None else state.last[2]) - 1
        self.world.do(c.TaskSucceeded(path=path, visit=visit, epoch=epoch, output=b"1"))

    def _give(self, command: Callable[..., c.Command], path: str, **more: object) -> None:
        self.world.do(command(path=path, visit=self.world.state.visit, epoch=self.world.node(path).epoch, **more))

    def signal(self, path: str, rest: str) -> None:
        name, _, payload = rest.partition(" ")
        self.world.do(c.Signal(name=name, payload=payload.encode() or b"null"))

    def resolve_wait(self, path: str, rest: str) -> None:
        self.world.do(c.ResolveWait(wait_id=f"{self.world.state.visit}:{path}", payload=rest.encode()))

    def wait(self, path: str, rest: str) -> None:
        until = time_us(rest, self.world.now)
        assert until is not None, rest
        self.world.pass_time((until - self.world.now) / SECOND)

    def approve(self, path: str, rest: str) -> None:
        self._reply(path, rest, True)

    def reject(self, path: str, rest: str) -> None:
        self._reply(path, rest, False)

    def _reply(self, path: str, rest: str, approved: bool) -> None:
        key = f"{self.world.state.run_id}:{self.world.state.visit}:{path}"
        self.world.do(c.ReplyEscalation(escalation_id=key, approved=approved, values=rest.encode() or b"{}", by="ann"))

    def child(self, path: str, rest: str) -> None:
        status, _, output = rest.partition(" ")
        node = self.world.node(path)
        visit = self.world.state.visit
        self.world.do(
            c.ChildClosed(visit=visit, path=path, child_run_id=node.child, status=status, output=output.encode())
        )

    def pause(self, path: str, rest: str) -> None:
        self.world.do(c.Pause(reason=rest))

    def unpause(self, path: str, rest: str) -> None:
        self.world.do(c.Unpause())

    def cancel(self, path: str, rest: str) -> None:
        self.world.do(c.Cancel(source="user", reason=rest))

    def terminate(self, path: str, rest: str) -> None:
        self.world.do(c.Terminate(reason=rest))

    def update(self, path: str, rest: str) -> None:
        name, _, given = rest.partition(" ")
        self.world.do(c.ApplyUpdate(name=name, input=given.encode()))
        self.seen.append(f"  replies {self.world.decision.reply.decode()}")

    def resolve(self, path: str, rest: str) -> None:
        action, _, edit = rest.partition(" ")
        values = msgspec.json.decode(edit or "{}", type=dict[str, msgspec.Raw])
        self.world.do(
            c.ResolveIncident(
                incident_id=self.world.state.incidents[0].incident_id,
                action=action,
                set={name: bytes(value) for name, value in values.items()},
            )
        )

    def explain(self, path: str, rest: str) -> None:
        world = self.world
        for reason in explain(world.state, world.items, world.now, world.definition):
            due = f", until {self.trace.time(reason.due_us)}" if reason.due_us else ""
            self.seen.append(f"  {reason.kind} {reason.path!r}: {reason.what}{due}")


_COMMANDS: dict[str, Callable[[Player, str, str], None]] = {
    name.replace("_", "-"): method
    for name, method in vars(Player).items()
    if not name.startswith("_") and callable(method) and name != "play"
}


def play(text: str) -> Iterator[str]:
    """The scenario again, with the traces as they are now."""
    head, _, body = text.partition("====\n")
    player = Player(compile_document(loads(head)).definition)
    yield head + "====\n"
    expected = False
    for line in body.splitlines():
        if line == "----":
            expected = True
        elif line == "":
            yield "\n"
            expected = False
        elif line.startswith("#"):
            yield line + "\n"
        elif not expected:
            yield "\n".join([line, "----", *player.play(line), ""])


def main() -> None:
    """Compare, or with --rewrite write anew."""
    for file in sorted(FOLDER.glob("*.txt")):
        text = file.read_text()
        now = "".join(play(text))
        if now != text and "--rewrite" in sys.argv:
            file.write_text(now)
        print("same" if now == text else "changed", file.name)


if __name__ == "__main__":
    main()
