"""The README and the pages it leads to: every command in them is run, every table in them is compared with the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import click
import pytest

from tests.acceptance.documents import run_page
from tests.acceptance.programs import ROOT
from windlass.client.cli import cli, failures
from windlass.client.cli.processes import engine, worker
from windlass.engine.core import events

PAGES = ["README.md", "docs/getting-started.md", "docs/cli.md", "docs/guarantees.md", "docs/history.md"]


@pytest.mark.long(14)
@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_does_what_it_says(page: str, tmp_path: Path) -> None:
    run_page(ROOT / page, tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_the_page_leads_somewhere(page: str) -> None:
    file = ROOT / page
    links = re.findall(r"\]\(([^)#]+)", file.read_text("utf-8"))
    missing = [link for link in links if "://" not in link and not (file.parent / link).exists()]
    assert missing == []


def test_the_workflow_of_the_readme_has_fifteen_lines() -> None:
    (workflow,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert workflow.count("\n") == 15


def test_the_page_lists_every_command() -> None:
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    missing = [name for name in names_of(cli) if not re.search(rf"`[^`]*\b{re.escape(name)}\b[^`]*`", page)]
    assert missing == []


def names_of(group: click.Group) -> list[str]:
    """Names of all commands, also of those in groups."""
    found = []
    for name, command in group.commands.items():
        found.append(name)
        if isinstance(command, click.Group):
            found += names_of(command)
    return found


def test_the_page_has_every_exit_code() -> None:
    table = (ROOT / "docs" / "cli.md").read_text("utf-8").partition("## Exit codes")[2].partition("## ")[0]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert documented == {
        0,
        *(value for name, value in vars(failures).items() if name.isupper() and isinstance(value, int)),
    }


@pytest.mark.parametrize("command", [engine, worker], ids=lambda command: str(command.name))
def test_the_page_has_every_setting_of_the_programs(command: click.Command) -> None:
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    options = [option for parameter in command.params for option in parameter.opts]
    assert [option for option in options if f"`{option}`" not in page] == []


def test_the_page_of_history_has_every_event_and_no_other() -> None:
    recorded = {kind.__name__ for kind in get_args(events.AnyEvent)}
    table = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", (ROOT / "docs" / "history.md").read_text("utf-8"), re.MULTILINE)
    assert {name.strip("`") for row in table for name in row.split(", ")} == recorded


def test_every_page_that_the_code_mentions_is_there() -> None:
    sources = [*(ROOT / "client").rglob("*.py"), *(ROOT / "examples").rglob("*.*")]
    mentioned = {
        name
        for file in sources
        if file.suffix not in (".wasm", ".pyc")
        for name in re.findall(r"docs/[\w-]+\.md", file.read_text("utf-8"))
    }
    assert sorted(name for name in mentioned if not (ROOT / name).exists()) == []
