"""From a document to a definition: the one way for files, the builder and the registered form.

`compile_document` is what `validate` and registration call: every mistake that can be found before a run is found
here, all at once. What is registered is the *canonical document*: JSON with sorted keys, durations in one spelling,
code replaced by the digests of its modules. Its hash is the revision. `compile_canonical` reads it back, without any
file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from windlass.definition.build import build_definition
from windlass.definition.checks_graph import check_graph
from windlass.definition.checks_names import check_names
from windlass.definition.code import CheckCode, HasModule, Module
from windlass.definition.model import DocumentModel
from windlass.definition.parts import Parts
from windlass.definition.problems import PROBLEMS_MAX, DefinitionError, Problem, Report, TooManyProblems
from windlass.definition.shape import read_model
from windlass.definition.source import Authored, from_value
from windlass.engine.core.definition import Definition


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A checked definition, ready to be registered."""

    definition: Definition
    document: bytes  #: the canonical document, JSON
    revision: str  #: its SHA-256, 64 hex digits
    modules: tuple[Module, ...]  #: code that came with the document, to be stored under its digest
    digests: tuple[
        tuple[str, str], ...
    ]  #: every module referred to, those stored elsewhere included: (digest, runtime)
    warnings: tuple[Problem, ...]


def compile_document(
    authored: Authored,
    *,
    check_code: CheckCode | None = None,
    has_module: HasModule | None = None,
    runtimes: Sequence[str] = (),
) -> Compiled:
    """Check and compile. Raises DefinitionError with every problem, errors and warnings, in the order of the text.

    `check_code` is asked about each piece of code (see `CheckCode`), `has_module` about each module that is named by
    its digest. `runtimes` names runtimes beside the built-in ones.
    """
    report = authored.report()
    parts = Parts(
        report,
        folder=authored.folder,
        check_code=check_code,
        text=authored.text,
        runtimes=tuple(runtimes),
        files=authored.files,
        has_module=has_module,
    )
    try:
        model = read_model(authored.value, report)
    except TooManyProblems:
        model = None
    if model is None:
        raise DefinitionError(report.sorted(), authored.text)
    _check(model, parts, report)
    report.raise_if_failed(authored.text)
    document = _canonical(model, parts)
    revision = hashlib.sha256(document).hexdigest()
    return Compiled(
        definition=compile_canonical(document, runtimes=runtimes),
        document=document,
        revision=revision,
        modules=tuple(parts.modules.values()),
        digests=tuple(sorted(parts.digests)),
        warnings=report.sorted(),
    )


def _check(model: DocumentModel, parts: Parts, report: Report) -> None:
    try:
        build_definition(parts, model, "")
        check_graph(model, report)
        check_names(model, parts.reads, parts.modules.values(), report)
    except TooManyProblems:
        if not report.failed:
            report.problems[-1] = Problem(message=f"more than {PROBLEMS_MAX} warnings", file=report.file)


def compile_canonical(document: bytes, *, runtimes: Sequence[str] = ()) -> Definition:
    """The core's definition from a canonical document. Raises DefinitionError if it is not one."""
    try:
        value = msgspec.json.decode(document)
    except msgspec.DecodeError as error:
        raise DefinitionError([Problem(message=f"not a canonical document: {error}")]) from error
    report = from_value(value).report()
    parts = Parts(report, runtimes=tuple(runtimes), stored=True)
    model = read_model(value, report)
    if model is None:
        raise DefinitionError(report.sorted())
    definition = build_definition(parts, model, hashlib.sha256(document).hexdigest())
    report.raise_if_failed()
    return definition


def read_canonical(document: bytes) -> DocumentModel:
    """The model of a canonical document, for those who show it. Raises DefinitionError."""
    report = from_value(None).report()
    try:
        model = read_model(msgspec.json.decode(document), report)
    except msgspec.DecodeError as error:
        raise DefinitionError([Problem(message=f"not a canonical document: {error}")]) from error
    report.raise_if_failed()
    assert model is not None
    return model


def _canonical(model: DocumentModel, parts: Parts) -> bytes:
    """Only what the author wrote, so that a new default in a later version does not change old revisions."""
    value = model.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for place, digest in parts.code_places.items():
        task: Any = value
        for part in place:
            task = task[part]
        task.pop("code", None)
        task.pop("code_file", None)
        task["module"] = digest
    return msgspec.json.encode(value, order="sorted")
