"""How much memory this process has used at most, readable after the files are gone.

`getrusage` is no use here: its maximum is inherited through spawn from the parent. The kernel's own high-water mark of
this address space is in `/proc/self/status`, so the child opens that file before it locks itself in and reads it again
through the open descriptor.
"""

from __future__ import annotations

import os
import re

_PEAK = re.compile(rb"VmHWM:\s+(\d+) kB")

_status_fd = -1
_baseline_bytes = 0


def mark_baseline() -> None:
    """Open the status file and take the present peak as the zero of `rss_peak_bytes`. Call before lock-down."""
    global _status_fd, _baseline_bytes
    _status_fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    _baseline_bytes = _peak()


def rss_peak_bytes() -> int:
    """Return by how much the peak has risen above the baseline; 0 where nobody took one."""
    return max(0, _peak() - _baseline_bytes) if _status_fd >= 0 else 0


def _peak() -> int:
    found = _PEAK.search(os.pread(_status_fd, 8192, 0))
    return int(found[1]) << 10 if found else 0
