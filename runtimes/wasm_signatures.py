"""The functions that a module may import, with their types.

`wasi_snapshot_preview1` is all there, so that every toolchain's output links; what has no meaning in here answers with
an error number. `task` is ours and optional. Letters: i = i32, I = i64, f = f32, F = f64.
"""

from __future__ import annotations

from typing import Final, NamedTuple

WASI: Final = "wasi_snapshot_preview1"
TASK: Final = "task"

_NAMES: Final = {"i": "i32", "I": "i64", "f": "f32", "F": "f64"}


class Signature(NamedTuple):
    """The type of a function."""

    parameters: str
    results: str

    def __str__(self) -> str:
        parameters, results = (", ".join(_NAMES[letter] for letter in part) for part in self)
        return f"({parameters}) -> ({results})"


WASI_FUNCTIONS: Final = {
    name: Signature(parameters, results)
    for name, parameters, results in (
        ("args_get", "ii", "i"),
        ("args_sizes_get", "ii", "i"),
        ("clock_res_get", "ii", "i"),
        ("clock_time_get", "iIi", "i"),
        ("environ_get", "ii", "i"),
        ("environ_sizes_get", "ii", "i"),
        ("fd_advise", "iIIi", "i"),
        ("fd_allocate", "iII", "i"),
        ("fd_close", "i", "i"),
        ("fd_datasync", "i", "i"),
        ("fd_fdstat_get", "ii", "i"),
        ("fd_fdstat_set_flags", "ii", "i"),
        ("fd_fdstat_set_rights", "iII", "i"),
        ("fd_filestat_get", "ii", "i"),
        ("fd_filestat_set_size", "iI", "i"),
        ("fd_filestat_set_times", "iIIi", "i"),
        ("fd_pread", "iiiIi", "i"),
        ("fd_prestat_dir_name", "iii", "i"),
        ("fd_prestat_get", "ii", "i"),
        ("fd_pwrite", "iiiIi", "i"),
        ("fd_read", "iiii", "i"),
        ("fd_readdir", "iiiIi", "i"),
        ("fd_renumber", "ii", "i"),
        ("fd_seek", "iIii", "i"),
        ("fd_sync", "i", "i"),
        ("fd_tell", "ii", "i"),
        ("fd_write", "iiii", "i"),
        ("path_create_directory", "iii", "i"),
        ("path_filestat_get", "iiiii", "i"),
        ("path_filestat_set_times", "iiiiIIi", "i"),
        ("path_link", "iiiiiii", "i"),
        ("path_open", "iiiiiIIii", "i"),
        ("path_readlink", "iiiiii", "i"),
        ("path_remove_directory", "iii", "i"),
        ("path_rename", "iiiiii", "i"),
        ("path_symlink", "iiiii", "i"),
        ("path_unlink_file", "iii", "i"),
        ("poll_oneoff", "iiii", "i"),
        ("proc_exit", "i", ""),
        ("proc_raise", "i", "i"),
        ("random_get", "ii", "i"),
        ("sched_yield", "", "i"),
        ("sock_accept", "iii", "i"),
        ("sock_recv", "iiiiii", "i"),
        ("sock_send", "iiiii", "i"),
        ("sock_shutdown", "ii", "i"),
    )
}

TASK_FUNCTIONS: Final = {
    # level (0 debug, 1 info, 2 warn, 3 error), message
    "log": Signature("iii", ""),
    # message, or a JSON object {code, message, details, retryable, nextDelay}; does not return
    "fail": Signature("ii", ""),
    # fraction from 0 to 1, message
    "progress": Signature("Fii", ""),
    # checkpoint as JSON, or nothing
    "heartbeat": Signature("ii", ""),
    # context key, JSON value
    "set": Signature("iiii", ""),
    # a JSON object with `kind`, see `asks`
    "ask": Signature("ii", ""),
    # what (0 input, 1 config, 2 context, 3 about the task, 4 checkpoint, 5 resume state), where to, room; gives the
    # length of the whole, of which at most `room` bytes are written
    "read": Signature("iii", "i"),
}

IMPORTS: Final[dict[tuple[str, str], Signature]] = {
    **{(WASI, name): signature for name, signature in WASI_FUNCTIONS.items()},
    **{(TASK, name): signature for name, signature in TASK_FUNCTIONS.items()},
}
