"""Log lines: their text, which no content of a message can break, and how many got nowhere."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

LONGEST: Final = 4096
"""Characters of a message or a traceback."""
FIELDS: Final = ("method", "code", "reason", "caller", "run", "event", "events", "seconds")
"""What a record may say of its call, in the order of its line."""

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\\\\]")
"""What could end a line, move the cursor, or turn the direction of reading; and the escape."""


class LogFormat(StrEnum):
    """How a line is written."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The lowest level that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        """As `logging` counts."""
        return logging.getLevelNamesMapping()[self.name]


@dataclass(slots=True)
class LineCounts:
    """Of the lines of a process, those that nobody can read; safe in all threads.

    `lost` could not be written, or found no room; `suppressed` repeated others too often.
    """

    lost: int = 0
    suppressed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def lose(self, lines: int = 1) -> None:
        """Count lines that could not be written."""
        with self._lock:
            self.lost += lines

    def suppress(self) -> None:
        """Count a line that repeats others."""
        with self._lock:
            self.suppressed += 1


def escaped(text: str) -> str:
    """The text on one line, whatever it holds."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}... ({len(text)} characters)"
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """What the record says of its call."""
    found = ((name, getattr(record, name, None)) for name in FIELDS)
    return {name: value for name, value in found if value not in (None, "")}


def _time(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


class TextFormatter(logging.Formatter):
    """A line for people; a traceback follows on lines that begin with a bar."""

    def format(self, record: logging.LogRecord) -> str:
        """The line or lines of a record, without the last newline."""
        fields = "".join(f" {k}={_word(v)}" for k, v in fields_of(record).items())
        message = escaped(record.getMessage())
        line = f"{_time(record)} {record.levelname} {record.name}: {message}{fields}"
        trace = (record.exc_text or "").splitlines()
        return "\n".join([line, *(f"    | {escaped(part)}" for part in trace)])


class JsonFormatter(logging.Formatter):
    """A line for programs: one JSON object, a traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, without its newline."""
        content = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage()[:LONGEST],
            **fields_of(record),
        }
        if record.exc_text:
            content["traceback"] = record.exc_text
        return json.dumps(content, default=str)


def formatter_of(form: LogFormat) -> logging.Formatter:
    """What writes lines of this form."""
    return JsonFormatter() if form is LogFormat.JSON else TextFormatter()


def _word(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6f}"
    text = escaped(str(value))
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text else text
