"""Signing modules: somebody's word, by an Ed25519 key, that this code may be run.

Workers that were started with `--trusted-keys` run nothing else. What is signed is always a digest that was computed
here from the code itself: to sign a name that somebody else gave would be to sign whatever they meant by it.

Needs the extra `signing` (the package cryptography), which is imported when a key is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from windlass.v1 import common_pb2

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: Before the digest in what is signed; the worker's `trust.DOMAIN`.
DOMAIN: Final = b"windlass module v1\n"
_HOW: Final = "make one with: openssl genpkey -algorithm ed25519 -out KEY"


class BadKey(ValueError):
    """The file holds no key that can sign. The message names the file and says what to give instead."""


class SigningKey:
    """A private key, and its public half as it goes along with each signature."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()

    @classmethod
    def load(cls, file: str | Path) -> SigningKey:
        """Read a PEM file without a passphrase. Raises BadKey, ModuleNotFoundError (the extra is not installed)."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(Path(file).read_bytes(), password=None)
        except OSError as error:
            raise BadKey(f"cannot read the key {file}: {error.strerror}") from error
        except TypeError as error:
            raise BadKey(f"{file} is encrypted; give a key without a passphrase") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise BadKey(f"{file} is no PEM private key; {_HOW}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise BadKey(f"{file} is no Ed25519 key; {_HOW}")
        return cls(key)

    def sign(self, digest: str) -> common_pb2.ModuleSignature:
        """Sign a module. `digest`: sha256 in lower-case hex."""
        return common_pb2.ModuleSignature(
            public_key=self.public_key, signature=self._key.sign(DOMAIN + digest.encode())
        )
