"""CEL expressions: compiled once at registration, evaluated over JSON values with bounded work.

`common-expression-language` (Rust) does the language. Around it stand, because an expression is the one piece of an
author's code that runs inside the engine:

* limits on the source (size, nesting), so that no text can overflow a stack;
* unknown functions refused when compiling (the library finds them only when it evaluates);
* only the parts of the context that the expression names are converted (see `cel_tokens`);
* an estimate of the work before evaluating. The library copies a value each time a member of it is read, and `map` and
  `filter` copy the list they build for each item; so a short guard over long lists can take minutes. What would cost
  more than WORK_MAX copied values is refused with an `ExpressionError` that says what to do;
* the same for `matches`, which compiles its pattern each time: the pattern must be written in the expression.

Values are JSON: timestamps come out as RFC 3339 text and durations as text such as "90s"; bytes, NaN and infinity
are errors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import cel

from windlass.definition.cel_tokens import Usage, inspect, narrow
from windlass.definition.likeness import closest
from windlass.definition.regex_weight import WIDE_COMPILED, WIDE_TAKEN, regex_weight
from windlass.engine.core.definition import Expression, ExpressionError
from windlass.engine.core.selectors import SelectorError

SOURCE_BYTES_MAX = 4096
NESTING_MAX = 32
WORK_MAX = 10_000_000  #: values copied in one evaluation; about 0.3 s
#: What `matches` costs, in values copied: to compile a step of its pattern, and to hold a step against a character.
_COMPILING = 40
_MATCHING = 0.4
_NUMBER_CHARACTERS = 20  #: of a number that is made a text

_CONVERSIONS = {"bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"}
_DATE_PARTS = ("Date", "DayOfMonth", "DayOfWeek", "DayOfYear", "FullYear", "Month")
_TIME_PARTS = ("Hours", "Milliseconds", "Minutes", "Seconds")
FUNCTIONS = frozenset(
    _CONVERSIONS
    | {"contains", "endsWith", "matches", "size", "startsWith"}
    | {f"get{part}" for part in _DATE_PARTS + _TIME_PARTS}
)
_METHOD_HINTS = {name: f"; write text.{name}(…)" for name in ("contains", "endsWith", "matches", "startsWith")}
_MACROS = frozenset({"all", "exists", "exists_one", "filter", "has", "map"})
_ERROR_LINE = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_UNDEFINED = re.compile(r"Undefined variable or function: '([^']*)'")


class ExpressionSyntaxError(ValueError):
    """The text is no CEL expression. `line` and `column` count from 1 inside the expression."""

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.line, self.column = line, column


def compile_expression(source: str, *, condition: bool = False) -> Expression:
    """Compile an expression. A `condition` must give true or false, and anything else is an ExpressionError.

    Raises ExpressionSyntaxError. The result's `evaluate` raises ExpressionError and nothing else.
    """
    program, usage = _compile(source)
    weighed = _needs_weighing(usage)

    def evaluate(scope: Mapping[str, Any]) -> Any:
        try:
            variables = {name: narrow(scope[name], inner) for name, inner in usage.reads.items() if name in scope}
            if weighed:
                work = _refuse_excess(source, usage, variables)
                if (spend := getattr(scope, "spend", None)) is not None:
                    spend(work)
            value = _plain(program.execute(variables))
        except (ArithmeticError, LookupError, RuntimeError, SelectorError, TypeError, ValueError) as error:
            raise ExpressionError(f"{_quoted(source)}: {_reason(error)}") from error
        if condition and not isinstance(value, bool):
            raise ExpressionError(f"{_quoted(source)}: gives {_kind(value)} where true or false is needed")
        return value

    return Expression(source=source, evaluate=evaluate)


def expression_names(source: str) -> frozenset[str]:
    """The top-level names that a valid expression reads."""
    return frozenset(inspect(source).reads)


def expression_patterns(source: str) -> list[str]:
    """The patterns in a valid expression. Raises ExpressionSyntaxError."""
    return _compile(source)[1].patterns if "matches" in source else []


def reads_nothing(source: str) -> bool:
    """True if a valid expression gives the same in every run. Raises ExpressionSyntaxError."""
    return not _compile(source)[1].reads


def _compile(source: str) -> tuple[cel.Program, Usage]:
    if not source.strip():
        raise ExpressionSyntaxError("the expression is empty")
    if len(source.encode("utf-8", "surrogatepass")) > SOURCE_BYTES_MAX:
        raise ExpressionSyntaxError(f"the expression is longer than {SOURCE_BYTES_MAX:,} bytes")
    usage = inspect(source)
    if usage.depth > NESTING_MAX:
        raise ExpressionSyntaxError(f"the expression has brackets nested deeper than {NESTING_MAX} levels")
    try:
        program = cel.compile(source)
    except (ValueError, TypeError, RuntimeError) as error:
        raise _syntax_error(str(error)) from error
    _check_functions(source, program.functions())
    if "" in usage.patterns:
        raise ExpressionSyntaxError("matches needs a pattern that is written here as one text, not computed")
    usage.patterns = [str(cel.compile(pattern).execute({})) for pattern in usage.patterns]
    for name in program.variables():
        if name not in usage.bound:
            usage.reads.setdefault(name, None)
    return program, usage


def _check_functions(source: str, functions: list[str]) -> None:
    for name in functions:
        if re.fullmatch(r"[A-Za-z]\w*", name) is None or name in FUNCTIONS:
            continue
        found = re.search(rf"\b{re.escape(name)}\s*\(", source)
        start = found.start() if found else 0
        line = source.count("\n", 0, start) + 1
        raise ExpressionSyntaxError(_unknown_function(name), line, start - source.rfind("\n", 0, start))


def _unknown_function(name: str) -> str:
    if name in _MACROS:
        return f"{name} is used with wrong arguments; write list.{name}(item, expression of item)"
    near = closest(name, FUNCTIONS | _MACROS)
    hint = f"did you mean {near!r}?" if near else f"there are {', '.join(sorted(FUNCTIONS | _MACROS))}"
    return f"unknown function {name!r}; {hint}"


def _syntax_error(message: str) -> ExpressionSyntaxError:
    """The library reports several errors with a drawing: take the one that says most, without its token lists."""
    found = [(int(line), int(column), text) for line, column, text in _ERROR_LINE.findall(message)]
    if not found:
        return ExpressionSyntaxError(message.partition("\n")[0][:200])
    line, column, text = next((entry for entry in found if entry[2].startswith("Syntax error")), found[0])
    text = text.partition(" expecting ")[0].removeprefix("Syntax error: ")
    text = text.replace("mismatched input '<EOF>'", "the expression ends too early").replace(
        " at '<EOF>'", " at the end"
    )
    text = text.replace("mismatched input", "unexpected").replace("extraneous input", "unexpected")
    return ExpressionSyntaxError(text.replace("token recognition error at:", "unexpected character"), line, column)


def _needs_weighing(usage: Usage) -> bool:
    """False for the common guard, whose work is linear in what is converted anyway."""
    return usage.loop_depth > 0 or usage.additions > 2 or usage.names > 40 or bool(usage.patterns)


def _refuse_excess(source: str, usage: Usage, variables: Mapping[str, Any]) -> float:
    work = _work(usage, variables)
    if work > WORK_MAX:
        raise ExpressionError(
            f"{_quoted(source)}: too much work (about {work:.1e} values copied; the limit is {WORK_MAX:.0e}):"
            " the lists are too long for what is done with each item: work it out in a task and test its result"
        )
    return work


def _work(usage: Usage, variables: Mapping[str, Any]) -> float:
    """An upper bound of the values copied. A value counts one, and one more for each 256 characters of text."""
    sizes = {name: _Sizes(value) for name, value in variables.items()}
    total = sum(size.total for size in sizes.values()) or 1
    additions = 1 + usage.additions
    length = max([usage.longest_list, *(size.longest for size in sizes.values())]) * additions
    element = max([1, *(size.element for size in sizes.values())])
    inside = sum(sizes[name].total for name in usage.loop_reads if name in sizes)
    each = usage.names * (1 + element + inside) + additions**2 * max(1, element, inside)
    matching = _matching(usage, variables, length)
    if usage.loop_depth == 0:
        return float(total * usage.names + additions**2 * total) + matching
    return float(length) ** usage.loop_depth * (each + (length * element if usage.copies else 0)) + matching


def _matching(usage: Usage, variables: Mapping[str, Any], length: int) -> float:
    """What `matches` adds. In a loop each pattern is compiled for each item, and all items together are one text."""
    if not usage.patterns:
        return 0.0
    characters = sum(map(_characters, variables.values())) * (1 + usage.additions)
    rounds = float(length) ** usage.loop_depth
    texts = characters * (rounds if usage.loop_reads else rounds / max(1, length)) + usage.literals * rounds
    compiled = sum(regex_weight(pattern, WIDE_COMPILED) for pattern in usage.patterns)
    taken = sum(regex_weight(pattern, WIDE_TAKEN) for pattern in usage.patterns)
    return compiled * _COMPILING * rounds + taken * _MATCHING * texts


class _Sizes:
    """Of a JSON value: its size, its longest list or object, and its largest element of one."""

    __slots__ = ("element", "longest", "total")

    def __init__(self, value: Any) -> None:
        self.longest = 0
        self.element = 0
        self.total = self._measure(value)

    def _measure(self, value: Any) -> int:
        if isinstance(value, str):
            return 1 + len(value) // 256
        if not isinstance(value, dict | list):
            return 1
        sizes = [self._measure(item) for item in (value.values() if isinstance(value, dict) else value)]
        self.longest = max(self.longest, len(sizes))
        self.element = max(self.element, *sizes, 0)
        return 1 + sum(sizes)


def _characters(value: Any) -> int:
    """The letters in a JSON value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(len, value)) + sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else _NUMBER_CHARACTERS


def _plain(value: Any) -> Any:
    """The library's result as a JSON value."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("the result is not a finite number")
        return value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"
    raise ValueError(f"the result is a {type(value).__name__}, which JSON does not have")


def _reason(error: Exception) -> str:
    text = str(error)
    undefined = _UNDEFINED.match(text)
    if undefined and undefined[1] in FUNCTIONS:
        return f"{undefined[1]}() does not take such arguments{_METHOD_HINTS.get(undefined[1], '')}"
    if undefined:
        return f"there is no {undefined[1]!r} here"
    if "not a valid regex" in text:
        return f"not a valid regex: {text.rpartition('error: ')[2].partition('. Check function')[0]}"
    if isinstance(error, ZeroDivisionError):
        return "division by zero"
    if isinstance(error, KeyError):
        return f"there is no key {text}"
    if isinstance(error, TypeError):
        kinds = text.partition(". ")[0].partition(": ")
        what = f" ({kinds[2]})" if kinds[0] == "Unsupported operation" else ""
        return f"no such operation for these types{what}; int and double do not mix: convert with int(x) or double(x)"
    return text.partition(". Check function")[0].removesuffix(".")


def _kind(value: Any) -> str:
    kinds = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else kinds.get(type(value), type(value).__name__)


def _quoted(source: str) -> str:
    one_line = " ".join(source.split())
    return f"`{one_line if len(one_line) <= 120 else one_line[:117] + '...'}`"
