"""Runs a document as its reader would: every command in order, in one folder, with the examples beside it.

Theory of operation. A page is turned into one bash script. In ```console blocks a line that begins with "$ " is a
command, other lines are what it must print, in that order, … standing for anything. A ```yaml or ```python block is
saved under the file name that the text before it ended on (`greet.yaml`). Programs that stay (`windlass dev | engine
| worker`) are put into the background if the page has them in a terminal of their own, and the script goes on when
the engine answers. `make` and `source` lines are only checked to be possible: the script already runs inside what
they make, and other tests run their targets.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.programs import EXAMPLES, ROOT
from windlass.client.cli.children import free_port

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`([\w-]+\.(?:yaml|py))`")
_STAYS = re.compile(r"windlass (?:dev|engine|worker)\b")
_MARK = "=== end of command"
_SECONDS_MAX = 110


@dataclass
class Command:
    """One command of a page and the lines it must print."""

    text: str
    expected: list[str] = field(default_factory=list)


def commands_of(page: str) -> Iterator[Command]:
    """The commands of all console blocks, in order; files to be saved become commands too."""
    for block in _BLOCK.finditer(page):
        kind, body = block.groups()
        if kind == "console":
            yield from _console(body)
        elif kind in ("yaml", "python"):
            names = _FILE.findall(page[: block.start()])
            assert names, f"no file name before this block:\n{body}"
            yield Command(f"cat > {names[-1]} <<'END OF FILE'\n{body}END OF FILE")


def _console(body: str) -> Iterator[Command]:
    command: Command | None = None
    for line in body.splitlines():
        if line.startswith("$ "):
            if command is not None:
                yield command
            command = Command(line[2:])
        else:
            assert command is not None, f"output before the first command: {line}"
            command.expected.append(line)
    if command is not None:
        yield command


def run_page(page: Path, folder: Path) -> None:
    """Runs the page in `folder`. Fails with the command that did not do what the page says."""
    commands = list(commands_of(page.read_text("utf-8")))
    shutil.copytree(EXAMPLES, folder / "examples")
    address = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "WINDLASS_ENGINE": address,
        "WINDLASS_LISTEN": address,
    }
    done = subprocess.run(
        ["bash", "-c", script_of(commands)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS_MAX,
        check=False,
    )
    outputs = done.stdout.split(f"{_MARK}\n")
    assert done.returncode == 0, f"{page.name}: {commands[len(outputs) - 1].text}\n{outputs[-1]}\n{done.stderr}"
    for command, output in zip(commands, outputs, strict=False):
        _compare(command, output)


def script_of(commands: list[Command]) -> str:
    """The page as one script, which ends every program it started."""
    lines = ["set -m", "trap 'kill -TERM $(jobs -p) 2>/dev/null; wait' EXIT"]
    for command in commands:
        if _STAYS.match(command.text) and "worker" not in command.text:
            lines.append('if test -n "$own"; then kill -TERM $own; wait $own; own=; fi')
        lines += [_made_runnable(command.text), "code=$?"]
        if "windlass dev" in command.text or "windlass engine" in command.text:
            lines.append("for _ in 1 2 3 4 5 6 7 8 9; do windlass info >/dev/null 2>&1 && break; done")
        lines += ['test "$code" = 0 || exit "$code"', f"echo {shlex.quote(_MARK)}"]
    return "\n".join(lines)


def _made_runnable(text: str) -> str:
    if text.startswith("make "):
        return f"make -C {shlex.quote(str(ROOT))} --dry-run {text.removeprefix('make ')} > make.log 2>&1"
    if text.startswith("source "):
        return ":"
    if _STAYS.match(text) and not text.endswith("&"):
        return f"{text} > program.log 2>&1 & own=$!"
    return text


def _compare(command: Command, output: str) -> None:
    """Every expected line must be found, in order."""
    rest = output.splitlines()
    for expected in command.expected:
        pattern = re.compile(".*".join(re.escape(part) for part in expected.split("…")) + r"\s*\Z")
        place = next((place for place, line in enumerate(rest) if pattern.match(line)), None)
        assert place is not None, f"{command.text}\ndoes not print: {expected}\nbut:\n{output}"
        rest = rest[place + 1 :]
