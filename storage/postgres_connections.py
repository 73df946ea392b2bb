"""Connections to PostgreSQL: where to connect, how a session is set up, and what its errors mean to us."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg

from windlass.storage.backoff import Conflict
from windlass.storage.port import StorageError, StoreFull, StoreReadOnly, Unavailable
from windlass.storage.postgres_schema import check_schema_name

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

DEADLINE_SECONDS: Final = 10.0
READERS: Final = 4
CONNECT_SECONDS: Final = 5.0

_RETRYABLE: Final = frozenset({"40001", "40P01", "55P03", "57014"})  # serialization, deadlock, lock and query timeout
_REFUSED: Final[dict[str, type[StorageError]]] = {"53100": StoreFull, "25006": StoreReadOnly}
#: Whatever the driver may raise. `InternalClientError` is what it raises when a connection ends at an odd moment.
DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
_LOST: Final = (
    OSError,  # TimeoutError is one
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
)


class ConnectionLost(Conflict):
    """The server did not answer, and what was asked of it changed nothing. Another attempt may find it again."""


class PostgresOptions(NamedTuple):
    """What a URL says. Times in seconds."""

    #: For the driver: without our own options.
    dsn: str
    schema: str
    deadline: float
    #: Connections that read, and so snapshots at a time; the engine has two more, to commit and to listen.
    readers: int

    @property
    def place(self) -> str:
        """Where the server is, without the password."""
        parts = urlsplit(self.dsn)
        return f"{parts.netloc.rpartition('@')[2]}{parts.path}" + (f"?{parts.query}" if parts.query else "")


def parse_url(url: str) -> PostgresOptions:
    """Read `postgres://user:password@host:port/database?schema=windlass&deadline=10&readers=4&…`.

    For a unix socket the host is empty and `host=/its/directory` is among the options. Options not named here are the
    driver's (`sslmode`, …). Raises `StorageError`.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("postgres", "postgresql"):
        raise StorageError(f"{url!r} does not begin with postgres://")
    given = dict(parse_qsl(parts.query))
    try:
        deadline, readers = float(given.pop("deadline", DEADLINE_SECONDS)), int(given.pop("readers", READERS))
    except ValueError as error:
        raise StorageError(f"in {parts.path}?{parts.query}: {error}") from error
    if deadline <= 0 or readers <= 0:
        raise StorageError(f"in {parts.path}?{parts.query}: deadline and readers must be above 0")
    schema = given.pop("schema", "windlass")
    check_schema_name(schema)
    # Not by urlunsplit, which drops the empty host of a unix socket's URL.
    dsn = f"{parts.scheme}://{parts.netloc}{parts.path}" + (f"?{urlencode(given)}" if given else "")
    return PostgresOptions(dsn, schema, deadline, readers)


async def connect(options: PostgresOptions, role: str) -> Connection:
    """A session on the store's schema. Raises what the driver raises."""
    settings = {
        "application_name": f"windlass {role}",
        "search_path": options.schema,
        "statement_timeout": str(int(options.deadline * 1000)),
        "idle_in_transaction_session_timeout": "0",
        # The tables' sizes and the keys' spread tell nothing: an index scan is right for every query here.
        "enable_seqscan": "off",
        "enable_bitmapscan": "off",
        "jit": "off",
        "plan_cache_mode": "force_generic_plan",
        "synchronous_commit": "on",
    }
    timeout = min(CONNECT_SECONDS, options.deadline)
    connection: Connection = await asyncpg.connect(
        options.dsn, server_settings=settings, timeout=timeout, command_timeout=options.deadline + 2
    )
    return connection


def lost(error: BaseException) -> bool:
    """True if `error` says that the connection is gone, or that nobody answers at its other end."""
    return isinstance(error, _LOST)


def words(error: BaseException) -> str:
    """What an error says; one that says nothing, as a timeout of asyncio, is named."""
    return str(error) or type(error).__name__


def translated(error: Exception) -> Exception:
    """What an error of a query that changed nothing is to us: `Conflict` (try again) or a `StorageError`."""
    code = getattr(error, "sqlstate", None)
    if code in _RETRYABLE:
        return Conflict(str(error))
    if lost(error):
        return ConnectionLost(words(error))
    if isinstance(error, asyncpg.PostgresError):
        return _REFUSED.get(str(code), StorageError)(f"PostgreSQL refused: {error} ({code})")
    return error


def connect_error(error: Exception, options: PostgresOptions) -> StorageError:
    """What a failed first connection is to whoever opens the store."""
    if lost(error):
        return Unavailable(f"no answer from PostgreSQL at {options.place}: {words(error)}")
    return StorageError(f"PostgreSQL at {options.place} refuses the connection: {error}")


def cut(connection: Connection | None) -> None:
    """Give a connection up at once, without a word to the server: it may not be listening."""
    if connection is not None and not connection.is_closed():
        connection.terminate()
