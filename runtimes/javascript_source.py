"""Make a plain script of what an author wrote, keeping every line where it was.

QuickJS gives us no way to reach a module's exports, so `export` is rewritten, and only at the top level of the file:

    export default function run(…)    →    the declaration stays, and its name becomes the entry point
    export default <expression>       →    $default=<expression>, in the same columns
    export default function (…)       →    a declaration, called $default: it ends with its brace, as in a module
    export const / function / class   →    the word `export` becomes blanks
    export { a, b as default };       →    blanks, and the name becomes the entry point; so with `b as run`

and at the end a trailer names the entry point. Code with a `run` gets such a trailer too, because names are
invisible outside of their script when they are lexical, and all of them when the script is strict. Imports are refused:
a task has nothing that it could import.

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
    r"""(?P<blank>\s+|//[^\n]*)|(?P<word>[A-Za-z_$][\w$]*)|(?P<number>\d[\w.]*)|(?P<mark>/\*|.)""",
    re.DOTALL,
)
# What has an end of its own, by how it begins. Each matches up to where the end would have to be; `end` tells if it is.
_ENDED: Final = {
    "'": re.compile(r"'(?:[^'\\\n]|\\.)*(?P<end>')?", re.DOTALL),
    '"': re.compile(r'"(?:[^"\\\n]|\\.)*(?P<end>")?', re.DOTALL),
    "/*": re.compile(r"/\*.*?(?:(?P<end>\*/)|\Z)", re.DOTALL),
    "/": re.compile(r"/(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\]?)+(?P<end>/[a-z]*)?"),
}
_TEMPLATE: Final = re.compile(r"(?:[^`\\$]|\\.|\$(?!\{))*(`|\$\{)", re.DOTALL)
_BEFORE_REGEX: Final = frozenset(
    {"", "return", "typeof", "case", "in", "of", "delete", "void", "throw", "new", "do", "else", "yield", "await"}
)
_DECLARATION: Final = re.compile(r"(?:async\s+)?(?:function(?:\s*\*\s*|\s+)|class\s+)(?!extends\b)([A-Za-z_$][\w$]*)")
# A function or class without a name. As an expression it would go on where the next line begins with a bracket.
_NAMELESS: Final = re.compile(r"(?:async[^\S\n]+)?function(?:\s*\*)?(?=\s*\()|class(?=\s*\{|\s+extends\b)")
_RUN: Final = re.compile(r"(?<![\w$.])run(?![\w$])")
_RUN_FUNCTION: Final = re.compile(r"function\s*\*?\s*run(?![\w$])")
#: A declaration, and so without a value that would take the place of the last expression's.
_RUN_TRAILER: Final = ";const $hostRun=typeof run==='undefined'||(globalThis.run=run)"
_STRICT: Final = re.compile(r"(['\"])use strict\1[^\S\n]*(?:[;\n/]|\Z)")
_DEFAULT: Final = re.compile(r"export\s+default\b")
_EXPORT_LIST: Final = re.compile(r"export\s*\{([^}]*)\}(\s*from\b)?\s*;?")
_AS_ENTRY: Final = re.compile(r"(?<![\w$])([\w$]+)\s+as\s+(default|run)\b")
_TYPESCRIPT: Final = re.compile(
    r"^[^\S\n]*(?:export\s+)?(?:interface\s+\w+|type\s+\w+\s*(?:<[^>\n]*>)?=|enum\s+\w+|declare\s+\w+|namespace\s+\w+|import\s+type)"
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


def is_strict(script: str) -> bool:
    """Tell whether the first thing in `script` says that it is strict."""
    return _STRICT.match(script, _Scan(script).skip_blank(0)) is not None


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
    text = text.removeprefix("\ufeff")
    return f"//{text[2:]}" if text.startswith("#!") else text  # `#!` is a comment in the very first place only


def _rewrite(text: str) -> str:
    pieces: list[str] = []
    trailer = _run_trailer(text)
    kept = 0
    scan = _Scan(text)
    for word in scan.top_level_words():
        if word.text == "import":
            _refuse_import(scan, word.start)
        elif word.text == "export" and word.start >= kept:
            pieces.append(text[kept : word.start])
            replacement, kept, addition = _export(scan, word.start)
            pieces.append(replacement)
            trailer += addition
    pieces.append(text[kept:])
    return "".join(pieces) + (_gap(text) + trailer if trailer else "")


def _run_trailer(text: str) -> str:
    """Return what makes `run` known outside; the one `function run` of most scripts is, and compiling costs time."""
    found = _RUN.findall(text)
    known = len(found) == 1 and _RUN_FUNCTION.search(text) and "use strict" not in text
    return _RUN_TRAILER if found and not known else ""


def _gap(text: str) -> str:
    """Return a line end where the last line may end in a comment; else nothing, so that an open end is in its line."""
    last = text[text.rfind("\n") + 1 :]
    return "\n" if "//" in last or "--" in last else ""


def _export(scan: _Scan, start: int) -> tuple[str, int, str]:
    """Return what replaces the text from `start`, where the kept text goes on, and what the trailer needs."""
    text = scan.text
    if default := _DEFAULT.match(text, start):
        begins = scan.skip_blank(default.end())
        if declared := _DECLARATION.match(text, begins):
            return _blank(default.group()), default.end(), f";$default={declared[1]}"
        if nameless := _NAMELESS.match(text, begins):
            return _named(text[start:begins], nameless.group()), nameless.end(), ";globalThis.$default=$default"
        return "$default=" + _blank(default.group())[9:], default.end(), ""
    if names := _EXPORT_LIST.match(text, start):
        if names[2]:
            raise _no_imports(text, start)
        return _blank(names.group()), names.end(), "".join(map(_entry, _AS_ENTRY.finditer(names[1])))
    if re.compile(r"export\s*\*").match(text, start):
        raise _no_imports(text, start)
    return " " * 6, start + 6, ""


def _named(before: str, keyword: str) -> str:
    """Return `keyword` with the name `$default`, so far to the left that what follows keeps its column."""
    name = " $default"
    blank = _blank(before)
    return (blank[: -len(name)] if blank.endswith(" " * len(name)) else blank) + keyword + name


def _entry(chosen: re.Match[str]) -> str:
    return f";{'$default' if chosen[2] == 'default' else 'globalThis.run'}={chosen[1]}"


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def _refuse_import(scan: _Scan, start: int) -> None:
    following = scan.skip_blank(start + 6)
    if scan.text[following : following + 1] not in ("(", "."):
        raise _no_imports(scan.text, start)


def _no_imports(text: str, start: int) -> BadCode:
    if text.startswith("import type", start):
        return BadCode(Problem(TYPESCRIPT_MESSAGE, text.count("\n", 0, start) + 1))
    line = text.count("\n", 0, start) + 1
    column = start - text.rfind("\n", 0, start)
    return BadCode(Problem("task code cannot import anything: bundle it into one file", line, column))


class _Scan:
    """One pass over a text, token by token."""

    def __init__(self, text: str) -> None:
        self.text = text
        #: How something begins → up to where there is no end for it.
        self._endless: dict[str, int] = {}

    def skip_blank(self, at: int) -> int:
        """Return where the next thing begins that is neither white space nor comment."""
        while (match := _TOKEN.match(self.text, at)) and (end := self._end_of_blank(match)):
            at = end
        return at

    def _end_of_blank(self, match: re.Match[str]) -> int:
        if match.lastgroup == "blank":
            return match.end()
        return self._end_of("/*", match.start()) if match.group() == "/*" else 0

    def _end_of(self, opening: str, at: int) -> int:
        """Return where what begins here ends; 0 if it never does. An end that was missing once is not sought again."""
        if at < self._endless.get(opening, 0) or (match := _ENDED[opening].match(self.text, at)) is None:
            return 0
        if match["end"] is None:
            self._endless[opening] = match.end()
            return 0
        return match.end()

    def top_level_words(self) -> Iterator[_Word]:
        """Yield the words outside of all brackets that can begin a statement there."""
        text = self.text
        at, depth, before, line_began = 0, 0, "", True
        templates: list[int] = []
        while match := _TOKEN.match(text, at):
            token, kind, end = match.group(), match.lastgroup, match.end()
            if over := self._end_of_blank(match):
                line_began = line_began or "\n" in text[at:over]
                at = over
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
            elif token in "'\"":
                if over := self._end_of(token, at):
                    end, kind = over, "string"
            elif token == "/" and (before in _BEFORE_REGEX or before in "(,=:[!&|?{};+-*%~^<>"):
                end = self._end_of("/", at) or end
            elif kind == "word" and depth == 0 and (line_began or before in ("", ";", "}", "export")):
                yield _Word(token, at, before)
            before = token if kind in ("word", "mark") else "literal"
            line_began = False
            at = end


def hint_for(source: str, message: str) -> str:
    """Return what to add to a syntax error, or "": what the author probably meant."""
    if _TYPESCRIPT.search(source):
        return TYPESCRIPT_MESSAGE
    if re.search(r"^[^\S\n]*(?:const\s+\w+\s*=\s*)?await\b", source, re.MULTILINE):
        return "await works inside of an async function: write `async function run(input, ctx) { … }`"
    if re.search(r"^[^\S\n]*return\b", source, re.MULTILINE) and "return" in message:
        return "the last expression is the result: leave out `return`, or write `function run(input, ctx) { … }`"
    return ""
