"""Commands about the embedded store's files: check, dump, backup, compact."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from windlass.client.cli.connected import output_option
from windlass.client.cli.extras import load
from windlass.client.cli.failures import REFUSED, WRONG, Stop
from windlass.client.cli.screen import Screen

_directory = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="WINDLASS_DATA_DIR",
    default=Path(".windlass"),
    show_default=True,
    help="The engine's data directory. Environment: WINDLASS_DATA_DIR.",
)


@click.group()
def storage() -> None:
    """Look after an embedded store: check, dump, backup, compact."""


@storage.command()
@_directory
@click.option("--storage", "url", help="With --deep, a shared store instead: fdb:CLUSTERFILE or postgres://…")
@click.option("--deep", is_flag=True, help="Also replay every history and compare it with what lies in the store.")
@output_option
def check(data_dir: Path, url: str | None, deep: bool, output: str) -> None:
    """Read a store at rest, page by page and row by row. Stop the engines of a shared store first."""
    screen = Screen(output)
    if url and deep:
        _tell(screen, url, {"storage": url}, _deep_shared(url))
        return
    if url:
        raise click.UsageError("--storage goes with --deep: a shared store checks its pages itself")
    offline = load("windlass.storage.offline", "engine")
    with _named(data_dir):
        report = offline.check(data_dir)
    findings = _deep(data_dir) if deep else []
    whole = {
        "rows": report.rows,
        "key_bytes": report.key_bytes,
        "value_bytes": report.value_bytes,
        "version": report.version,
        "file_bytes": report.file_bytes,
    }
    _tell(screen, str(data_dir), whole, findings)


def _tell(screen: Screen, where: str, facts: dict[str, Any], findings: list[str]) -> None:
    """The facts, then every finding. Raises Stop if there is one."""
    screen.fields(facts.items(), {**facts, "findings": findings})
    if not screen.json:
        for finding in findings:
            screen.say(finding)
        screen.say("whole" if not findings else f"{len(findings)} findings")
    if findings:
        raise Stop(f"the store {where} breaks {len(findings)} invariants; keep a copy and report them", REFUSED)


def _deep(data_dir: Path) -> list[str]:
    """What the engine's own check finds: every history replayed and compared with what lies in the store."""
    offline, checking = load("windlass.storage.offline", "engine"), load("windlass.engine.checking", "engine")
    with _named(data_dir), offline.Reader(data_dir) as reader:
        return [str(each) for each in checking.check_rows(reader.rows)]


def _deep_shared(url: str) -> list[str]:
    """The same of a store that several engines share."""
    composition, checking = load("windlass.engine.composition", "engine"), load("windlass.engine.checking", "engine")
    config = load("windlass.engine.config", "engine")

    async def look() -> list[str]:
        opened, _ = await composition.open_storage(config.Settings(storage=url))
        try:
            return [str(each) for each in await checking.check_store(opened)]
        finally:
            await opened.close()

    with _named():
        return asyncio.run(look())


@storage.command()
@_directory
@click.option("--table", default="", help="Only rows of this table, such as RUN or LEASE.")
@click.option("--values", is_flag=True, help="Also the values, in hex.")
@click.option("--limit", type=click.IntRange(1), help="How many rows at most.")
def dump(data_dir: Path, table: str, values: bool, limit: int | None) -> None:
    """Print every key of a store in words. Works beside a running engine."""
    offline, keys = load("windlass.storage.offline", "engine"), load("windlass.engine.keys", "engine")
    shown = 0
    with _named(data_dir):
        for key, value in offline.dump(data_dir):
            line = _described(keys.describe, key)
            if table and not line.startswith(table.upper()):
                continue
            sys.stdout.write(f"{line}  {len(value)} bytes{'  ' + value.hex() if values else ''}\n")
            shown += 1
            if shown == limit:
                return


def _described(describe: Callable[[bytes], str], key: bytes) -> str:
    try:
        return describe(key)
    except (ValueError, IndexError):
        return f"? {key.hex()}"


@storage.command()
@_directory
@click.argument("target", type=click.Path(path_type=Path))
@output_option
def backup(data_dir: Path, target: Path, output: str) -> None:
    """Copy a store into the new directory TARGET. Works beside a running engine."""
    with _named(data_dir):
        report = load("windlass.storage.offline", "engine").backup(data_dir, target)
    whole = {"target": str(target), "rows": report.rows, "version": report.version, "file_bytes": report.file_bytes}
    Screen(output).fields(whole.items(), whole)


@storage.command()
@_directory
@output_option
def compact(data_dir: Path, output: str) -> None:
    """Rewrite the file of a store at rest without its free pages."""
    with _named(data_dir):
        before, after = load("windlass.storage.offline", "engine").compact(data_dir)
    whole = {"bytes_before": before, "bytes_after": after}
    Screen(output).fields(whole.items(), whole)


@contextmanager
def _named(data_dir: Path | None = None) -> Iterator[None]:
    """Turns the store's own errors, whose messages say what to do, into one line and an exit code."""
    if data_dir is not None and data_dir.exists() and not data_dir.is_dir():
        raise Stop(f"--data-dir: {data_dir} is not a directory; give the one the engine has its data in", WRONG)
    port: Any = load("windlass.storage.port", "engine")
    try:
        yield
    except (port.StorageError, OSError, ValueError) as error:
        raise Stop(str(error), REFUSED) from error


COMMANDS = (storage,)
