"""What systemd is told: ready, stopping, and that the event loop turns (sd_notify(3)).

One datagram per message to the socket that `NOTIFY_SOCKET` names. Where nobody listens nothing is
sent, and a message that cannot be sent stops no server.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
ALIVE: Final = "WATCHDOG=1"

_MICROSECONDS: Final = 1e6

log = logging.getLogger(__name__)


def notify(*messages: str) -> bool:
    """Tell the manager of this service.

    Args:
        messages: such as `READY`, or ``STATUS=…``; one line each.

    Returns:
        Whether there is a manager, and it was told.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(1.0)  # a manager that does not read must not hold the loop
            sender.connect(address)
            sender.send("\n".join(messages).encode())
    except OSError as error:
        log.warning("the service manager could not be told %s: %s", messages[0], error)
        return False
    return True


def watchdog_seconds() -> float | None:
    """After how long a silence the manager restarts this process; None: it does not watch it."""
    wanted = os.environ.get("WATCHDOG_USEC", "")
    whose = os.environ.get("WATCHDOG_PID", "") or str(os.getpid())
    if not wanted.isdecimal() or not int(wanted) or whose != str(os.getpid()):
        return None
    return int(wanted) / _MICROSECONDS


async def keep_alive() -> None:
    """Say that the event loop turns, for as long as it does; ends at once if nobody watches."""
    seconds = watchdog_seconds()
    while seconds is not None and notify(ALIVE):
        await asyncio.sleep(seconds / 3)
