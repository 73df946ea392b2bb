"""The worker's log: one line per event, a sentence and named values, as text for people or JSON for programs."""

from __future__ import annotations

import json
import logging
from typing import Final, TextIO

import msgspec

NAME: Final = "windlass.worker"
_EVENT: Final = "windlass_event"
_FIELDS: Final = "windlass_fields"


class Journal:
    """Writes events with their values through the standard logging module."""

    def __init__(self, name: str = NAME) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **values: object) -> None:
        """For following single tasks."""
        self._write(logging.DEBUG, event, values)

    def info(self, event: str, **values: object) -> None:
        """For what happens a few times an hour."""
        self._write(logging.INFO, event, values)

    def warning(self, event: str, **values: object) -> None:
        """For what the worker survives and an operator may want to know."""
        self._write(logging.WARNING, event, values)

    def error(self, event: str, **values: object) -> None:
        """For what stops the worker, or is a defect."""
        self._write(logging.ERROR, event, values)

    def _write(self, level: int, event: str, values: dict[str, object]) -> None:
        # The message is whole by itself, for hosts that have set up logging in their own way, or not at all.
        if self._logger.isEnabledFor(level):
            pairs = "".join(f" {name}={_shown(value)}" for name, value in values.items())
            self._logger.log(level, "%s%s", event, pairs, extra={_EVENT: event, _FIELDS: values})


class TextLines(logging.Formatter):
    """`12:34:56 INFO  connected engine=127.0.0.1:7711 session=ab12`"""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname:<7} {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, event, and the values."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "event": getattr(record, _EVENT, record.getMessage()),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def log_to(stream: TextIO, *, level: str = "info", as_json: bool = False) -> None:
    """Send the worker's log to `stream`. For the program; a host that embeds a worker sets up logging by itself."""
    sink = logging.StreamHandler(stream)
    sink.setFormatter(JsonLines() if as_json else TextLines())
    logger = logging.getLogger(NAME)
    logger.handlers[:] = [sink]
    logger.setLevel(level.upper())
    logger.propagate = False


def _shown(value: object) -> str:
    text = str(value)
    if not text.isprintable():  # what came from task code must not look like lines of this log, nor steer a terminal
        return json.dumps(text)
    return f'"{text}"' if " " in text or not text else text
