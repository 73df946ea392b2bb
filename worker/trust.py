"""Whose code this worker runs: code whose digest was signed by a key in the operator's file, and no other.

The engine keeps signatures but is not believed: what it says is a list of claims, each checked here against keys that
came from a file on this machine. The digest of the bytes is checked as well (`modules`), so an engine that was taken
over can withhold code and cannot make this worker run any of its own. It still chooses which of the signed modules
run, on which input: a signature says that code may be run, not when.

Approval is kept for the life of the process, by digest. To take a key or a signature back, restart with another file.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from windlass.worker.modules import Claims, Untrusted
from windlass.worker.settings import BadSettings

#: What is signed is this and the digest, so that the same key's signatures of other things are worth nothing here.
DOMAIN: Final = b"windlass module v1\n"
#: More than an engine keeps for one module.
SIGNATURES_READ: Final = 64
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


class TrustedKeys:
    """The keys, and what was found to be signed by them."""

    def __init__(self, keys: Mapping[bytes, Ed25519PublicKey]) -> None:
        """`keys` by their raw 32 bytes."""
        self._keys = dict(keys)
        self._approved: set[str] = set()

    def __len__(self) -> int:
        return len(self._keys)

    def approved(self, digest: str) -> bool:
        """Tell whether the module of this digest was found to be signed."""
        return digest in self._approved

    async def approve(self, digest: str, claims_of: Callable[[str], Awaitable[Claims]]) -> None:
        """Approve the module. Raises Untrusted, or whatever `claims_of` raises."""
        if digest in self._approved:
            return
        if not _DIGEST.fullmatch(digest):
            raise Untrusted(f"the task names no module by its sha256 ({digest[:80]!r}), and only signed ones run here")
        claims = (await claims_of(digest))[:SIGNATURES_READ]
        wrong = 0
        for key, signature in claims:
            trusted = self._keys.get(key)
            if trusted is None:
                continue
            try:
                trusted.verify(signature, DOMAIN + digest.encode())
            except InvalidSignature:
                wrong += 1
                continue
            self._approved.add(digest)
            return
        raise Untrusted(_why(digest, len(claims), wrong))


def _why(digest: str, claims: int, wrong: int) -> str:
    if wrong:
        found = f"its signature by a trusted key is not one of this module ({wrong} of {claims})"
    else:
        found = f"none of its {claims} signatures is by a trusted key" if claims else "it is not signed"
    return (
        f"this worker runs only code signed by its trusted keys, and does not run module {digest}: {found}. "
        "Sign it with `windlass modules sign FILE --sign-key KEY`, or add the signer's public key to --trusted-keys"
    )


def trusted_keys(file: Path) -> TrustedKeys:
    """Read a PEM file of one or more Ed25519 public keys. Raises BadSettings."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise BadSettings(f"--trusted-keys {file}: {error.strerror}") from error
    keys = [_key(file, number, block) for number, block in enumerate(_BLOCK.finditer(text), start=1)]
    if not keys:
        raise BadSettings(f"--trusted-keys {file}: there is no PEM public key in it; {_HOW}")
    if text.count(b"-----BEGIN") != len(keys):
        raise BadSettings(f"--trusted-keys {file}: a PEM block in it has no end; {_HOW}")
    return TrustedKeys({key.public_bytes_raw(): key for key in keys})


_HOW: Final = "make it with: openssl pkey -in KEY -pubout"


def _key(file: Path, number: int, block: re.Match[bytes]) -> Ed25519PublicKey:
    kind = block[1].decode()
    if kind != "PUBLIC KEY":
        raise BadSettings(f"--trusted-keys {file}: block {number} is a {kind}, not a PUBLIC KEY; {_HOW}")
    try:
        key = load_pem_public_key(block[0])
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadSettings(f"--trusted-keys {file}: block {number} cannot be read: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise BadSettings(f"--trusted-keys {file}: block {number} is no Ed25519 key; {_HOW}")
    return key
