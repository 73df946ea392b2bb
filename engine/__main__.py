"""`python -m windlass.engine`: an engine with settings from the environment and WINDLASS_CONFIG; `windlass engine` has
flags too.
"""

from __future__ import annotations

import sys

from windlass.engine.composition import run
from windlass.engine.config import SettingsError, load

if __name__ == "__main__":
    try:
        settings = load({})
    except SettingsError as error:
        sys.exit(f"windlass engine: {error}")
    sys.exit(run(settings))
