"""Runs Triton and ends it with all its stubs, however the program that started it ends.

Started by file, in an interpreter of its own, with nothing but the standard library. It holds the
reading end of a pipe whose writing end the starter keeps: when that closes, because the starter
asks for the end, exits, or is killed, Triton is told to stop and, after a grace, killed. Triton in
turn is sent SIGTERM by the kernel when this process dies, and a stub ends when Triton has died.

Usage: guard.py SECONDS PREFIX COMMAND...   (grace; prefix of names in /dev/shm; what to run)
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_POLL_SECONDS: Final = 0.1


def _die_with_parent() -> None:
    """In the child, before it becomes Triton."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(child: subprocess.Popen[bytes]) -> None:
    """Until the child ends or standard input closes."""
    while child.poll() is None:
        readable, _, _ = select.select([sys.stdin], [], [], _POLL_SECONDS)
        if readable and not os.read(sys.stdin.fileno(), 1):
            return


def _stop(child: subprocess.Popen[bytes], grace: float) -> None:
    """Ask, wait, and kill what is left of the child's session."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(grace)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def main(arguments: list[str]) -> int:
    """Run a command until it ends or standard input closes; its exit status."""
    grace, prefix, *command = arguments
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The pipe decides, not a signal to the whole group. To ignore would be inherited.
        signal.signal(number, lambda *_: None)
    child = subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509  # this process has one thread
        restore_signals=True,
    )
    try:
        _wait(child)
    finally:
        _stop(child, float(grace))
        for region in Path("/dev/shm").glob(f"{prefix}*"):  # noqa: S108  # what Triton left behind
            region.unlink(missing_ok=True)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
