"""`python -m windlass.client.cli`: the same as the `windlass` script, where the script is not on the path."""

from __future__ import annotations

from windlass.client.program import main

if __name__ == "__main__":
    main()
