"""Opening a store on a FoundationDB cluster: the first contact, its clear errors, and the store's own records.

Opening a cluster never fails in the library: a wrong address looks like silence. So the first thing done is to read
one key, with a bound of its own, and what went wrong is said here, before anything else waits for the cluster.

Several installations share a cluster by their prefix. It is packed as the tuple layer packs a byte string, so that no
prefix can begin with another. Under it, rows lie at `d`, and at `m` what the store says about itself. All this counts
against FoundationDB's limits, not against ours.
"""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from windlass.storage import foundationdb_library as codes
from windlass.storage.foundationdb import FoundationDBStorage
from windlass.storage.foundationdb_client import Database
from windlass.storage.foundationdb_library import LIBRARY, FoundationError, library
from windlass.storage.port import StorageError, StoreFormat, Transaction, Unavailable
from windlass.storage.sizes import KEYS_END

FORMAT: Final = b"1"
DEFAULT_PREFIX: Final = b"windlass/"
DEFAULT_CLUSTER_FILE: Final = "/etc/foundationdb/fdb.cluster"
PREFIX_BYTES_MAX: Final = 64
START_SECONDS: Final = 5.0
DEADLINE_SECONDS: Final = 10.0
DEADLINE_SECONDS_LEAST: Final = 0.001
#: Conflicts are cured by another attempt soon; a longer wait only adds latency.
RETRY_DELAY_SECONDS_MAX: Final = 0.1
_FORMAT_KEY: Final = b"format"


async def open_foundationdb(
    cluster_file: str | Path = DEFAULT_CLUSTER_FILE,
    *,
    prefix: bytes = DEFAULT_PREFIX,
    deadline_seconds: float = DEADLINE_SECONDS,
    start_seconds: float = START_SECONDS,
    library_path: str = LIBRARY,
    native: Any = None,
) -> FoundationDBStorage:
    """A store on the cluster that `cluster_file` names, under `prefix`. Make processes by spawn: it does not survive
    a fork.

    `deadline_seconds` bounds every transaction with all its attempts, `start_seconds` the first contact. `native`
    stands in for the client library in tests.

    Raises `ClientLibraryMissing`; `Unavailable` if the cluster does not answer; `StoreFormat` if what lies under the
    prefix is not a store this program knows; `StorageError` for an unusable cluster file, prefix or deadline.
    """
    _check_prefix(prefix)
    _check_deadline(deadline_seconds)
    database = Database(
        str(cluster_file),
        timeout_ms=int(deadline_seconds * 1000),
        max_retry_delay_ms=int(RETRY_DELAY_SECONDS_MAX * 1000),
        native=native or library(library_path),
    )
    try:
        await _first_contact(database, str(cluster_file), prefix, start_seconds)
        await _check_format(database, prefix)
    except BaseException:
        await database.close()
        raise
    return FoundationDBStorage(database, rows_at(prefix))


async def open_foundationdb_url(url: str) -> FoundationDBStorage:
    """The store of `foundationdb:///path/to/fdb.cluster?prefix=windlass/&deadline=10&library=…`; every part may be
    missing.
    """
    parts = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
    known = {"prefix", "deadline", "library"}
    if parts.netloc or options.keys() - known:
        raise StorageError(
            f"{url!r} is not of the form foundationdb:///path/to/fdb.cluster with any of {sorted(known)}"
        )
    return await open_foundationdb(
        unquote(parts.path) or DEFAULT_CLUSTER_FILE,
        prefix=options.get("prefix", DEFAULT_PREFIX.decode()).encode(),
        deadline_seconds=_seconds(options.get("deadline", str(DEADLINE_SECONDS))),
        library_path=options.get("library", LIBRARY),
    )


def rows_at(prefix: bytes) -> bytes:
    """Where the rows of an installation lie."""
    return _packed(prefix) + b"d"


def about_at(prefix: bytes) -> bytes:
    """Where an installation's store tells its format."""
    return _packed(prefix) + b"m"


def _packed(prefix: bytes) -> bytes:
    return b"\x01" + prefix.replace(b"\0", b"\0\xff") + b"\0"


def _check_prefix(prefix: bytes) -> None:
    if not 0 < len(prefix) <= PREFIX_BYTES_MAX:
        raise StorageError(f"prefix {prefix!r}: 1 to {PREFIX_BYTES_MAX} bytes are needed")


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise StorageError(f"deadline {text!r} is not a number of seconds") from error


def _check_deadline(seconds: float) -> None:
    """The library takes milliseconds, and 0 of them for none, so that a cluster that is away is waited for for ever."""
    if not DEADLINE_SECONDS_LEAST <= seconds < math.inf:
        raise StorageError(f"deadline {seconds:g}: at least {DEADLINE_SECONDS_LEAST:g} seconds are needed")


async def _first_contact(database: Database, cluster_file: str, prefix: bytes, seconds: float) -> None:
    """Read one key, or say why that is not possible."""
    transaction = database.begin()
    transaction.set_timeout(int(seconds * 1000))
    try:
        while True:
            try:
                await transaction.get(about_at(prefix) + _FORMAT_KEY)
                return
            except FoundationError as error:
                if error.code in (codes.NO_CLUSTER_FILE, codes.BAD_CLUSTER_FILE):
                    raise StorageError(
                        f"cluster file {cluster_file} is missing or not a cluster file: {error}"
                    ) from error
                await transaction.on_error(error)
    except Unavailable as silence:
        raise Unavailable(
            f"no answer from the FoundationDB cluster named in {cluster_file} within {seconds:g} s: its address, "
            f"description or id may be wrong there, or the cluster is down; the client says: {await _status(database)}"
        ) from silence
    finally:
        transaction.close()


async def _status(database: Database) -> str:
    """What the client knows of its connections. It answers without the cluster; if not, that is no reason to wait."""
    try:
        return (await asyncio.wait_for(database.client_status(), 1)).decode(errors="replace")
    except (TimeoutError, FoundationError) as error:
        return f"nothing ({error!r})"


async def _check_format(database: Database, prefix: bytes) -> None:
    """Write the format version into an empty store, or hold it against ours."""
    about = FoundationDBStorage(database, about_at(prefix))
    rows = FoundationDBStorage(database, rows_at(prefix))

    async def claim(tx: Transaction) -> bytes:
        found = await tx.get(_FORMAT_KEY)
        if found is None:
            tx.set(_FORMAT_KEY, FORMAT)
        return found or FORMAT

    used = bool(await rows.read(lambda tx: tx.get_range(b"\0", KEYS_END, limit=1)))
    if used and await about.read(lambda tx: tx.get(_FORMAT_KEY)) is None:
        raise StoreFormat(
            f"there are keys under the prefix {prefix!r}, but not of a Windlass store: choose another prefix"
        )
    found = await about.transact(claim)
    if found != FORMAT:
        raise StoreFormat(f"the store under {prefix!r} has format {found!r}; this program knows {FORMAT!r}")
