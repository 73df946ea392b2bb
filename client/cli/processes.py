"""`windlass engine` and `windlass worker`: the two programs that stay.

Settings: flags, then environment, then a TOML file.
"""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path
from typing import Any

import click

from windlass.client.cli.connected import wrong
from windlass.client.cli.extras import load


def _read_config(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Makes the file's values the defaults of the command's flags: flags and environment come before them."""
    if path is None:
        return None
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise wrong(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except tomllib.TOMLDecodeError as error:
        raise wrong(f"{path} is not TOML: {error}") from error
    section = content.get(context.info_name or "", content)
    known = {parameter.name for parameter in context.command.params}
    given = {key.replace("-", "_"): value for key, value in section.items() if not isinstance(value, dict)}
    unknown = sorted(set(given) - known)
    if unknown:
        raise wrong(
            f"{path} has {', '.join(unknown)}, which `windlass {context.info_name}` does not know; see its --help"
        )
    context.default_map = given
    return path


_config = click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="WINDLASS_CONFIG",
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="TOML file; keys as the flags, top level or under [engine] and [worker]. Environment: WINDLASS_CONFIG.",
)


@click.command(context_settings={"auto_envvar_prefix": "WINDLASS"})
@click.option("--listen", metavar="HOST:PORT", default="127.0.0.1:7711", show_default=True, help="Where it answers.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path(".windlass"),
    show_default=True,
    help="Where the embedded store lies.",
)
@click.option(
    "--storage",
    metavar="URL",
    default="",
    help="embedded:PATH, fdb:CLUSTERFILE, postgres://… or memory:. Default: embedded, in the data directory.",
)
@click.option(
    "--lease",
    type=float,
    default=5.0,
    show_default=True,
    help="Seconds a worker may be silent before its tasks go to others.",
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@_config
def engine(**settings: Any) -> None:
    """Run an engine: it answers clients and gives tasks to workers. Ctrl-c or SIGTERM stops it gracefully."""
    module = load("windlass.engine.main", "engine")
    config = load("windlass.engine.config", "engine")
    raise SystemExit(asyncio.run(module.serve(config.Settings(**settings))))


@click.command(context_settings={"auto_envvar_prefix": "WINDLASS"})
@click.option(
    "--engine", metavar="HOST:PORT", default="127.0.0.1:7711", show_default=True, help="The engine to work for."
)
@click.option("--id", "worker_id", default="", help="Name of the worker. Default: host and process.")
@click.option("--slots", type=click.IntRange(1), default=4, show_default=True, help="Tasks it runs at once.")
@click.option("--queue", "queues", multiple=True, default=("default",), show_default=True, help="May be repeated.")
@click.option("--runtimes", default="javascript,wasm", show_default=True, help="Separated by commas.")
@click.option("--handlers", multiple=True, metavar="MODULE", help="Module with Python handlers; may be repeated.")
@click.option("--namespace", default="default", show_default=True, help="Tenant whose tasks it runs.")
@click.option("--require-isolation", default="", help="Layers of the jail without which it does not start.")
@_config
def worker(**settings: Any) -> None:
    """Run a worker: it takes tasks from an engine and runs them in their sandboxes. Ctrl-c or SIGTERM drains it."""
    raise SystemExit(asyncio.run(load("windlass.worker", "worker").run(settings)))


COMMANDS = (engine, worker)
