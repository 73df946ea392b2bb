"""How much memory this process has used at most, readable after the files are gone.

`getrusage` is no use here: its maximum is inherited through spawn from the parent. The kernel's own high-water mark of
this address space is in `/proc/self/status`, and writing 5 to `/proc/self/clear_refs` sets it back to what is used now.
The child opens both before it locks itself in and goes on using the open descriptors. Where they cannot be opened, no
peak is known.
"""

from __future__ import annotations

import os
import re

_PEAK = re.compile(rb"VmHWM:\s+(\d+) kB")
_NOW = re.compile(rb"VmRSS:\s+(\d+) kB")

_status_fd = -1
_reset_fd = -1


def open_marks() -> None:
    """Open the files. Call before lock-down."""
    global _status_fd, _reset_fd
    try:
        _status_fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        _reset_fd = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        _reset_fd = -1  # a /proc that is not ours to write: peaks stay unknown


def reset_peak() -> None:
    """Forget the peak: from here on it is measured anew."""
    if _reset_fd >= 0:
        os.write(_reset_fd, b"5")


def rss_growth_bytes() -> int:
    """Return by how much the peak since `reset_peak` lies above what is used now; 0 where it is unknown."""
    if _reset_fd < 0:
        return 0
    status = os.pread(_status_fd, 8192, 0)
    peak, now = _PEAK.search(status), _NOW.search(status)
    return max(0, int(peak[1]) - int(now[1])) << 10 if peak and now else 0
