"""`windlass engine` and `windlass worker`: the two programs that stay.

Both take their settings from flags, then the environment (WINDLASS_…), then a TOML file. The engine merges them
itself, so that `python -m windlass.engine` in a container does the same; for the worker click does it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import tomllib
from pathlib import Path
from typing import Any

import click

from windlass.client.cli.connected import output_option, wrong
from windlass.client.cli.extras import load
from windlass.client.cli.failures import STILL_OPEN, UNAVAILABLE, UNSUPPORTED, WRONG
from windlass.client.cli.parameters import Seconds
from windlass.client.cli.screen import Screen

#: The worker's own exit codes are those of sysexits.h; here they are the ones of all commands.
_WORKER_EXITS = {
    os.EX_UNAVAILABLE: UNAVAILABLE,
    os.EX_OSERR: UNSUPPORTED,
    os.EX_CONFIG: WRONG,
    os.EX_TEMPFAIL: STILL_OPEN,
}
WAIT_HELP = "For the task of --once (default: 20); how long nothing comes before --until-idle ends (default: 1)."


@click.command()
@click.option("--listen", metavar="HOST:PORT", help="Where it answers. Default: 127.0.0.1:7711.")
@click.option("--data-dir", metavar="DIR", help="Where the embedded store lies. Default: ./.windlass.")
@click.option(
    "--storage",
    metavar="WHICH",
    help="embedded:PATH, fdb:CLUSTERFILE, postgres://… or memory:. Default: embedded, in the data directory.",
)
@click.option("--lease-seconds", type=float, help="Silence after which a worker's tasks go to others. Default: 5.")
@click.option("--sweep-seconds", type=float, help="How often expired runs and records are removed. Default: 30.")
@click.option("--history-keep", type=int, help="Events of a run that are always kept. Default: 10000.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Default: info.")
@click.option("--log-json", is_flag=True, default=None, help="Log lines as JSON.")
@click.option("--config", metavar="FILE", help="TOML file: keys as the flags, top level or under [engine].")
def engine(config: str | None, **flags: Any) -> None:
    """Run an engine until ctrl-c or SIGTERM.

    It answers clients, keeps runs in its store and gives tasks to workers. Settings come from these flags, then the
    environment (WINDLASS_LISTEN, WINDLASS_DATA_DIR, WINDLASS_STORAGE, …), then the TOML file (--config or
    WINDLASS_CONFIG).
    """
    settings: Any = load("windlass.engine.config", "engine")
    program: Any = load("windlass.engine.composition", "engine")
    try:
        chosen = settings.load(flags, config)
    except settings.SettingsError as error:
        raise wrong(str(error)) from error
    raise click.exceptions.Exit(program.run(chosen))


def _read_config(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Makes the file's values the defaults of the flags: flags and environment come before them."""
    if path is None:
        return
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise wrong(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except tomllib.TOMLDecodeError as error:
        raise wrong(f"{path} is not TOML: {error}") from error
    section = content.get("worker", content)
    if not isinstance(section, dict):
        raise wrong(f"{path}: worker is a table, as [worker]")
    flags = {option.name for option in context.command.params}
    if isinstance(section.get("offer"), dict):  # the only setting that is a table
        section = {**section, "offer": [f"{unit}={amount}" for unit, amount in section["offer"].items()]}
    given: dict[str, Any] = {
        key.replace("-", "_"): _as_flag(value) for key, value in section.items() if not isinstance(value, dict)
    }
    if "offer" in given:
        given["offer"] = [str(given["offer"])]
    if unknown := sorted(set(given) - flags):
        raise wrong(f"{path}: there is no setting {unknown[0]!r}; known are {', '.join(sorted(map(str, flags)))}")
    context.default_map = given


@click.command()
@click.option(
    "--engine",
    metavar="HOST:PORT",
    default="127.0.0.1:7711",
    show_default=True,
    help="Several: a,b,c.",
    envvar="WINDLASS_ENGINE",
)
@click.option("--id", "id", metavar="NAME", help="Stable name. Default: host and process.", envvar="WINDLASS_WORKER_ID")
@click.option("--slots", type=int, default=2, show_default=True, help="Tasks it runs at once.", envvar="WINDLASS_SLOTS")
@click.option(
    "--offer",
    metavar="UNIT=N",
    multiple=True,
    help="What it has for tasks that need some: gpu=2,memory=16384.",
    envvar="WINDLASS_OFFER",
)
@click.option(
    "--queue", metavar="NAME", default="default", show_default=True, help="Several: a,b,c.", envvar="WINDLASS_QUEUE"
)
@click.option(
    "--runtimes", default="javascript,wasm", show_default=True, help="Jailed runtimes.", envvar="WINDLASS_RUNTIMES"
)
@click.option(
    "--handlers", metavar="MODULE", default="", help="Modules with Python handlers: a,b,c.", envvar="WINDLASS_HANDLERS"
)
@click.option(
    "--standard-handlers",
    is_flag=True,
    help="Also HTTP request, webhook, email, log.",
    envvar="WINDLASS_STANDARD_HANDLERS",
)
@click.option(
    "--allow-hosts",
    metavar="HOSTS",
    default="",
    help="Only these for the network handlers: a,*.b.com.",
    envvar="WINDLASS_ALLOW_HOSTS",
)
@click.option(
    "--allow-networks",
    metavar="CIDR",
    default="",
    help="Private networks they may reach: 10.1.0.0/16.",
    envvar="WINDLASS_ALLOW_NETWORKS",
)
@click.option("--namespace", metavar="NAME", default="default", show_default=True, envvar="WINDLASS_NAMESPACE")
@click.option(
    "--require-isolation",
    metavar="LAYERS",
    default="",
    help="Refuse to start without these.",
    envvar="WINDLASS_REQUIRE_ISOLATION",
)
@click.option(
    "--cache-dir", type=click.Path(path_type=Path), help="Where modules are kept.", envvar="WINDLASS_CACHE_DIR"
)
@click.option(
    "--trusted-keys",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="PEM public keys: only code signed by one of them runs.",
    envvar="WINDLASS_TRUSTED_KEYS",
)
@click.option(
    "--drain-seconds",
    type=Seconds(),
    default=30.0,
    show_default=True,
    help="For running tasks.",
    envvar="WINDLASS_DRAIN_SECONDS",
)
@click.option(
    "--patience",
    type=Seconds(),
    default=30.0,
    show_default=True,
    help="Time to find the engine; 0: for ever.",
    envvar="WINDLASS_PATIENCE",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    envvar="WINDLASS_LOG_LEVEL",
)
@click.option("--log-json", is_flag=True, help="Log lines as JSON.", envvar="WINDLASS_LOG_JSON")
@click.option("--once", is_flag=True, help="Take one task, answer it, and end; exit code 9 if none came.")
@click.option("--until-idle", is_flag=True, help="Do what there is, and end.")
@click.option("--wait", type=Seconds(), help=WAIT_HELP)
@output_option
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="TOML file: keys as the flags, top level or under [worker].",
    envvar="WINDLASS_CONFIG",
)
def worker(once: bool, until_idle: bool, wait: float | None, output: str, **flags: Any) -> None:
    """Run a worker until ctrl-c or SIGTERM, or with --once or --until-idle until it has done that.

    It takes tasks from an engine and runs each in a jail of its own. Settings come from these flags, then the
    environment (WINDLASS_ENGINE, WINDLASS_SLOTS, …), then the TOML file (--config or WINDLASS_CONFIG).
    """
    program: Any = load("windlass.worker.main", "worker")
    errand = _errand(once, until_idle, wait)
    chosen = _settings(flags)
    with asyncio.Runner(loop_factory=load("uvloop", "worker").new_event_loop) as runner:
        code, done = runner.run(program.run_errand(chosen, errand))
    if errand is not None and code in (os.EX_OK, os.EX_TEMPFAIL):
        counts = dataclasses.asdict(done)
        shown = [(name, str(count)) for name, count in counts.items() if name not in ("failures", "denied")]
        Screen(output).fields(shown, counts)
    code = _WORKER_EXITS.get(code, code)
    program.leave(code)
    raise click.exceptions.Exit(code)


def _errand(once: bool, until_idle: bool, wait: float | None) -> Any:
    """What the worker is to do before it ends; None: go on."""
    if once and until_idle:
        raise wrong("--once and --until-idle: give one of them")
    if not once and not until_idle:
        if wait is not None:
            raise wrong("--wait goes with --once or --until-idle")
        return None
    hosting: Any = load("windlass.worker.hosting", "worker")
    usual = hosting.WAIT_FOR_ONE_S if once else hosting.WAIT_FOR_MORE_S
    return hosting.Errand(most=int(once), wait_s=usual if wait is None else wait)


def _settings(flags: dict[str, Any]) -> Any:
    """The worker's settings, checked."""
    settings: Any = load("windlass.worker.settings", "worker")
    try:
        chosen = _chosen(settings, flags)
        chosen.check()
    except settings.BadSettings as error:
        raise wrong(str(error)) from error
    return chosen


def _chosen(settings: Any, flags: dict[str, Any]) -> Any:
    return settings.WorkerSettings(
        engines=_parts(flags["engine"]),
        namespace=flags["namespace"],
        queues=_parts(flags["queue"]),
        runtimes=_parts(flags["runtimes"]),
        allowed_hosts=_parts(flags["allow_hosts"]),
        allowed_networks=_parts(flags["allow_networks"]),
        slots=flags["slots"],
        offer=settings.offer_of(flags["offer"]),
        handlers=_parts(flags["handlers"]),
        standard_handlers=flags["standard_handlers"],
        worker_id=flags["id"] or None,
        cache_folder=flags["cache_dir"],
        require_layers=frozenset(_parts(flags["require_isolation"])),
        trusted_keys=flags["trusted_keys"],
        drain_s=flags["drain_seconds"],
        first_contact_s=flags["patience"],
        log_level=flags["log_level"],
        log_json=flags["log_json"],
    )


def _as_flag(value: Any) -> str:
    """What a flag takes is text: a list in the file stands for values separated by commas, true for `true`."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parts(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


COMMANDS = (engine, worker)
