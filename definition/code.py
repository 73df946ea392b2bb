"""Where a task's code comes from: in place, from a file, or from a stored module named by its digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CODE_BYTES_MAX = 10_000_000  #: one module
RUNTIMES = ("javascript", "wasm", "python")

#: Checks code at registration (syntax errors, bad modules): (runtime, code) gives what is wrong, empty when fine.
CheckCode = Callable[[str, bytes], list[str]]
#: Whether a module of this digest (`sha256:` and 64 hex digits) is stored where the definition goes.
HasModule = Callable[[str], bool]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


@dataclass(frozen=True, kw_only=True)
class Module:
    """Code to be stored with a definition. Content decides identity: the same code has the same digest everywhere."""

    digest: str  #: `sha256:` and 64 hex digits
    runtime: str
    content: bytes


class CodeError(ValueError):
    """The code cannot be had. The message says why."""


def digest_of(content: bytes) -> str:
    """The name of a module: `sha256:` and 64 hex digits."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def is_digest(text: str) -> bool:
    """True if the text names a stored module and not a file."""
    return _DIGEST.match(text) is not None


def read_code(name: str, folder: Path | None) -> bytes:
    """The bytes of a code file, its name taken relative to the definition's folder. Raises CodeError."""
    if folder is None:
        raise CodeError(
            f"{name!r} did not come with the definition: the file is not there, or the definition is no file itself"
        )
    path = folder / name
    try:
        if not path.is_file():
            raise CodeError(
                f"there is no file {name!r} in {str(folder)!r}" if not path.exists() else f"{name!r} is no file"
            )
        size = path.stat().st_size
        content = path.read_bytes() if size <= CODE_BYTES_MAX else b""
    except (OSError, ValueError) as error:
        if isinstance(error, CodeError):
            raise
        raise CodeError(f"cannot read {name!r}: {error}") from error
    if size > CODE_BYTES_MAX:
        raise CodeError(f"{name!r} has {size:,} bytes; a module has at most {CODE_BYTES_MAX:,}")
    return content
