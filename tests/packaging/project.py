"""What pyproject.toml says, read once for the tests beside this file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS: dict[str, Any] = PYPROJECT["tool"]["setuptools"]
PACKAGES: list[str] = SETUPTOOLS["packages"]
FOLDERS: dict[str, str] = SETUPTOOLS["package-dir"]


def folder_of(package: str) -> Path:
    """The folder that setuptools takes a package from, by the nearest entry of the mapping."""
    name, below = package, ""
    while name not in FOLDERS:
        name, _, last = name.rpartition(".")
        below = f"/{last}{below}"
        assert name, f"{package} is below no folder of [tool.setuptools.package-dir]"
    return ROOT / (FOLDERS[name] + below)
