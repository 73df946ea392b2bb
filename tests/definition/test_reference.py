"""Every example in docs/definition.md compiles, without a warning; and the mistake shown there is told so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from windlass.definition.compile import compile_document
from windlass.definition.expressions import compile_expression
from windlass.definition.fields import Authoring
from windlass.definition.model import DocumentModel, StateModel, TransitionModel
from windlass.definition.problems import DefinitionError
from windlass.definition.source import from_value, loads

REFERENCE = (Path(__file__).parents[2] / "docs" / "definition.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", REFERENCE, flags=re.MULTILINE | re.DOTALL)


def as_document(text: str) -> Any:
    """A whole document, or the part of one state put into a frame with the states that it leads to."""
    value = loads(text).value
    if "workflow" in value:
        return value
    targets: dict[str, Any] = {
        name: {} for name in re.findall(r"\b(?:to|next): ([a-z][a-z-]*)", text) if name != "null"
    }
    return {"workflow": "example", "initial": "example", "states": {"example": value, **targets}}


@pytest.mark.parametrize("text", blocks("yaml"), ids=lambda text: text.partition("\n")[0])
def test_example(text: str, tmp_path: Path) -> None:
    (tmp_path / "charge.wasm").write_bytes(b"\0asm\1\0\0\0")
    (tmp_path / "total.js").write_text("input.length")
    document = as_document(text)
    targets = re.findall(r"escalate:.*?to: (\S+)", text, flags=re.DOTALL)
    for name in targets:
        document["states"].pop(name, None)
    assert compile_document(from_value(document, folder=tmp_path)).warnings == ()


@pytest.mark.parametrize("source", "".join(blocks("cel")).splitlines())
def test_expression(source: str) -> None:
    compile_expression(source)


def test_the_mistake_shown() -> None:
    text = "workflow: w\ninitial: check\nstates:\n  check: {next: chrage}\n  charge: {}\n"
    with pytest.raises(DefinitionError) as refused:
        compile_document(loads(text, "order.yaml"))
    assert blocks("text") == [refused.value.render() + "\n"]


@pytest.mark.parametrize("model", [DocumentModel, StateModel, TransitionModel])
def test_every_key_is_in_the_reference(model: type[Authoring]) -> None:
    for name, field in model.model_fields.items():
        assert f"`{field.alias or name}`" in REFERENCE or f"### {name}" in REFERENCE, name
