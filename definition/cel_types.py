"""The types of an expression's parts, as far as its text (and the input's schema) tells them.

CEL is typed when it runs, so `1 + 'a'` and `when: "'yes'"` compile, and every run that comes to them stops with an
incident. A walk over the tokens by precedence gives each part its type where it is sure, and "" where it is not: names,
members and indexes are unknown, so that a finding is never a guess. Text that the walk does not understand has none.

`number` is the type of a name that the schema calls integer or number (either may come as int or as double), `some` the
type of a result that is surely not a boolean and otherwise unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from windlass.definition.cel_tokens import TOKEN

_NUMBERS = frozenset({"int", "uint", "double", "number"})
_ORDERED = frozenset({*_NUMBERS, "string", "bool", "bytes", "timestamp", "duration"})
_TIMES = frozenset({"timestamp", "duration"})
_SIZED = frozenset({"string", "list", "map", "bytes"})
_ADDED = frozenset({*_NUMBERS, *_TIMES, "string", "list", "bytes"})
_RESULTS: Final = {
    **dict.fromkeys(("contains", "startsWith", "endsWith", "matches", "has", "all", "exists", "exists_one"), "bool"),
    **dict.fromkeys(("filter", "map"), "list"),
    **{name: name for name in ("bytes", "double", "duration", "int", "string", "timestamp", "uint")},
    "size": "int",
}
_OF_TEXT = frozenset({"startsWith", "endsWith", "matches"})
_LOOPS = frozenset({"all", "exists", "exists_one", "filter", "map"})
_PAIRS = frozenset({"==", "!=", "<=", ">=", "&&", "||"})
_LEVELS: Final = (("||",), ("&&",), ("==", "!=", "<", "<=", ">", ">=", "in"), ("+", "-"), ("*", "/", "%"))
_DEPTH_MAX = 40


@dataclass(frozen=True)
class Finding:
    """A part that cannot work, or never does what it says (`doubtful`). `at`: its offset in the text."""

    message: str
    at: int
    doubtful: bool = False


class _GivesUp(Exception):
    """The walk met something that it does not know."""


def infer(source: str, kinds: Mapping[str, str]) -> tuple[str, list[Finding], list[tuple[str, int]]]:
    """The type of a compiled expression, what is wrong in it, and the literal patterns of `matches` with their offsets.

    `kinds`: the types of names that are known.
    """
    walk = _Walk(source, kinds)
    try:
        kind = walk.ternary()
        walk.expect("")
    except _GivesUp:
        return "", [], []
    return kind, walk.findings, walk.patterns


class _Walk:
    def __init__(self, source: str, kinds: Mapping[str, str]) -> None:
        self.findings: list[Finding] = []
        self.patterns: list[tuple[str, int]] = []
        self._kinds = dict(kinds)
        self._tokens = _tokens(source)
        self._at = self._depth = 0

    @property
    def _text(self) -> str:
        return self._tokens[self._at][1]

    def expect(self, text: str) -> None:
        if self._text != text:
            raise _GivesUp
        self._at += bool(text)

    def _take(self) -> tuple[str, str, int]:
        token = self._tokens[self._at]
        if not token[1]:
            raise _GivesUp
        self._at += 1
        return token

    def ternary(self) -> str:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise _GivesUp
        found, start = [], self._tokens[self._at][2]
        kind = self._binary(0)
        while self._text == "?":
            self._needs_bool(kind, "the condition of ?:", start)
            self.expect("?")
            found.append(self.ternary())
            self.expect(":")
            start = self._tokens[self._at][2]
            kind = self._binary(0)
        self._depth -= 1
        return _common([*found, kind])

    def _binary(self, level: int) -> str:
        if level == len(_LEVELS):
            return self._unary()
        left = self._binary(level + 1)
        while self._text in _LEVELS[level]:
            _, operator, at = self._take()
            left = self._operation(operator, left, self._binary(level + 1), at)
        return left

    def _operation(self, operator: str, left: str, right: str, at: int) -> str:
        if operator in ("&&", "||"):
            for kind in (left, right):
                self._needs_bool(kind, operator, at)
            return "bool"
        if operator in ("==", "!="):
            if "" not in (left, right) and not _equal(left, right):
                answer = "false" if operator == "==" else "true"
                self._find(f"{left} and {right} are never equal: this is always {answer}", at, doubtful=True)
            return "bool"
        works, kind = _COMPUTED[operator](left, right) if operator in _COMPUTED else (_ordered(left, right), "bool")
        if not works:
            hint = "; convert with int(x) or double(x)" if {left, right} <= _NUMBERS else ""
            self._find(f"there is no {left or 'value'} {operator} {right or 'value'}{hint}", at)
        return kind

    def _unary(self) -> str:
        signs = []
        while self._text in ("!", "-"):
            signs.append(self._take())
        kind = self._members(*self._primary())
        for _, sign, at in reversed(signs):
            if sign == "!":
                self._needs_bool(kind, "!", at)
                kind = "bool"
            elif kind not in _NUMBERS and kind not in ("", "some", "duration"):
                self._find(f"there is no - of {kind}", at)
        return kind

    def _primary(self) -> tuple[str, int]:
        group, text, at = self._take()
        if group == "string":
            return ("bytes" if "b" in re.split("['\"]", text.lower())[0] else "string"), at
        if group == "number":
            return _number(text), at
        if group == "name":
            return self._name(text, at), at
        if text == "(":
            kind = self.ternary()
            self.expect(")")
            return kind, at
        if text == "[":
            self._list("]")
            return "list", at
        if text == "{":
            self._list("}", pairs=True)
            return "map", at
        raise _GivesUp

    def _name(self, name: str, at: int) -> str:
        if name in ("true", "false", "null"):
            return "null" if name == "null" else "bool"
        if self._text == "(":
            return self._call(name, None, at)
        return self._kinds.get(name, "")

    def _members(self, kind: str, start: int) -> str:
        while self._text in (".", "["):
            if self._take()[1] == "[":
                self.ternary()
                self.expect("]")
                kind = ""
                continue
            group, name, at = self._take()
            if group != "name":
                raise _GivesUp
            kind = self._call(name, kind, at) if self._text == "(" else ""
        if self._text == "{":
            raise _GivesUp
        return kind

    def _call(self, name: str, receiver: str | None, at: int) -> str:
        self.expect("(")
        hidden = self._tokens[self._at][1] if name in _LOOPS and receiver is not None else ""
        before = self._kinds.pop(hidden, None)
        start = self._at
        kinds = self._list(")")
        if before is not None:
            self._kinds[hidden] = before
        subject = receiver if receiver is not None else kinds[0] if kinds else ""
        if name == "size" and subject not in ("", "some", *_SIZED):
            self._find(f"{subject} has no size", at)
        if name in _OF_TEXT and receiver not in (None, "", "some", "string"):
            self._find(f"{name} is for a string, not for {subject}", at)
        if receiver is None and (name in _OF_TEXT or name == "contains"):
            self._find(f"{name} is a method: write text.{name}(…)", at)
        if name == "matches" and receiver is not None:
            self._pattern(start)
        return _RESULTS.get(name, "int" if name.startswith("get") else "")

    def _pattern(self, index: int) -> None:
        """A pattern that is one literal: the argument ends right behind it."""
        group, text, at = self._tokens[index]
        if group == "string" and index + 2 == self._at:
            self.patterns.append((text, at))

    def _list(self, end: str, *, pairs: bool = False) -> list[str]:
        kinds = []
        while self._text != end:
            kinds.append(self.ternary())
            if pairs:
                self.expect(":")
                self.ternary()
            if self._text != end:
                self.expect(",")
        self.expect(end)
        return kinds

    def _needs_bool(self, kind: str, what: str, at: int) -> None:
        if kind not in ("", "bool"):
            self._find(f"{what} needs true or false, not {'a value' if kind == 'some' else kind}", at)

    def _find(self, message: str, at: int, *, doubtful: bool = False) -> None:
        self.findings.append(Finding(message, at, doubtful))


def _tokens(source: str) -> list[tuple[str, str, int]]:
    """(group, text, offset) of each token, operators of two characters as one, and an empty one at the end."""
    found: list[tuple[str, str, int]] = []
    for match in TOKEN.finditer(source):
        group, text, at = match.lastgroup or "", match[0], match.start()
        if group == "space":
            continue
        if group == "mark" and found and found[-1][1] + text in _PAIRS and found[-1][2] == at - 1:
            found[-1] = (group, found[-1][1] + text, at - 1)
        else:
            found.append((group, text, at))
    return [*found, ("", "", len(source))]


def _number(text: str) -> str:
    if text[-1] in "uU":
        return "uint"
    return "double" if not text.lower().startswith("0x") and re.search("[.eE]", text) else "int"


def _common(kinds: list[str]) -> str:
    """The type of a value that is one of these."""
    if len(set(kinds)) == 1:
        return kinds[0]
    return "" if "" in kinds or "bool" in kinds else "some"


def _equal(left: str, right: str) -> bool:
    return left == right or "null" in (left, right) or "some" in (left, right) or {left, right} <= _NUMBERS


def _ordered(left: str, right: str) -> bool:
    known = {left, right} - {"", "some"}
    return known <= _ORDERED and (len(known) < 2 or known <= _NUMBERS)


def _sum(left: str, right: str) -> tuple[bool, str]:
    known = {left, right} - {"", "some"}
    if not known <= _ADDED:
        return False, "some"
    if len(known) < 2:
        (kind,) = known or {"some"}
        return True, "some" if kind in _TIMES else kind
    return known == _TIMES or _mixable(known), _mixed(known)


def _difference(left: str, right: str) -> tuple[bool, str]:
    known = {left, right} - {"", "some"}
    if not known <= _NUMBERS | _TIMES:
        return False, "some"
    return len(known) < 2 or known == _TIMES or _mixable(known), _mixed(known)


def _product(left: str, right: str) -> tuple[bool, str]:
    known = {left, right} - {"", "some"}
    return known <= _NUMBERS and (len(known) < 2 or _mixable(known)), _mixed(known) if known <= _NUMBERS else "some"


def _mixable(known: set[str]) -> bool:
    return known <= _NUMBERS and "number" in known


def _mixed(known: set[str]) -> str:
    return min(known) if len(known) == 1 and known <= _NUMBERS else "number" if known and known <= _NUMBERS else "some"


def _contained(left: str, right: str) -> tuple[bool, str]:
    return right in ("", "some", "list", "map"), "bool"


_COMPUTED: Final[Mapping[str, Callable[[str, str], tuple[bool, str]]]] = {
    "+": _sum,
    "-": _difference,
    "*": _product,
    "/": _product,
    "%": _product,
    "in": _contained,
}
