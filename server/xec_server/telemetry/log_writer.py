"""The process's log: written by a thread of its own, so that no call waits for a disk or a pipe.

A line that cannot be written, or for which there is no room, is counted and forgotten.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeAlias

from xec_server.calls.call import current_call
from xec_server.telemetry.lines import LONGEST, LineCounts, LogFormat, formatter_of
from xec_server.telemetry.repetition import Repetition

Sink: TypeAlias = Callable[[bytes], None]
"""Writes lines; raises OSError or ValueError where it cannot."""

_ROOM: Final = 4096
_LOOK_SECONDS: Final = 1.0
_END_SECONDS: Final = 2.0


class LogHandler(logging.Handler):
    """Hands records over, with run and event of the call that they belong to.

    Args:
        room: records that may wait to be written.
        counts: of lines that are not.
        repetition: says which are too many.
    """

    def __init__(self, room: int, counts: LineCounts, repetition: Repetition) -> None:
        super().__init__()
        self.waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(room)
        self._counts = counts
        self._repetition = repetition

    def createLock(self) -> None:  # noqa: N802  (logging's name)
        """None: everything here is safe in all threads."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record; never waits."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; never waits, and never raises."""
        try:
            kind = getattr(record, "kind", f"{record.name} {record.levelname} {record.msg}")
            # Whoever asks for DEBUG wants every line.
            if record.levelno > logging.DEBUG and not self._repetition.allows(kind):
                self._counts.suppress()
                return
            self.waiting.put_nowait(_complete(record))
        except Exception:  # no room, or arguments that do not fit their message
            self._counts.lose()


def _complete(record: logging.LogRecord) -> logging.LogRecord:
    """The record with all that another thread would not find any more."""
    record.msg, record.args = record.getMessage(), None
    if record.exc_info and not record.exc_text:
        record.exc_text = logging.Formatter().formatException(record.exc_info)[-LONGEST:]
    record.exc_info = None
    call = current_call()
    if call is not None:
        for name in ("method", "caller", "run", "event"):
            if not hasattr(record, name):
                setattr(record, name, getattr(call, name))
    return record


class LogWriter:
    """Writes what a handler has taken.

    Args:
        handler: takes records.
        formatter: writes their text.
        sink: takes the lines.
        counts: of lines that could not be written.
        repetition: knows what was left out.
    """

    def __init__(
        self,
        handler: LogHandler,
        formatter: logging.Formatter,
        sink: Sink,
        counts: LineCounts,
        repetition: Repetition,
    ) -> None:
        self._handler = handler
        self._formatter = formatter
        self._sink = sink
        self._counts = counts
        self._repetition = repetition
        self._ending = False
        # It may hang in a pipe that nobody reads; the process ends all the same.
        self._thread = threading.Thread(target=self._run, name="xec-log", daemon=True)

    def start(self) -> None:
        """Write from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, if that goes quickly."""
        self._ending = True
        with suppress(queue.Full):
            self._handler.waiting.put_nowait(None)
        self._thread.join(_END_SECONDS)
        if self._thread.is_alive():
            self._counts.lose(self._handler.waiting.qsize())

    def _run(self) -> None:
        while True:
            record: logging.LogRecord | None = None
            with suppress(queue.Empty):
                record = self._handler.waiting.get(timeout=_LOOK_SECONDS)
            if record is not None:
                self._write(record)
            self._tell_repetition()
            if self._ending and self._handler.waiting.empty():
                break
        self._tell_repetition(all_of_them=True)

    def _tell_repetition(self, *, all_of_them: bool = False) -> None:
        for kind, lines in self._repetition.overdue(all_of_them=all_of_them):
            message = f"{lines} more lines were left out that repeat: {kind}"
            self._write(logging.LogRecord(__name__, logging.WARNING, "", 0, message, None, None))

    def _write(self, record: logging.LogRecord) -> None:
        try:
            self._sink(f"{self._formatter.format(record)}\n".encode(errors="backslashreplace"))
        except Exception:  # a full disk, a closed pipe, a record that cannot be written
            self._counts.lose()


def standard_error() -> Sink:
    """Writes to the process's standard error, past the buffers in which a failure would stay."""
    stream = sys.stderr
    if stream is None:  # closed before the start: its number may be another file's by now
        return _nowhere
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a stand-in without a file, as in tests of commands

        def write_text(content: bytes) -> None:
            stream.write(content.decode())
            stream.flush()

        return write_text

    def write(content: bytes) -> None:
        while content:
            content = content[os.write(descriptor, content) :]

    return write


def _nowhere(content: bytes) -> None:
    raise OSError(f"Standard error is closed: {len(content)} bytes are lost.")


@contextmanager
def logging_to(
    form: LogFormat,
    counts: LineCounts,
    sink: Sink | None = None,
    *,
    level: int = logging.INFO,
    room: int = _ROOM,
) -> Iterator[None]:
    """Let the log of this process go to `sink`, and as before at the end.

    Args:
        form: of its lines.
        counts: of lines that nobody will read.
        sink: standard error by default.
        level: the lowest that is written.
        room: records that may wait to be written; more are lost.
    """
    repetition = Repetition()
    handler = LogHandler(room, counts, repetition)
    formatter = formatter_of(form)
    writer = LogWriter(handler, formatter, sink or standard_error(), counts, repetition)
    root = logging.getLogger()
    levels = {
        "": max(level, logging.INFO),  # of other packages DEBUG is not wanted
        "alembic": max(level, logging.WARNING),  # it announces its own plugins
        "xec": level,
        "xec_server": level,
    }
    before = {name: logging.getLogger(name).level for name in levels}
    root.addHandler(handler)
    _set_levels(levels)
    writer.start()
    try:
        yield
    finally:
        root.removeHandler(handler)
        _set_levels(before)
        writer.stop()


def _set_levels(levels: dict[str, int]) -> None:
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
