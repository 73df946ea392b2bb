"""What every part of the client stands on.

The client is one object; its calls are split by subject over several files.
"""

from __future__ import annotations

from windlass.client.connection import Connection


class Part:
    """A connection and the namespace that calls go to."""

    def __init__(self, connection: Connection, namespace: str = "default") -> None:
        self.connection, self.namespace = connection, namespace
