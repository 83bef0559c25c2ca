"""`xec` called often, each time in a process of its own that need not import anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select

PROGRAM = Path(__file__).with_name("xec_forks.py")


class Forks:
    """One call after the other; see xec_forks.py."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._program = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(log)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *arguments: object, first: str = "") -> int:
        """The number of the call's process, which runs the Python text `first` before."""
        return self._ask([first, [str(argument) for argument in arguments]])

    def status(self) -> int:
        """How the process ended, once it has."""
        return self._ask(None)

    def ended(self, *arguments: object, first: str = "") -> int:
        """The status of a call to its end."""
        self.start(*arguments, first=first)
        return self.status()

    def killed(self, process: int, after: float) -> bool:
        """Kill the call after so many seconds; False: it had ended well by itself."""
        end = os.pidfd_open(process)
        select([end], [], [], after)
        os.close(end)
        os.kill(process, signal.SIGKILL)  # its number is its own until its status is asked for
        status = self.status()
        assert status in (0, -signal.SIGKILL), self.printed
        return status != 0

    @property
    def printed(self) -> str:
        """By all calls so far."""
        return self._log.read_text()

    def close(self) -> None:
        self._program.communicate()

    def _ask(self, what: object) -> int:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(json.dumps(what) + "\n")
        self._program.stdin.flush()
        answer = self._program.stdout.readline()
        assert answer, self.printed
        return int(answer)


@contextmanager
def forking(folder: Path) -> Iterator[Forks]:
    forks = Forks(folder / "log")
    try:
        yield forks
    finally:
        forks.close()
