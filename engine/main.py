"""What the command line imports: `run(settings)` and the settings' loader, by the names people expect."""

from __future__ import annotations

from windlass.engine.composition import open_storage, run, serve
from windlass.engine.config import Settings, SettingsError, load

__all__ = ["Settings", "SettingsError", "load", "open_storage", "run", "serve"]
