"""Letting the messages of a stream grow under load.

A message costs both ends about a tenth of a millisecond of CPU, however little is in it. So a message that follows
one that carried much waits until a gap has passed, and takes along what came meanwhile. After a message that carried
little the next one goes at once: whoever runs one workflow at a time waits for nobody.
"""

from __future__ import annotations

import asyncio
from typing import Final

#: Shortest time between two messages under load, in seconds.
GAP_S: Final = 0.002
#: A message with as many entries counts as load.
MUCH: Final = 4


class Pace:
    """When the next message of one stream may go."""

    def __init__(self) -> None:
        self._next_s = 0.0

    async def turn(self) -> None:
        """Wait until it is time for a message."""
        wait_s = self._next_s - asyncio.get_running_loop().time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    def carried(self, entries: int) -> None:
        """A message with so many entries goes now."""
        self._next_s = asyncio.get_running_loop().time() + GAP_S if entries >= MUCH else 0.0
