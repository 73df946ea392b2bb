"""The worker's log: one line per event, whatever its values hold."""

from __future__ import annotations

import io
import logging

from windlass.worker.journal import Journal, TextLines


def test_a_value_cannot_pass_for_lines_of_the_log() -> None:
    stream = io.StringIO()
    sink = logging.StreamHandler(stream)
    sink.setFormatter(TextLines())
    name = "windlass.tests.journal"
    logging.getLogger(name).addHandler(sink)
    Journal(name).warning("answer refused", why="no\n12:00:00 INFO    stopped\x1b[2J", state="a b")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith('answer refused why="no\\n12:00:00 INFO    stopped\\u001b[2J" state="a b"')
