"""`python -m windlass.client.cli.tied PARENT COMMAND…`: a command that ends with the process that started it.

The kernel sends SIGTERM when the parent is gone, whatever ended it (also SIGKILL, which no parent can pass on). It is
asked from inside the child: asked between fork and exec it would be Python code in a process whose threads are gone.
A parent that died before the question is told by its number, which is no longer the one of our parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from windlass.client.cli import run

_PR_SET_PDEATHSIG = 1


def tie(parent: int) -> bool:
    """Ends this process with its parent; False if the parent is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    return os.getppid() == parent


if __name__ == "__main__":
    sys.exit(run(sys.argv[2:]) if tie(int(sys.argv[1])) else 0)
