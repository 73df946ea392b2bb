"""Compiles the small parts of a document (expressions, templates, selectors, schemas), with problems instead of
exceptions.

A part that cannot be compiled is reported and replaced by a stand-in, so that the whole document is always gone
through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from windlass.definition.checks_expressions import Purse, judge
from windlass.definition.code import CheckCode, HasModule, Module
from windlass.definition.expressions import (
    ExpressionSyntaxError,
    compile_expression,
    expression_names,
    expression_patterns,
)
from windlass.definition.model_bodies import SelectorModel
from windlass.definition.problems import Place, Report
from windlass.definition.regex_weight import WIDE_COMPILED, regex_weight
from windlass.definition.schema_cost import pattern_steps
from windlass.definition.schemas import SchemaError, compile_schema, with_defaults
from windlass.engine.core.definition import Expression, ExpressionError, Schema
from windlass.engine.core.selectors import (
    NO_INPUT,
    Full,
    Key,
    Keys,
    PathSyntaxError,
    Selector,
    Static,
    Template,
    TemplateSelector,
    TemplateSyntaxError,
    parse_path,
    parse_template,
    selector_names,
    template_names,
)
from windlass.engine.core.selectors import (
    Path as PathSelector,
)

_SELECTORS = ("key", "keys", "path", "template", "static", "full", "none")
_NO_DEFAULT = ("static", "full", "none")
#: Of all patterns of a document, written out: they are compiled on the engine's loop. About a second, and 200 MB.
PATTERN_STEPS_MAX = 500_000
TOO_MANY_PATTERNS = "the patterns of this document are too much to compile: write shorter ones, or fewer"


class Parts:
    """Compiles parts for one document and collects the modules it needs."""

    def __init__(
        self,
        report: Report,
        *,
        folder: Path | None = None,
        check_code: CheckCode | None = None,
        text: str = "",
        runtimes: tuple[str, ...] = (),
        stored: bool = False,
        files: Mapping[str, bytes | str] | None = None,
        has_module: HasModule | None = None,
    ) -> None:
        self.report = report
        self.folder = folder
        self.check_code = check_code
        self.runtimes = runtimes
        self.files = files or {}
        self.has_module = has_module
        self.kinds: dict[str, str] = {}  #: types of names that only the run's input sets
        self.stored = stored  #: registered before: runs need it, so what a later version refuses as a slip must load
        self.modules: dict[str, Module] = {}
        self.digests: set[tuple[str, str]] = set()  #: every module referred to, with its runtime
        self.code_places: dict[Place, str] = {}  #: tasks with code, and the digest that stands for it
        self.reads: list[tuple[str, Place]] = []  #: the names that parts read and cannot do without
        self._lines = text.split("\n")
        self._pattern_steps = 0
        self._purse = Purse()

    def expression(self, source: str, place: Place, *, condition: bool = False) -> Expression:
        """A compiled expression. A syntax error is reported at its own line and column where these can be told."""
        try:
            expression = compile_expression(source, condition=condition)
            self._read(expression_names(source), place)
            steps = sum(regex_weight(pattern, WIDE_COMPILED) for pattern in expression_patterns(source))
            if self._may_compile(steps, place) and not self.stored:
                self._judge(source, place, condition=condition)
            return expression
        except ExpressionSyntaxError as error:
            if self.stored:
                return _refused_expression(source, str(error))
            self._report_syntax(error, place)
            return Expression(source=source, evaluate=_never)

    def _may_compile(self, steps: int, place: Place) -> bool:
        self._pattern_steps += steps
        if steps and self._pattern_steps > PATTERN_STEPS_MAX:
            if not self.stored:
                self.report.error(place, TOO_MANY_PATTERNS)
            return False
        return True

    def _judge(self, source: str, place: Place, *, condition: bool) -> None:
        for finding in judge(source, condition=condition, kinds=self.kinds, purse=self._purse):
            spot = self._spot(place, *_line_and_column(source, finding.at))
            if finding.doubtful:
                self.report.warn_at(place, finding.message, spot)
            else:
                self.report.error_at(place, finding.message, spot)

    def condition(self, source: str | None, place: Place) -> Expression | None:
        return None if source is None else self.expression(source, place, condition=True)

    def template(self, value: Any, place: Place) -> Template:
        """A template. Each of its strings that cannot be read is reported."""
        while True:
            try:
                template = parse_template(value)
            except TemplateSyntaxError as error:
                inside = parse_path(error.path) if error.path else ()
                self.report.error((*place, *inside), str(error))
                value = _without(value, inside)
            else:
                self._read(template_names(template), place)
                return template

    def values(self, values: Mapping[str, Any], place: Place) -> tuple[tuple[str, Template], ...]:
        """The members of a `set`."""
        return tuple((name, self.template(value, (*place, name))) for name, value in values.items())

    def selector(self, model: SelectorModel | None, place: Place) -> Selector:
        """A selector; none given is no input."""
        if model is None:
            return NO_INPUT
        kinds = [kind for kind in _SELECTORS if kind in model.model_fields_set]
        if len(kinds) != 1:
            given = f"has {' and '.join(kinds)}" if kinds else "has none of them"
            self.report.error(place, f"needs exactly one of {', '.join(_SELECTORS)}; it {given}")
            return NO_INPUT
        default = msgspec.json.encode(model.default) if "default" in model.model_fields_set else None
        if default is not None and kinds[0] in _NO_DEFAULT:
            self.report.error((*place, "default"), f"{kinds[0]!r} is never missing: it takes no default", at_key=True)
        before = len(self.reads)
        selector = self._selector(kinds[0], model, default, place)
        if kinds[0] != "template":
            self._read(selector_names(selector), (*place, kinds[0]))
        if default is not None:
            del self.reads[before:]
        return selector

    def _selector(self, kind: str, model: SelectorModel, default: bytes | None, place: Place) -> Selector:
        match kind:
            case "key":
                return Key(key=model.key or "", default=default)
            case "keys":
                return Keys(keys=tuple(model.keys or ()), default=default)
            case "path":
                return self._path(model.path or "", default, (*place, "path"))
            case "template":
                template = self.template(model.template, (*place, "template"))
                return TemplateSelector(template=template, default=default)
            case "static":
                return Static(value=msgspec.json.encode(model.static))
            case "full":
                return Full()
            case _:
                return NO_INPUT

    def _read(self, names: frozenset[str], place: Place) -> None:
        self.reads.extend((name, place) for name in sorted(names))

    def _path(self, text: str, default: bytes | None, place: Place) -> Selector:
        try:
            return PathSelector(segments=parse_path(text), default=default)
        except PathSyntaxError as error:
            self.report.error(place, str(error))
            return NO_INPUT

    def schema(self, value: Any, place: Place) -> Schema | None:
        if value is None:
            return None
        if not self._may_compile(pattern_steps(value), place):
            return _refused_schema(value, TOO_MANY_PATTERNS) if self.stored else None
        try:
            return compile_schema(value)
        except SchemaError as error:
            if self.stored:
                return _refused_schema(value, str(error))
            self.report.error((*place, *error.place), str(error))
            return None

    def config(self, config: dict[str, Any], schema_value: Any, schema: Schema | None, place: Place) -> bytes:
        """The config with the schema's defaults filled in, checked against it."""
        filled = with_defaults(schema_value, config) if schema is not None else config
        for finding in schema.check(filled) if schema is not None and not self.stored else ():
            self.report.error((*place, "config"), f"does not fit config_schema: {finding}")
        return msgspec.json.encode(filled)

    def _report_syntax(self, error: ExpressionSyntaxError, place: Place) -> None:
        message = f"not a CEL expression: {error}"
        if self.report.mark(place) is None or place not in self.report.marks:
            message = f"{message} (at character {error.column})"
        self.report.error_at(place, message, self._spot(place, error.line, error.column))

    def _spot(self, place: Place, line: int, column: int) -> tuple[int, int] | None:
        """The line and column in the text of those inside an expression, if they can be told."""
        mark = self.report.mark(place)
        if mark is None or place not in self.report.marks:
            return None
        if mark.style in ("|", ">"):
            indent = len(re.match(" *", self._line(mark.line + line))[0])  # type: ignore[index]
            return mark.line + line, indent + column
        return (mark.line, mark.column + column - (0 if mark.style else 1)) if line == 1 else None

    def _line(self, number: int) -> str:
        return self._lines[number - 1] if 0 < number <= len(self._lines) else ""


def _line_and_column(source: str, at: int) -> tuple[int, int]:
    """Both from 1, of an offset."""
    return source.count("\n", 0, at) + 1, at - source.rfind("\n", 0, at)


def _without(value: Any, place: Place) -> Any:
    """The value with null at this place."""
    if not place:
        return None
    first, rest = place[0], place[1:]
    if isinstance(value, dict):
        return {key: _without(item, rest) if key == first else item for key, item in value.items()}
    return [_without(item, rest) if index == first else item for index, item in enumerate(value)]


def _never(scope: Mapping[str, Any]) -> Any:
    raise AssertionError("this expression was refused and must not be evaluated")


def _refused_expression(source: str, why: str) -> Expression:
    """Of a stored revision, when this version refuses it: its runs live on, and learn of it where they use it."""

    def evaluate(scope: Mapping[str, Any]) -> Any:
        raise ExpressionError(f"`{source}` was registered with an earlier version, and is refused now: {why}")

    return Expression(source=source, evaluate=evaluate)


def _refused_schema(value: Any, why: str) -> Schema:
    """The same: nothing fits it."""
    finding = f"the schema was registered with an earlier version, and is refused now: {why}"
    return Schema(document=msgspec.json.encode(value), check=lambda instance: [finding])
