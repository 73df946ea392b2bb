"""The engine's settings: from flags, then the environment (WINDLASS_…), then a TOML file, then the defaults, in that
order.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator


class SettingsError(Exception):
    """A setting is wrong. The message says which, where it came from, and what is allowed."""


class Settings(BaseModel):
    """Settings of `windlass engine`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: str = Field("127.0.0.1:7711", description="address of the gRPC server, HOST:PORT")
    data_dir: str = Field("./.windlass", description="directory of the embedded store")
    storage: str = Field(
        "",
        description="embedded:PATH | fdb:CLUSTERFILE[#PREFIX] | postgres://… | memory:; default embedded in data_dir",
    )
    lease_seconds: float = Field(5.0, ge=0.5, le=3600, description="silence after which a worker's tasks go to others")
    sweep_seconds: float = Field(30.0, ge=0.1, le=86_400, description="how often expired runs and records are removed")
    history_keep: int = Field(10_000, ge=100, description="events of a run that are always kept; older ones may go")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error")
    log_json: bool = Field(False, description="log lines as JSON")

    @field_validator("listen")
    @classmethod
    def _address(cls, value: str) -> str:
        _, colon, port = value.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"must be HOST:PORT, such as 127.0.0.1:7711, not {value!r}")
        return value


def load(flags: dict[str, Any], config_file: str | None = None) -> Settings:
    """Settings from flags (None = not given), environment and file. Raises SettingsError."""
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    environment = {
        name: value for name in Settings.model_fields if (value := os.environ.get(f"WINDLASS_{name.upper()}"))
    }
    path = config_file or os.environ.get("WINDLASS_CONFIG")
    for source, values in (
        (path or "", _file(path) if path else {}),
        ("environment", environment),
        ("flag", {name: value for name, value in flags.items() if value is not None}),
    ):
        merged.update(values)
        origin.update(dict.fromkeys(values, source))
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise SettingsError("; ".join(_problem(each, origin) for each in error.errors())) from error


def _problem(error: Any, origin: dict[str, str]) -> str:
    name = str(error["loc"][0]) if error["loc"] else "?"
    if error["type"] == "extra_forbidden":
        known = ", ".join(Settings.model_fields)
        return f"there is no setting {name!r} (from {origin.get(name, '?')}); known: {known}"
    return f"setting {name} (from {origin.get(name, '?')}): {error['msg'].removeprefix('Value error, ')}"


def _file(path: str) -> dict[str, Any]:
    try:
        document = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise SettingsError(f"cannot read the settings file {path}: {why}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"the settings file {path} is not TOML: {error}") from error
    section = document.get("engine", document)
    if not isinstance(section, dict):
        raise SettingsError(f"the settings file {path}: engine is a table, as [engine]")
    return {name: value for name, value in section.items() if not isinstance(value, dict)}
