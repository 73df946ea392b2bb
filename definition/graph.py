"""A definition as a picture: Mermaid for documents, DOT for Graphviz, and text for the terminal.

Works on the model, which exists for files and for registered revisions alike. States come in the order in which a run
can reach them, so the picture of a revision is always the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from windlass.definition.model import DocumentModel, StateModel

ANY_STATE = "any state"
_LABEL_MAX = 60  #: characters of an arrow's label


@dataclass(frozen=True, kw_only=True)
class Arrow:
    """One way from a state to another. `to` "" = the run ends; `source` "" = from any state."""

    source: str
    to: str
    label: str = ""
    dashed: bool = False  #: a catch or a timeout, not a transition


def arrows(model: DocumentModel) -> list[Arrow]:
    """All ways of the definition, in the order of the states and of their transitions."""
    found: list[Arrow] = []
    for name in ordered(model):
        found.extend(_of_state(model, name, model.states[name]))
    for catch in model.catch:
        label = f"catch {', '.join(catch.codes) or 'any failure'}"
        found.append(Arrow(source="", to=catch.to, label=_short(label), dashed=True))
    if model.on_timeout:
        found.append(Arrow(source="", to=model.on_timeout, label="the run's timeout", dashed=True))
    return found


def ordered(model: DocumentModel) -> list[str]:
    """The states in the order in which they can be reached, then the rest by name."""
    found: dict[str, None] = {}
    todo = [model.initial]
    while todo:
        name = todo.pop(0)
        if name in found or name not in model.states:
            continue
        found[name] = None
        todo.extend(arrow.to for arrow in _of_state(model, name, model.states[name]))
    todo = [catch.to for catch in model.catch] + ([model.on_timeout] if model.on_timeout else [])
    return list(found | dict.fromkeys([*todo, *sorted(model.states)]))


def body_of(state: StateModel) -> str:
    """What a state does, in a few words: `task javascript`, `wait paid, shipped`, "" for a pure choice."""
    if state.task is not None:
        return f"task {state.task.handler or state.task.runtime}"
    if state.wait is not None:
        return f"wait {', '.join(state.wait.signals) or 'until'}"
    if state.spawn is not None:
        return f"spawn {state.spawn.workflow}"
    if state.parallel is not None:
        return f"parallel {', '.join(state.parallel.branches)}"
    bodies = state.bodies()
    return bodies[0] if bodies else ""


def mermaid(model: DocumentModel) -> str:
    """A Mermaid state diagram."""
    ids = {name: f"s{number}" for number, name in enumerate(ordered(model))}
    lines = ["stateDiagram-v2"]
    for name, identity in ids.items():
        body = body_of(model.states[name])
        lines.append(f'    state "{_mermaid_text(name + (f" ({body})" if body else ""))}" as {identity}')
    lines.append(f"    [*] --> {ids[model.initial]}")
    if any(not arrow.source for arrow in arrows(model)):
        lines.append(f'    state "{ANY_STATE}" as any')
    for arrow in arrows(model):
        label = f": {_mermaid_text(arrow.label)}" if arrow.label else ""
        source = ids[arrow.source] if arrow.source else "any"
        lines.append(f"    {source} --> {ids[arrow.to] if arrow.to else '[*]'}{label}")
    lines.extend(f"    {ids[name]} --> [*]" for name in ids if _final(model.states[name]))
    return "\n".join(lines) + "\n"


def dot(model: DocumentModel) -> str:
    """A graph in Graphviz's DOT language."""
    lines = [f"digraph {_dot_text(model.workflow)} {{", "    node [shape=box, style=rounded];"]
    for name in ordered(model):
        state = model.states[name]
        shape = ", peripheries=2" if _final(state) else ""
        color = ", color=red" if state.outcome == "failure" else ""
        body = body_of(state)
        text = f"{name}\n{body}" if body else name
        lines.append(f"    {_dot_text(name)} [label={_dot_text(text)}{shape}{color}];")
    lines.append('    "(start)" [shape=point];')
    lines.append(f'    "(start)" -> {_dot_text(model.initial)};')
    if any(not arrow.to for arrow in arrows(model)):
        lines.append('    "(end)" [shape=point, peripheries=2];')
    for arrow in arrows(model):
        style = ", style=dashed" if arrow.dashed else ""
        target = _dot_text(arrow.to or "(end)")
        source = _dot_text(arrow.source or f"({ANY_STATE})")
        lines.append(f"    {source} -> {target} [label={_dot_text(arrow.label)}{style}];")
    return "\n".join([*lines, "}"]) + "\n"


def text(model: DocumentModel) -> str:
    """The states with their ways, for a terminal."""
    lines = []
    for name in ordered(model):
        state = model.states[name]
        mark = "▶" if name == model.initial else "■" if _final(state) else "●"
        body = body_of(state)
        ends = "  ends the run as failed" if state.outcome == "failure" else "  ends the run" if _final(state) else ""
        lines.append(f"{mark} {name}{f'  [{body}]' if body else ''}{ends}")
        ways = list(_of_state(model, name, state))
        for index, arrow in enumerate(ways):
            corner = "└" if index == len(ways) - 1 else "├"
            label = f" {arrow.label} " if arrow.label else "─"
            lines.append(f"  {corner}{'╌' if arrow.dashed else '─'}{label}─▶ {arrow.to or '(end)'}")
    lines.extend(f"({ANY_STATE}) ╌ {arrow.label} ─▶ {arrow.to}" for arrow in arrows(model) if not arrow.source)
    return "\n".join(lines) + "\n"


def _of_state(model: DocumentModel, name: str, state: StateModel) -> Iterator[Arrow]:
    for transition in state.transitions:
        route = state.routes.get(transition.on.removeprefix("route:"), "") if transition.on.startswith("route:") else ""
        codes = f" {', '.join(transition.codes)}" if transition.codes else ""
        when = f" if {transition.when}" if transition.when else ""
        said = transition.description or route
        label = f"{transition.on}{codes}{when}{f' – {said}' if said else ''}".strip()
        yield Arrow(source=name, to=transition.to or "", label=_short(label))
    if "next" in state.model_fields_set:
        yield Arrow(source=name, to=state.next or "", label="success")
    scope = state.scope
    seen: set[str] = set()
    while scope in model.scopes and scope not in seen:
        seen.add(scope)
        for catch in model.scopes[scope].catch:
            label = f"catch {', '.join(catch.codes) or 'any failure'} ({scope})"
            yield Arrow(source=name, to=catch.to, label=_short(label), dashed=True)
        scope = model.scopes[scope].parent


def _final(state: StateModel) -> bool:
    return not state.transitions and "next" not in state.model_fields_set


def _short(label: str) -> str:
    one_line = " ".join(label.split())
    return one_line if len(one_line) <= _LABEL_MAX else f"{one_line[: _LABEL_MAX - 1]}…"


def _mermaid_text(label: str) -> str:
    """Mermaid has no escapes; it has entities, written with a # and a ;."""
    return "".join(f"#{ord(c)};" if c in '"#;:<>{}[]|`\\' else c for c in label)


def _dot_text(label: str) -> str:
    escaped = label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


#: The formats by their names on the command line and in the API.
FORMATS = {"mermaid": mermaid, "dot": dot, "text": text}
