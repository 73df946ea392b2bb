"""Signing keys for tests, and the files that hold them."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """As `openssl genpkey -algorithm ed25519` writes it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: Ed25519PrivateKey) -> bytes:
    """As `openssl pkey -pubout` writes it."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def key_files(folder: Path, name: str) -> tuple[Path, Path]:
    """A new key: the files of its private and its public half."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    private.write_bytes(private_pem(key))
    public.write_bytes(public_pem(key))
    return private, public
