"""What keys, values and transactions may weigh, checked the same way by every backend of ours.

Transaction sizes are counted as FoundationDB's client counts them (measured on 7.3: a set of a 3-byte key and a
100-byte value weighs 178, a get of a 3-byte key 33), so that a transaction too large for a cluster is too large for a
laptop too.
"""

from __future__ import annotations

from typing import Final

from windlass.storage.port import (
    KEY_BYTES_MAX,
    TRANSACTION_BYTES_MAX,
    VALUE_BYTES_MAX,
    KeyIllegal,
    KeyTooLarge,
    TransactionTooLarge,
    ValueTooLarge,
)

#: Keys from here on belong to the store itself.
KEYS_END: Final = b"\xff"
STAMP_BYTES: Final = 10

#: One write weighs its key three times (itself and its conflict range), its value, and this.
WRITE_WEIGHT: Final = 69
#: One conflict range weighs its two ends and this. A single key is the range from it to the next possible key.
RANGE_WEIGHT: Final = 26


def check_key(key: bytes) -> None:
    """Raise `KeyTooLarge` or `KeyIllegal` unless `key` may be written."""
    if len(key) > KEY_BYTES_MAX:
        raise KeyTooLarge(f"key of {len(key)} bytes, at most {KEY_BYTES_MAX} are allowed: {key[:40]!r}…")
    if not b"" < key < KEYS_END:
        raise KeyIllegal(f"key {key[:40]!r} is empty or does not sort below {KEYS_END!r}")


def check_value(key: bytes, value: bytes) -> None:
    """Raise `ValueTooLarge` unless `value` may be written."""
    if len(value) > VALUE_BYTES_MAX:
        raise ValueTooLarge(f"value of {len(value)} bytes at key {key!r}, at most {VALUE_BYTES_MAX} are allowed")


def check_transaction(weight: int) -> None:
    """Raise `TransactionTooLarge` unless a transaction of `weight` bytes may commit."""
    if weight > TRANSACTION_BYTES_MAX:
        raise TransactionTooLarge(f"transaction of {weight} bytes, at most {TRANSACTION_BYTES_MAX}: split the work")
