"""Make a plain script of what an author wrote, keeping every line where it was.

QuickJS gives us no way to reach a module's exports, so `export` is rewritten, and only at the top level of the file:

    export default function run(…)    →    the declaration stays, and its name becomes the entry point
    export default <expression>       →    $default=<expression>, in the same columns
    export const / function / class   →    the word `export` becomes blanks
    export { a, run as default };     →    blanks, and the name becomes the entry point

and after the last line a trailer names the entry point. `const run = …` gets such a trailer too, because a lexical name
is invisible outside of its script. Imports are refused: a task has nothing that it could import.

To find the top level one must tell strings, comments, templates and regular expressions from code. That needs no
parser, only tokens; the one doubtful case, whether a `/` divides or opens a regular expression, is decided by the token
before it. Where that guess is wrong the engine reports the syntax error, never a wrong result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from windlass.runtimes.port import BadCode, Problem

SOURCE_BYTES_MAX: Final = 1 << 20

_TOKEN: Final = re.compile(
    r"""(?P<blank>\s+|//[^\n]*|/\*.*?\*/)|(?P<string>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")"""
    r"""|(?P<word>[A-Za-z_$][\w$]*)|(?P<number>\d[\w.]*)|(?P<mark>.)""",
    re.DOTALL,
)
_REGEX: Final = re.compile(r"/(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/[a-z]*")
_TEMPLATE: Final = re.compile(r"(?:[^`\\$]|\\.|\$(?!\{))*(`|\$\{)", re.DOTALL)
_BEFORE_REGEX: Final = frozenset(
    {"", "return", "typeof", "case", "in", "of", "delete", "void", "throw", "new", "do", "else", "yield", "await"}
)
_DECLARATION: Final = re.compile(r"(?:async\s+)?(?:function\s*\*?|class)\s+(?!extends\b)([A-Za-z_$][\w$]*)")
_LEXICAL_RUN: Final = re.compile(r"(?:const|let|class)\s+run\b")
_DEFAULT: Final = re.compile(r"export\s+default\b")
_EXPORT_LIST: Final = re.compile(r"export\s*\{([^}]*)\}(\s*from\b)?\s*;?")
_TYPESCRIPT: Final = re.compile(
    r"^\s*(?:export\s+)?(?:interface\s+\w+|type\s+\w+\s*(?:<[^>\n]*>)?=|enum\s+\w+|declare\s+\w+|namespace\s+\w+|import\s+type)"
    r"|[\w)\]?]\s*:\s*(?:string|number|boolean|any|unknown|void|never|object|Record<|Array<|Promise<)"
    r"|\bas\s+(?:const|string|number|boolean|any|unknown)\b",
    re.MULTILINE,
)
TYPESCRIPT_MESSAGE: Final = "TypeScript is not supported yet: compile it to JavaScript and give us the result"


class _Word(NamedTuple):
    text: str
    start: int
    #: The token before it on the same level of attention: "" at the start.
    before: str


def script_of(code: bytes) -> str:
    """Return the script to evaluate. Raises BadCode."""
    text = _text_of(code)
    if not text.strip():
        raise BadCode(Problem("the code is empty"))
    if "export" not in text and "import" not in text and "run" not in text:
        return text
    return _rewrite(text)


def _text_of(code: bytes) -> str:
    if len(code) > SOURCE_BYTES_MAX:
        raise BadCode(Problem(f"the code is {len(code)} bytes; the limit is {SOURCE_BYTES_MAX}"))
    try:
        text = code.decode("utf-8")
    except UnicodeDecodeError as error:
        line = code.count(b"\n", 0, error.start) + 1
        raise BadCode(Problem(f"the code is not UTF-8 (byte {error.start})", line)) from error
    if "\0" in text:
        raise BadCode(Problem("the code has a NUL character", text.count("\n", 0, text.index("\0")) + 1))
    return text.removeprefix("\ufeff")


def _rewrite(text: str) -> str:
    pieces: list[str] = []
    trailer = ""
    kept = 0
    for word in _top_level_words(text):
        if word.text == "import":
            _refuse_import(text, word.start)
        elif word.text == "export" and word.start >= kept:
            pieces.append(text[kept : word.start])
            replacement, kept, addition = _export(text, word.start)
            pieces.append(replacement)
            trailer += addition
        elif word.text in ("const", "let", "class") and _LEXICAL_RUN.match(text, word.start):
            trailer += ";globalThis.run=run"
    pieces.append(text[kept:])
    return "".join(pieces) + (f"\n{trailer}" if trailer else "")


def _export(text: str, start: int) -> tuple[str, int, str]:
    """Return what replaces the text from `start`, where the kept text goes on, and what the trailer needs."""
    if default := _DEFAULT.match(text, start):
        declared = _DECLARATION.match(text, _skip_blank(text, default.end()))
        if declared:
            return _blank(default.group()), default.end(), f";$default={declared[1]}"
        return "$default=" + _blank(default.group())[9:], default.end(), ""
    if names := _EXPORT_LIST.match(text, start):
        if names[2]:
            raise _no_imports(text, start)
        chosen = re.search(r"([\w$]+)\s+as\s+default\b", names[1])
        return _blank(names.group()), names.end(), f";$default={chosen[1]}" if chosen else ""
    if re.compile(r"export\s*\*").match(text, start):
        raise _no_imports(text, start)
    return " " * 6, start + 6, ""


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def _skip_blank(text: str, at: int) -> int:
    while (match := _TOKEN.match(text, at)) and match.lastgroup == "blank":
        at = match.end()
    return at


def _refuse_import(text: str, start: int) -> None:
    following = text[_skip_blank(text, start + 6) :][:1]
    if following not in ("(", "."):
        raise _no_imports(text, start)


def _no_imports(text: str, start: int) -> BadCode:
    if text.startswith("import type", start):
        return BadCode(Problem(TYPESCRIPT_MESSAGE, text.count("\n", 0, start) + 1))
    line = text.count("\n", 0, start) + 1
    column = start - text.rfind("\n", 0, start)
    return BadCode(Problem("task code cannot import anything: bundle it into one file", line, column))


def _top_level_words(text: str) -> Iterator[_Word]:
    """Yield the words outside of all brackets that can begin a statement there."""
    at, depth, before, line_began = 0, 0, "", True
    templates: list[int] = []
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return
        token, kind, end = match.group(), match.lastgroup, match.end()
        if kind == "blank":
            line_began = line_began or "\n" in token
            at = end
            continue
        if token == "`" or (token == "}" and templates and templates[-1] == depth):
            template = _TEMPLATE.match(text, end)
            if template is None:
                return
            end = template.end()
            if token == "}":
                templates.pop()
                depth -= 1
            if template[1] == "${":
                depth += 1
                templates.append(depth)
        elif token in "([{":
            depth += 1
        elif token in ")]}":
            depth -= 1
        elif token == "/" and (before in _BEFORE_REGEX or before in "(,=:[!&|?{};+-*%~^<>"):
            regex = _REGEX.match(text, at)
            end = regex.end() if regex else end
        elif kind == "word" and depth == 0 and (line_began or before in ("", ";", "}", "export")):
            yield _Word(token, at, before)
        before = token if kind in ("word", "mark") else "literal"
        line_began = False
        at = end


def hint_for(source: str, message: str) -> str:
    """Return what to add to a syntax error, or "": what the author probably meant."""
    if _TYPESCRIPT.search(source):
        return TYPESCRIPT_MESSAGE
    if re.search(r"^\s*(?:const\s+\w+\s*=\s*)?await\b", source, re.MULTILINE):
        return "await works inside of an async function: write `async function run(input, ctx) { … }`"
    if re.search(r"^\s*return\b", source, re.MULTILINE) and "return" in message:
        return "the last expression is the result: leave out `return`, or write `function run(input, ctx) { … }`"
    return ""
