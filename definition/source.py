"""Where a definition comes from: a file, a text, or a value that a program made. See `windlass.definition.compile`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from windlass.definition.json_source import read_json
from windlass.definition.problems import DefinitionError, Mark, Place, Problem, Report
from windlass.definition.tree import TEXT_BYTES_MAX
from windlass.definition.yaml_source import read_yaml


@dataclass(frozen=True, kw_only=True)
class Authored:
    """A document as it was written: read, not yet checked."""

    name: str  #: the file's name as problems show it
    value: Any  #: the plain JSON value
    marks: Mapping[Place, Mark] = field(default_factory=dict)
    text: str = ""
    folder: Path | None = None  #: where `code_file` and `module` paths start; None = files are not allowed
    files: Mapping[str, bytes | str] = field(default_factory=dict)
    """Files that came with the document, by the path written in it: their bytes, or the digest of a stored module."""
    problems: tuple[Problem, ...] = ()  #: found while reading, and no reason to stop: duplicate keys, numbers too large

    def report(self) -> Report:
        """A report that knows this document's places, and what was found while reading it."""
        return Report(file=self.name, marks=self.marks, problems=list(self.problems))


def load(path: str | Path) -> Authored:
    """Read a definition file (`.json`, else YAML). Raises DefinitionError, also when the file cannot be read."""
    file = Path(path)
    try:
        size = file.stat().st_size
        content = file.read_bytes() if size <= TEXT_BYTES_MAX else b""
    except OSError as error:
        reason = error.strerror or str(error)
        raise DefinitionError([Problem(message=f"cannot read the file: {reason}", file=str(path))]) from error
    if size > TEXT_BYTES_MAX:
        raise DefinitionError([Problem(message=_too_big(size), file=str(path))])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8 text: byte {error.start} cannot be read"
        raise DefinitionError([Problem(message=message, file=str(path), line=line, column=1)]) from error
    return loads(text, str(path), folder=file.parent)


def loads(text: str, name: str = "definition", *, folder: Path | None = None, json: bool | None = None) -> Authored:
    """Read a definition from text. Unless `json` says: JSON if `name` ends in .json or the text starts with a brace,
    else YAML.

    `folder` is where relative paths of code start; without it a document may not name files. Raises DefinitionError if
    the text cannot be read to its end; what is wrong otherwise is told when the document is compiled.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > TEXT_BYTES_MAX:
        raise DefinitionError([Problem(message=_too_big(size), file=name)])
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise DefinitionError([Problem(message="not Unicode text: it has half of a surrogate pair", file=name)])
    report = Report(file=name)
    document = (read_json if (_is_json(text, name) if json is None else json) else read_yaml)(text, report)
    if not document.complete:
        report.raise_if_failed(text)
    return Authored(
        name=name,
        value=document.value,
        marks=document.marks,
        text=text,
        folder=folder,
        problems=tuple(report.problems),
    )


def from_value(value: Any, name: str = "definition", *, folder: Path | None = None) -> Authored:
    """A definition that a program made, such as the builder's. Problems then have paths and no lines."""
    try:
        plain = msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DefinitionError([Problem(message=f"not a JSON value: {error}", file=name)]) from error
    return Authored(name=name, value=plain, folder=folder)


def _is_json(text: str, name: str) -> bool:
    """YAML's flow style also starts with a brace; it is told apart by its first key, which has no double quotes."""
    start = text.lstrip()[:200]
    return name.endswith(".json") or (start.startswith("{") and start[1:].lstrip()[:1] in ('"', "}"))


def _too_big(size: int) -> str:
    return f"the document has {size:,} bytes; the limit is {TEXT_BYTES_MAX:,}"
