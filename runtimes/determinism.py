"""What task code sees of chance and time: numbers that come from the task's identity, and a clock that stands still."""

from __future__ import annotations

import hashlib
import os

from windlass.runtimes.port import Activation


def seed_bytes(activation: Activation) -> bytes:
    """Return 16 bytes: the same for each attempt of the task when it is deterministic, fresh ones otherwise."""
    if not activation.deterministic:
        return os.urandom(16)
    if activation.seed:
        origin = (activation.seed & (1 << 128) - 1).to_bytes(16, "little")
    else:
        origin = activation.task.idempotency_key.encode("utf-8", "surrogatepass")
    return hashlib.sha256(b"windlass seed\0" + origin).digest()[:16]


def seed_words(activation: Activation) -> tuple[int, int, int, int]:
    """Return the seed as four unsigned 32-bit words."""
    seed = seed_bytes(activation)
    first, second, third, fourth = (int.from_bytes(seed[at : at + 4], "little") for at in (0, 4, 8, 12))
    return first, second, third, fourth


class ByteStream:
    """An endless stream of bytes from a seed, for guests that ask for random bytes. Not for secrets."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._block = 0
        self._rest = b""

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if count > len(self._rest):
            wanted = count - len(self._rest)
            self._block += 1
            self._rest += hashlib.shake_128(self._seed + self._block.to_bytes(8, "little")).digest(max(wanted, 512))
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken
