"""The pages that are not run from top to bottom: what they tell a reader to type can be typed.

Commands of `windlass` are parsed by its own parser, modules and make targets are looked up, Python blocks are run with
what the page leaves to the reader filled in. The pages of `test_readme.PAGES` are run as they stand instead.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from tests.acceptance.programs import ROOT
from tests.acceptance.test_readme import PAGES
from tests.engine.documents import one_task
from tests.engine.served import Served, serving
from windlass.client.cli import cli
from windlass.runtimes.python_handlers import handler

OTHERS = sorted(path for path in (ROOT / "docs").glob("*.md") if f"docs/{path.name}" not in PAGES)
SIGNED_TEXT = "windlass module v1"  #: it looks like a command, and is what signatures begin with
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:windlass|python -m|make) [^`…\[]+)`")


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command on a page that this project must understand."""
    text = page.read_text("utf-8")
    lines = [
        line
        for kind, body in _BLOCK.findall(text)
        if kind in ("", "sh", "bash", "console")
        for line in body.splitlines()
    ]
    for line in [*lines, *_INLINE.findall(_BLOCK.sub("", text))]:
        typed = line.removeprefix("$ ").split(" | ")[0].split(" && ")[-1]
        words = shlex.split(typed, comments=True) if typed.startswith(("windlass ", "python -m ", "make ")) else []
        if words and typed != SIGNED_TEXT:
            yield words


@pytest.mark.parametrize("page", OTHERS, ids=lambda page: page.stem)
def test_every_command_on_the_page_can_be_typed(page: Path) -> None:
    wrong = {}
    for words in commands(page):
        try:
            known(words)
        except (click.UsageError, LookupError) as error:
            wrong[" ".join(words)] = str(error)
    assert wrong == {}


def known(words: list[str]) -> None:
    """Raises click.UsageError or LookupError for what there is not."""
    if words[0] == "windlass":
        parsed(cli, words[1:])
    elif words[0] == "make":
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
        for word in words[1:]:
            if not word.startswith("-") and "=" not in word and word not in targets:
                raise LookupError(f"no target {word}")
    elif importlib.util.find_spec(words[2]) is None:
        raise LookupError(f"no module {words[2]}")


def parsed(command: click.Command, words: list[str], parent: click.Context | None = None) -> None:
    """Options and arguments as the parser takes them; their values are not looked at."""
    context = click.Context(command, parent=parent, info_name=command.name)
    _, rest, _ = command.make_parser(context).parse_args(list(words))
    if isinstance(command, click.Group):
        if not rest:
            return
        _, found, rest = command.resolve_command(context, rest)
        assert found is not None
        parsed(found, rest, context)


def test_the_check_sees_what_is_wrong() -> None:
    for words in (
        "windlass worker --no-such-option",
        "windlass nothing",
        "make nothing",
        "python -m benchmarks.nothing",
    ):
        with pytest.raises((click.UsageError, LookupError)):
            known(words.split())
    assert sum(1 for page in OTHERS for _ in commands(page)) > 40


# The Python of docs/workers.md


@handler("pages.charge")
async def charge(input: int) -> int:
    """What the page's program has done."""
    return input * 2


@pytest.fixture
async def served() -> Any:
    async with serving() as engine:
        task = {"runtime": "python", "handler": "pages.charge"}
        await engine.register(one_task("charge", task=task, input={"key": "order"}, output="done"))
        yield engine


def block(page: str, marker: str, address: str) -> dict[str, Any]:
    """What a Python block of a page defines, with the engine and handlers of this test in it."""
    blocks = [body for kind, body in _BLOCK.findall((ROOT / page).read_text("utf-8")) if kind == "python"]
    (body,) = [body for body in blocks if marker in body]
    for theirs in ("127.0.0.1:7711", "engine:7711"):
        body = body.replace(theirs, address)
    body = body.replace('handlers=("payments",)', f'handlers=("{__name__}",)')
    defined: dict[str, Any] = {"asyncio": asyncio}
    exec(compile(body, page, "exec"), defined)
    return defined


async def test_a_program_does_what_it_starts(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    await block("docs/workers.md", "beside(", served.address)["main"]()
    assert "34" in capsys.readouterr().out


async def test_a_serverless_function_handles_what_there_is(served: Served) -> None:
    await served.register(one_task())
    for _ in range(3):
        await served.start("task")
    function = block("docs/workers.md", "def handler(event", served.address)["handler"]
    assert await asyncio.to_thread(function, None, None) == {"succeeded": 3, "failed": 0}
