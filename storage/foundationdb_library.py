"""FoundationDB's C client library, called directly: its functions with types, its network thread, its errors.

Theory of operation: `libfdb_c` runs one network thread per process, started at first use and stopped at exit.
Everything else here is a thin coat over C functions: `Library` holds them, `Decoder` copies a ready future's result
into Python objects. The classes above (`foundationdb_inbox`, `foundationdb_client`) use nothing of a library but what
is listed in `Library` and `Decoder`, so tests put a stand-in there. The `foundationdb` package cannot be opened
beside this in one process: the API version can be selected only once. Its tuple codec may be imported.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import struct
import threading
from typing import Any, Final

from windlass.storage.port import Rows, StorageError

API_VERSION: Final = 730
LIBRARY: Final = "libfdb_c.so"

# Error codes that are acted upon here or above; all others only travel through.
TRANSACTION_TOO_OLD: Final = 1007
NOT_COMMITTED: Final = 1020
COMMIT_UNKNOWN_RESULT: Final = 1021
TRANSACTION_CANCELLED: Final = 1025
TRANSACTION_TIMED_OUT: Final = 1031
TOO_MANY_WATCHES: Final = 1032
ACCESSED_UNREADABLE: Final = 1036
OPERATION_CANCELLED: Final = 1101
NO_CLUSTER_FILE: Final = 1515
KEY_OUTSIDE_LEGAL_RANGE: Final = 2004
TRANSACTION_TOO_LARGE: Final = 2101
KEY_TOO_LARGE: Final = 2102
VALUE_TOO_LARGE: Final = 2103
BAD_CLUSTER_FILE: Final = 2104

_KEY_VALUE: Final = struct.Struct("<qiqi")  # FDBKeyValue is packed to four bytes: key, its length, value, its length


class FoundationError(StorageError):
    """The FoundationDB client library reported an error."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(f"{message or type(self).__doc__} ({code})")
        self.code = code


class ClientLibraryMissing(StorageError):
    """FoundationDB's client library cannot be loaded."""


CALLBACK: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
_P, _I, _L, _B = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_char_p
_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {  # name: result type, then argument types
    "create_database": (_I, _B, _P),
    "database_create_transaction": (_I, _P, _P),
    "database_destroy": (None, _P),
    "database_get_client_status": (_P, _P),
    "database_set_option": (_I, _P, _I, _P, _I),
    "error_predicate": (_I, _I, _I),
    "future_cancel": (None, _P),
    "future_destroy": (None, _P),
    "future_get_error": (_I, _P),
    "future_get_int64": (_I, _P, _P),
    "future_get_key": (_I, _P, _P, _P),
    "future_get_keyvalue_array": (_I, _P, _P, _P, _P),
    "future_get_value": (_I, _P, _P, _P, _P),
    "future_set_callback": (_I, _P, CALLBACK, _P),
    "get_error": (_B, _I),
    "run_network": (_I,),
    "select_api_version_impl": (_I, _I, _I),
    "setup_network": (_I,),
    "stop_network": (_I,),
    "transaction_add_conflict_range": (_I, _P, _B, _I, _B, _I, _I),
    "transaction_atomic_op": (None, _P, _B, _I, _B, _I, _I),
    "transaction_clear": (None, _P, _B, _I),
    "transaction_clear_range": (None, _P, _B, _I, _B, _I),
    "transaction_commit": (_P, _P),
    "transaction_destroy": (None, _P),
    "transaction_get": (_P, _P, _B, _I, _I),
    "transaction_get_committed_version": (_I, _P, _P),
    "transaction_get_range": (_P, _P, _B, _I, _I, _I, _B, _I, _I, _I, _I, _I, _I, _I, _I, _I),
    "transaction_on_error": (_P, _P, _I),
    "transaction_set": (None, _P, _B, _I, _B, _I),
    "transaction_set_option": (_I, _P, _I, _P, _I),
    "transaction_watch": (_P, _P, _B, _I),
}


class Library:
    """`libfdb_c` with typed functions and its network thread. One per process: the network can start only once."""

    def __init__(self, path: str = LIBRARY) -> None:
        shared = _loaded(path)
        for name, (result, *arguments) in _SIGNATURES.items():
            function = _function(shared, f"fdb_{name}", path)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self.process = os.getpid()
        self.check(self.select_api_version_impl(API_VERSION, API_VERSION))
        self.check(self.setup_network())
        self._network = threading.Thread(target=self.run_network, name="fdb-network", daemon=True)
        self._network.start()
        atexit.register(self._stop)

    def __getattr__(self, name: str) -> Any:  # only for type checkers: the functions are instance attributes
        raise AttributeError(name)

    def check(self, code: int) -> None:
        if code:
            raise self.error(code)

    def error(self, code: int) -> FoundationError:
        return FoundationError(code, self.get_error(code).decode())

    def open(self, cluster_file: str) -> int:
        slot = ctypes.c_void_p()
        self.check(self.create_database(os.fsencode(cluster_file), ctypes.byref(slot)))
        return slot.value or 0

    def begin(self, database: Any) -> int:
        slot = ctypes.c_void_p()
        self.check(self.database_create_transaction(database, ctypes.byref(slot)))
        return slot.value or 0

    def committed_version(self, transaction: Any) -> int:
        """-1 if it wrote nothing."""
        version = ctypes.c_int64()
        self.check(self.transaction_get_committed_version(transaction, ctypes.byref(version)))
        return version.value

    def decoder(self) -> Decoder:
        return Decoder(self)

    def _stop(self) -> None:
        if os.getpid() == self.process:
            self.stop_network()
            self._network.join()


class Decoder:
    """Copies results out of ready futures. One per event loop, because it reuses its out-parameters."""

    def __init__(self, native: Library) -> None:
        self._native = native
        self._flag, self._count = ctypes.c_int(), ctypes.c_int()
        self._address = ctypes.c_void_p()
        self._flag_ref, self._count_ref = ctypes.byref(self._flag), ctypes.byref(self._count)
        self._address_ref = ctypes.byref(self._address)

    def nothing(self, pointer: int) -> None:
        self._native.check(self._native.future_get_error(pointer))

    def key(self, pointer: int) -> bytes:
        self._native.check(self._native.future_get_key(pointer, self._address_ref, self._count_ref))
        return ctypes.string_at(self._address.value or 0, self._count.value)

    def value(self, pointer: int) -> bytes | None:
        self._native.check(self._native.future_get_value(pointer, self._flag_ref, self._address_ref, self._count_ref))
        return ctypes.string_at(self._address.value or 0, self._count.value) if self._flag.value else None

    def chunk(self, pointer: int) -> tuple[Rows, bool]:
        code = self._native.future_get_keyvalue_array(pointer, self._address_ref, self._count_ref, self._flag_ref)
        self._native.check(code)
        table = ctypes.string_at(self._address.value or 0, self._count.value * _KEY_VALUE.size)
        copy = ctypes.string_at
        return [(copy(k, n), copy(v, m)) for k, n, v, m in _KEY_VALUE.iter_unpack(table)], bool(self._flag.value)


def _loaded(path: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(path)
    except OSError as error:
        raise ClientLibraryMissing(
            f"FoundationDB's client library {path} cannot be loaded: {error}. Install the foundationdb-clients package "
            "of the 7.3 series, or name the library's folder in LD_LIBRARY_PATH"
        ) from error


def _function(shared: ctypes.CDLL, name: str, path: str) -> Any:
    try:
        return getattr(shared, name)
    except AttributeError as error:
        raise ClientLibraryMissing(
            f"{path} is not FoundationDB's client library of the 7.3 series, or later: it has no {name}"
        ) from error


_library: Library | None = None
_library_lock = threading.Lock()


def library(path: str = LIBRARY) -> Library:
    """The process's one `Library`, loaded at first use, when `path` counts. A forked child must not use its parent's.

    Raises `ClientLibraryMissing`, also if the library is older than the 7.3 series, or `FoundationError`.
    """
    global _library
    with _library_lock:
        if _library is None:
            _library = Library(path)
        if _library.process != os.getpid():
            raise RuntimeError("FoundationDB cannot be used after fork(); start the process with spawn")
        return _library
