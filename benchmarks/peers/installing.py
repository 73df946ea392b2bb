"""Installs the peers where nothing of ours is touched, by the package managers as this machine has them set up."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

RESTATE: Final = ("@restatedev/restate-server", "@restatedev/restate-sdk")
DBOS: Final = ("dbos", "psycopg[binary]", "uvloop")
SERVICE: Final = "restate_service.mjs"
_PATIENCE_SECONDS: Final = 600


class CannotInstall(Exception):
    """A peer cannot be had here; the message says what was tried and what came of it."""


def install_restate(directory: Path) -> dict[str, str]:
    """Server and SDK below `directory`, with our service beside them; versions by package."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise CannotInstall(f"{program} is not on the PATH: Restate's server and its SDK are npm packages")
    directory.mkdir(parents=True, exist_ok=True)
    modules = directory / "node_modules"
    if not all((modules / name).exists() for name in RESTATE):
        _run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *RESTATE], directory)
    shutil.copy(Path(__file__).parent / SERVICE, directory / SERVICE)
    found = {name: str(json.loads((modules / name / "package.json").read_text())["version"]) for name in RESTATE}
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {**found, "node": node}


def restate_server(directory: Path) -> Path:
    """The program itself, without the script that npm puts before it. Raises CannotInstall."""
    found = sorted((directory / "node_modules" / "@restatedev").glob("restate-server-*/bin/restate-server"))
    if not found:
        raise CannotInstall("npm brought no restate-server for this platform")
    return found[0]


def install_dbos(directory: Path) -> dict[str, str]:
    """An environment of its own below `directory`; versions by package."""
    python = dbos_python(directory)
    if not python.exists():
        venv.create(directory, with_pip=True)
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *DBOS], directory)
    asked = "import json; from importlib.metadata import version as v; "
    asked += "print(json.dumps({name: v(name) for name in ('dbos', 'psycopg', 'sqlalchemy', 'uvloop')}))"
    said = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True).stdout
    return {str(name): str(version) for name, version in json.loads(said).items()}


def dbos_python(directory: Path) -> Path:
    """Its interpreter."""
    return directory / "bin" / "python"


def _run(command: list[str], directory: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, check=False, timeout=_PATIENCE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotInstall(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise CannotInstall(f"{' '.join(command)} failed:\n  " + "\n  ".join(said))
    print(f"… installed by {command[0].rsplit('/', 1)[-1]}: {directory.name}", file=sys.stderr)
