"""The `windlass` script, from its first moment: ctrl-c while it loads ends it without a word, as it does later on."""

from __future__ import annotations

import os
import signal
import sys

_INTERRUPTED = 130


def main() -> None:
    """Entry point of the `windlass` script."""
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not so in the background of a shell script
    if heard:
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))  # nothing is begun, so nothing is to be undone
    from windlass.client.cli import run  # only here: it is most of the time that a short command takes

    if heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run())
