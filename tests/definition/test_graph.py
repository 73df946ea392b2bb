"""Pictures of a definition."""

from __future__ import annotations

from pathlib import Path

from windlass.definition.compile import compile_document, read_canonical
from windlass.definition.graph import FORMATS, dot, mermaid, ordered, text
from windlass.definition.source import load, loads

SMALL = r"""
workflow: "orders"
initial: check
timeout: 1d
on_timeout: late
catch: [{codes: [GONE], to: late}]
scopes: {paying: {catch: [{to: undo}]}}
states:
  check:
    task: {runtime: python, handler: check}
    routes: {review: "A \"person\" looks"}
    transitions:
      - {on: "route:review", to: ask}
      - {on: success, when: "result.ok &&\n true", to: pay}
      - {on: success, to: null}
  ask: {escalate: {to: ann, message: ok?}, transitions: [{on: approved, to: pay}]}
  pay: {scope: paying, wait: paid, next: done}
  undo: {outcome: failure}
  done: {}
  late: {outcome: failure}
"""


def test_text() -> None:
    model = read_canonical(compile_document(loads(SMALL)).document)
    assert (
        text(model)
        == """\
▶ check  [task check]
  ├─ route:review – A "person" looks ─▶ ask
  ├─ success if result.ok && true ─▶ pay
  └─ success ─▶ (end)
● ask  [escalate]
  └─ approved ─▶ pay
● pay  [wait paid]
  ├─ success ─▶ done
  └╌ catch any failure (paying) ─▶ undo
■ done  ends the run
■ undo  ends the run as failed
■ late  ends the run as failed
(any state) ╌ catch GONE ─▶ late
(any state) ╌ the run's timeout ─▶ late
"""
    )


def test_mermaid() -> None:
    model = read_canonical(compile_document(loads(SMALL)).document)
    lines = mermaid(model).splitlines()
    assert lines[:4] == [
        "stateDiagram-v2",
        '    state "check (task check)" as s0',
        '    state "ask (escalate)" as s1',
        '    state "pay (wait paid)" as s2',
    ]
    assert "    s0 --> s1: route#58;review – A #34;person#34; looks" in lines
    assert "    s0 --> [*]: success" in lines
    assert "    any --> s5: catch GONE" in lines
    assert "    s3 --> [*]" in lines


def test_dot_quotes_what_it_must() -> None:
    model = read_canonical(compile_document(loads(SMALL)).document)
    drawn = dot(model)
    assert drawn.startswith('digraph "orders" {\n')
    assert r'label="route:review – A \"person\" looks"' in drawn
    assert '"check" -> "(end)" [label="success"];' in drawn
    assert '"(any state)" -> "late" [label="catch GONE", style=dashed];' in drawn
    assert drawn.count("{") == drawn.count("}") == 1


def test_every_format_draws_everything() -> None:
    model = read_canonical(compile_document(load(Path(__file__).with_name("everything.yaml"))).document)
    assert set(ordered(model)) == set(model.states)
    assert ordered(model)[0] == "choose"
    for name, draw in FORMATS.items():
        assert all(state in draw(model) for state in model.states), name
