"""Definitions and namespaces as stored, and compiled revisions as the core wants them.

A revision never changes, so its compiled form is kept (`revisions.py`); the default pointer and namespaces are read in
the transaction that needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from windlass.engine import keys
from windlass.engine.core.definition import Definition
from windlass.engine.errors import EngineError
from windlass.engine.records import DefinitionRecord, NamespaceRecord, RevisionRecord, get_large, unpack
from windlass.engine.revisions import Revisions
from windlass.storage.port import Transaction

DEFAULT_NAMESPACE: Final = "default"

decode_json: Callable[[bytes], Any] = msgspec.json.Decoder().decode


def parse_json(value: bytes, what: str) -> Any:
    """A value from outside, parsed. Raises EngineError INVALID_JSON that says what was wrong with `what`."""
    try:
        return decode_json(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise EngineError("INVALID_JSON", f"{what} is not valid JSON: {reason}", field=what) from error


class Definitions:
    """Reads and compiles what is registered. `revive` turns a canonical document into the core's record."""

    def __init__(self, revive: Callable[[bytes], Definition]) -> None:
        self._revisions = Revisions(revive)
        self.forget = self._revisions.forget

    async def compiled(self, tr: Transaction, ns: str, name: str, revision: str) -> Definition:
        """One revision. Raises Loading, EngineError REVISION_NOT_FOUND, BAD_DEFINITION."""
        found = self._revisions.get((ns, name, revision))
        if found is None:
            value = await get_large(tr, keys.revision(ns, name, revision), snapshot=True)
            if value is None:
                raise _not_found(ns, name, revision)
            document = unpack(RevisionRecord, value).document
            # While it was read, another transaction may have brought it.
            found = self._revisions.get((ns, name, revision)) or self._revisions.load((ns, name, revision), document)
        return found

    async def resolve(self, tr: Transaction, ns: str, name: str, revision: str = "", at_us: int = 0) -> Definition:
        """The named revision, or the default one ("" or "latest"), or the one that was default at `at_us`.

        Raises Loading, EngineError WORKFLOW_NOT_REGISTERED, REVISION_NOT_FOUND, BAD_DEFINITION.
        """
        return await self.compiled(tr, ns, name, await self.revision(tr, ns, name, revision, at_us))

    async def revision(self, tr: Transaction, ns: str, name: str, revision: str = "", at_us: int = 0) -> str:
        """The full name of what `resolve` gives. Raises EngineError WORKFLOW_NOT_REGISTERED, REVISION_NOT_FOUND."""
        record = await self.record(tr, ns, name)
        if revision in ("", "latest"):
            revision = record.default_at(at_us) if at_us and not revision else record.default_revision
        elif len(revision) < 64:
            revision = await self._expand(tr, ns, name, revision)
        elif await tr.get(keys.revision(ns, name, revision)) is None:
            self.forget(ns, name)  # another engine may have deleted it
            raise _not_found(ns, name, revision)
        return revision

    async def _expand(self, tr: Transaction, ns: str, name: str, prefix: str) -> str:
        """The one revision whose hash begins with `prefix` (at least 6 digits)."""
        begin = keys.revision(ns, name)[:] + keys.text(prefix)[:-1]
        rows = await tr.get_range(begin, begin + b"\xff", snapshot=True)
        found = {str(keys.unpack(key)[3]) for key, _ in rows}
        if len(prefix) >= 6 and len(found) == 1:
            return found.pop()
        problem = "is not known" if not found else "is too short to be told from others"
        raise EngineError(
            "REVISION_NOT_FOUND", f"revision {prefix!r} of workflow {name!r} {problem}", workflow=name, revision=prefix
        )

    async def record(self, tr: Transaction, ns: str, name: str) -> DefinitionRecord:
        """The definition's record. Raises EngineError WORKFLOW_NOT_REGISTERED."""
        value = await tr.get(keys.definition(ns, name))
        if value is None:
            await self.namespace(tr, ns)
            raise EngineError(
                "WORKFLOW_NOT_REGISTERED",
                f"no workflow {name!r} is registered in namespace {ns!r}; register it first (`windlass register FILE`)",
                workflow=name,
                namespace=ns,
            )
        return unpack(DefinitionRecord, value)

    async def namespace(self, tr: Transaction, ns: str) -> NamespaceRecord:
        """The namespace's record; `default` needs none. Raises EngineError NAMESPACE_NOT_FOUND."""
        value = await tr.get(keys.namespace(ns))
        if value is not None:
            return unpack(NamespaceRecord, value)
        if ns == DEFAULT_NAMESPACE:
            return NamespaceRecord(ns, 0)
        raise EngineError("NAMESPACE_NOT_FOUND", f"there is no namespace {ns!r}; create it first", namespace=ns)

    def check_config(self, definition: Definition, override: bytes) -> None:
        """Raises EngineError INVALID_JSON, CONFIG_SCHEMA_MISMATCH: a run's config, with its overrides, must fit too."""
        given = parse_json(override, "config")
        if not isinstance(given, dict):
            raise EngineError("INVALID_FIELD", "config must be a JSON object", field="config")
        if definition.config_schema is None or not given:
            return
        problems = definition.config_schema.check({**decode_json(definition.config), **given})
        if problems:
            raise EngineError(
                "CONFIG_SCHEMA_MISMATCH",
                f"config does not fit the config schema of workflow {definition.name!r}: " + "; ".join(problems[:20]),
                workflow=definition.name,
                violations=[("config", problem) for problem in problems],
            )

    def check_input(self, definition: Definition, value: bytes) -> None:
        """Raises EngineError INVALID_JSON or INPUT_SCHEMA_MISMATCH, with every problem and its path."""
        parsed = parse_json(value, "input")
        if definition.input_schema is None:
            return
        problems = definition.input_schema.check(parsed)
        if problems:
            raise EngineError(
                "INPUT_SCHEMA_MISMATCH",
                f"input does not fit the input schema of workflow {definition.name!r}: " + "; ".join(problems[:20]),
                workflow=definition.name,
                violations=[("input", problem) for problem in problems],
            )


def _not_found(ns: str, name: str, revision: str) -> EngineError:
    return EngineError(
        "REVISION_NOT_FOUND",
        f"workflow {name!r} has no revision {revision!r} in namespace {ns!r}",
        workflow=name,
        revision=revision,
    )
