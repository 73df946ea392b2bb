"""Random definitions, as an author would write them, and the fixed ones that they spawn."""

from __future__ import annotations

from random import Random
from typing import Any, Final

from windlass.definition.compile import Compiled, compile_document
from windlass.definition.problems import DefinitionError
from windlass.definition.source import from_value

Document = dict[str, Any]

#: The child of every spawn: one task, sometimes a wait before it.
LEAF: Final[Document] = {
    "workflow": "leaf",
    "initial": "work",
    "states": {
        "work": {
            "task": {"runtime": "python", "handler": "work"},
            "retry": {"max_attempts": 2, "initial_delay": "1s"},
            "transitions": [{"on": "success", "to": "rest"}, {"on": "failure", "to": "rest"}],
        },
        "rest": {"delay": "3s"},
    },
}

#: What tasks need: every worker of a simulation offers at least as much (worker_host.py).
NEEDS: Final[tuple[Document, ...]] = ({"gpu": 1}, {"gpu": 2}, {"memory": 3}, {"gpu": 1, "memory": 2})

_TASK: Final[Document] = {
    "task": {"runtime": "javascript", "code": "input.n"},
    "retry": {"max_attempts": 0, "initial_delay": "200ms", "max_delay": "5s"},
}


def _needing(needs: Document) -> Document:
    return {**_TASK, "task": {**_TASK["task"], "needs": needs}}


#: Steps one after the other, then side by side: work enough that every fault finds some of it in flight.
CHAIN: Final[Document] = {
    "workflow": "chain",
    "initial": "t0",
    "states": {
        **{
            f"t{n}": {
                **(_needing({"gpu": 2}) if n == 3 else _TASK),
                "transitions": [{"on": "success", "to": f"t{n + 1}" if n < 5 else "fan"}],
            }
            for n in range(6)
        },
        "fan": {"map": {"items": {"static": [1, 2, 3, 4, 5, 6]}, "concurrency": 3, **_needing({"gpu": 1})}},
    },
}


class Author:
    """Writes definitions by chance. `span_s`: how long its longest delays and timeouts are."""

    def __init__(self, random: Random, span_s: float) -> None:
        self.random, self.span_s = random, span_s
        self.units = Random(hash(random.getstate()[1]))  # of its own: what is written else stays as it is for a seed

    def write(self, name: str) -> Compiled:
        """A definition that compiles; what does not is thrown away."""
        while True:
            try:
                return compile_document(from_value(self.document(name)))
            except DefinitionError:
                continue

    def some(self, probability: float) -> bool:
        return self.random.random() < probability

    def span(self) -> str:
        """A duration: mostly short, sometimes as long as it gets."""
        longest = self.span_s if self.some(0.4) else min(20.0, self.span_s)
        shortest = self.span_s / 200  # a circle of short delays would be all that a long simulation is about
        return f"{max(1, int(shortest), int(self.random.uniform(0, longest)))}s"

    def document(self, name: str) -> Document:
        names = [f"s{number}" for number in range(self.random.randint(1, 4))]
        if self.some(0.3):
            names.append("poll")
        document: Document = {
            "workflow": name,
            "initial": names[0],
            "states": {each: self.state(names) for each in names},
            "retry": {
                "max_attempts": self.random.randint(1, 4),
                "initial_delay": self.random.choice(["100ms", "2s", self.span()]),
                "max_delay": f"{int(self.span_s) + 20}s",
            },
            "on_unhandled": self.random.choice(["fail", "fail", "incident"]),
        }
        document["states"]["end"] = {"outcome": self.random.choice(["success", "failure"])}
        if self.some(0.3):
            document["timeout"] = f"{int(self.span_s * 3) + 5}s"
            if self.some(0.4):
                document["on_timeout"] = "end"
        if self.some(0.3):
            document["catch"] = [{"codes": ["BOOM"], "to": "end", "compensate": self.some(0.5)}]
        return document

    def state(self, names: list[str]) -> Document:
        state = self.step(2)
        state["enter"] = self.actions()
        state["exit"] = self.actions()
        outcomes = ["success", "failure", "timeout", "approved", "rejected", "event:b"]
        targets = [*names, "end", "end", None]
        state["transitions"] = [
            {"on": outcome, "to": self.random.choice(targets)} for outcome in self.random.sample(outcomes, 4)
        ]
        if "task" in state and self.some(0.4):
            state["routes"] = {"aside": "taken by chance"}
            state["transitions"].insert(0, {"on": "route:aside", "to": "end"})
        if self.some(0.3):
            state["transitions"].insert(0, {"on": "success", "when": "n > 2", "to": "end"})
        if self.some(0.5):
            state["transitions"].append({"to": self.random.choice(["end", None])})
        if self.some(0.2):
            state["compensate"] = {"task": {"runtime": "python", "handler": "work"}}
        return state

    def actions(self) -> list[Document]:
        kinds: list[Document] = [
            {"set": {"n": 1}},
            {"log": "at ${n}"},
            {"emit": "happened"},
            {"task": {"runtime": "python", "handler": "work"}, "retry": "none"},
        ]
        return [self.random.choice(kinds) for _ in range(self.random.choice([0, 0, 0, 0, 1, 2]))]

    def step(self, depth: int) -> Document:
        kinds = [self.task] * 5 + [self.delay, self.wait, self.poll, self.spawn, self.escalate]
        if depth:
            kinds += [lambda: self.parallel(depth), lambda: self.map(depth)]
        step = self.random.choice(kinds)()
        if self.some(0.3):
            step["output"] = self.random.choice(["n", "x"])
        if "task" in step and self.some(0.3):
            step["input"] = "full"
        return step

    def task(self) -> Document:
        step: Document = {"task": self.work()}
        if self.some(0.3):
            step["timeouts"] = {
                self.random.choice(["schedule_to_start", "schedule_to_close", "start_to_close"]): self.span()
            }
        if self.some(0.1):
            step["task"]["at_most_once"] = True
        return step

    def work(self) -> Document:
        needs = {"needs": self.units.choice(NEEDS)} if self.units.random() < 0.4 else {}
        if self.some(0.5):
            return {"runtime": "python", "handler": "work", **needs}
        return {"runtime": "javascript", "code": f"input.n + {self.random.randint(0, 2)}", **needs}

    def delay(self) -> Document:
        return {"delay": self.span()}

    def wait(self) -> Document:
        signals = self.random.choice([["a"], ["a", "c"]])
        return {"wait": {"signals": signals, "mode": self.random.choice(["all", "any"])}, "timeout": self.span()}

    def poll(self) -> Document:
        return {"poll": {"task": self.work(), "interval": self.span(), "max_checks": self.random.choice([0, 4])}}

    def spawn(self) -> Document:
        policy = self.random.choice(["terminate", "abandon", "cancel"])
        # Detached children are asked for by tasks: a state that waits for nothing would start them by the thousand.
        return {"spawn": {"workflow": "leaf", "close_policy": policy}}

    def escalate(self) -> Document:
        step: Document = {"escalate": {"to": "someone", "message": "well?"}}
        if self.some(0.7):
            step["timeout"] = self.span()
        return step

    def parallel(self, depth: int) -> Document:
        branches = {name: self.step(depth - 1) for name in ("p", "q", "r")[: self.random.randint(1, 3)]}
        join = self.random.choice(["all", "any", "first_success", {"quorum": 1}])
        return {"parallel": {"branches": branches, "join": join}}

    def map(self, depth: int) -> Document:
        items = {"static": list(range(self.random.randint(0, 5)))}
        more = {"concurrency": self.random.randint(0, 2), "tolerated_failures": self.random.randint(0, 3)}
        return {"map": {"items": items, **more, **self.step(depth - 1)}}
