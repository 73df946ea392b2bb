"""What a figure was measured on: machine, versions, date. Stands above every table and in every file of figures."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = ("grpcio", "protobuf", "uvloop", "msgspec", "lmdb", "quickjs-ng", "wasmtime", "asyncpg")


def processor() -> str:
    """The processor's name as the kernel knows it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_gb() -> float:
    """Memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def versions() -> dict[str, str]:
    """What takes part, by name."""
    found = {"python": platform.python_version(), "kernel": platform.release()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def revision() -> str:
    """The commit that is measured, with a + if files were changed since; empty outside of a repository."""
    asked = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    said = subprocess.run(asked, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return said.stdout.strip()


def facts() -> dict[str, Any]:
    """All of it, for programs."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory_gb(), 1),
        "load": round(os.getloadavg()[0], 2),
        "revision": revision(),
        "versions": versions(),
    }


def headline(found: dict[str, Any]) -> str:
    """The same for people, in two lines."""
    named = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version != "none")
    return (
        f"{found['date']}  {found['processor']}, {found['cores']} cores, {found['memory_gb']:.0f} GB,"
        f" load before {found['load']}, windlass {found['revision'] or 'as installed'}\n{named}"
    )
