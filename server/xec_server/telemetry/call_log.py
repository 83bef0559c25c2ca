"""A line for each call and each event that did not go well; for those that did only at DEBUG."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Final

from grpc import StatusCode

from xec_server.calls.call import AtTheEnd, Call
from xec_server.calls.refusal import CODES, Refusal

log = logging.getLogger(__name__)

_LEVELS: Final = {
    StatusCode.OK: logging.DEBUG,
    StatusCode.CANCELLED: logging.INFO,
    StatusCode.UNKNOWN: logging.ERROR,
    StatusCode.INTERNAL: logging.ERROR,
    StatusCode.RESOURCE_EXHAUSTED: logging.WARNING,
    StatusCode.UNAVAILABLE: logging.WARNING,
    StatusCode.DEADLINE_EXCEEDED: logging.WARNING,
}
"""What is not here is the client's to put right."""


def _level_of(code: StatusCode) -> int:
    return _LEVELS.get(code, logging.INFO)


def log_call(call: Call) -> AtTheEnd:
    """A gate that writes how the call ended."""
    call.listeners.append(_log_event)
    return AtTheEnd(partial(_log_end, call, time.perf_counter()))


def _log_end(call: Call, began: float) -> None:
    level = _level_of(call.code)
    if not log.isEnabledFor(level):
        return
    code, reason = call.code.name, call.reason or ""
    ended = "answered" if call.code is StatusCode.OK else "not answered"
    details = {
        "method": call.method,
        "code": code,
        "reason": reason,
        "caller": call.caller,
        "run": call.run,
        "event": call.event,
        "events": call.events or None,
        "seconds": time.perf_counter() - began,
        "kind": f"call {call.method} {code} {reason}".rstrip(),
    }
    log.log(level, "%s: %s", ended, call.message or code, extra=details)


def _log_event(call: Call, refusal: Refusal, run: int, event: int) -> None:
    code = CODES[refusal.reason]
    level = _level_of(code)
    if not log.isEnabledFor(level):
        return
    details = {
        "method": call.method,
        "code": code.name,
        "reason": refusal.reason,
        "caller": call.caller,
        "run": run,
        "event": event,
        "kind": f"event {call.method} {code.name} {refusal.reason}",
    }
    log.log(level, "event not answered: %s", refusal.message, extra=details)
