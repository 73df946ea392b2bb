"""How much memory this process has needed at most since a moment, readable after the files are gone.

`getrusage` is no use here: its maximum is inherited through spawn from the parent. The kernel's own high-water mark of
this address space is in `/proc/self/status`, and writing 5 to `/proc/self/clear_refs` sets it back to what is used now.
The child opens both before it locks itself in, and `/proc/self/statm` for what is used now, and goes on using the open
descriptors. Where they cannot be opened, no peak is known.
"""

from __future__ import annotations

import os
import re

_PEAK = re.compile(rb"VmHWM:\s+(\d+) kB")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_status_fd = -1
_statm_fd = -1
_reset_fd = -1
_at_reset = b""


def open_marks() -> None:
    """Open the files. Call before lock-down."""
    global _status_fd, _statm_fd, _reset_fd
    try:
        _status_fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        _statm_fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        _reset_fd = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        _reset_fd = -1  # a /proc that is not ours to write: peaks stay unknown


def reset_peak() -> None:
    """Forget the peak: from here on it is measured anew. Takes a few microseconds."""
    global _at_reset
    if _reset_fd >= 0:
        os.write(_reset_fd, b"5")
        _at_reset = os.pread(_statm_fd, 128, 0)


def rss_growth_bytes() -> int:
    """Return by how much the peak since `reset_peak` lies above what was used then; 0 where it is unknown."""
    if _reset_fd < 0 or not _at_reset:
        return 0
    peak = _PEAK.search(os.pread(_status_fd, 8192, 0))
    return max(0, (int(peak[1]) << 10) - int(_at_reset.split()[1]) * _PAGE_BYTES) if peak else 0
