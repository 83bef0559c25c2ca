"""Whether Triton can be used: known from its answers, and from golden events where it is not.

A thread of its own looks at Triton. While all is well it asks only when no answer came for a
while: first whether the process lives (a stopped one does not, and neither does a dead network),
more rarely whether the model answers its golden events (a dead worker behind a live server does
not). Once Triton is lost, it connects anew until one is found that has the right model and
answers the golden events rightly.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from xec.errors import ModelError, XecError

log = logging.getLogger(__name__)


class Subject(Protocol):
    """What is watched; its methods are called from the thread of the watch, one at a time."""

    def connect(self) -> None:
        """Connect anew and check everything.

        Raises:
            XecError: it cannot be used; the sentence says why.
        """
        ...

    def is_live(self) -> bool:
        """Whether the process answers."""
        ...

    def answers(self) -> None:
        """Run the golden events.

        Raises:
            XecError: they fail, take too long, or are answered wrongly.
        """
        ...

    def give_up(self) -> None:
        """Give up all calls under way; called from any thread."""
        ...


class Watch:
    """Keeps the state of one Triton.

    Args:
        subject: how to look at it.
        every: seconds between looks.
        model_every: seconds without an answer after which the golden events run.
    """

    def __init__(self, subject: Subject, every: float, model_every: float) -> None:
        self._subject = subject
        self._every = every
        self._model_every = model_every
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._reason = "Triton was not asked yet."
        self._ready = False
        self._suspected = False
        self._closed = False
        self._last_answer = 0.0
        self._listeners: list[Callable[[bool], None]] = []
        self._thread = threading.Thread(target=self._run, name="xec-triton-watch", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Whether calls may be sent."""
        return self._ready

    @property
    def reason(self) -> str:
        """Why not: one sentence."""
        return self._reason

    @property
    def last_answer(self) -> float:
        """When the last call was answered, by `time.monotonic`."""
        return self._last_answer

    def listen(self, listener: Callable[[bool], None]) -> None:
        """Call `listener` with the state now and at each change, from some thread."""
        with self._lock:
            self._listeners.append(listener)
            listener(self._ready)

    def start(self) -> None:
        """Look once, here and now, and go on in a thread.

        Raises:
            ModelError: there is a Triton, and its model is another one.
        """
        try:
            self._connect()
        except ModelError:
            raise
        except XecError as error:
            self._refused(error)
        self._thread.start()

    def answered(self) -> None:
        """A call was answered."""
        self._last_answer = time.monotonic()

    def suspect(self) -> None:
        """A call failed in a way that may mean more: look at once."""
        self._suspected = True
        self._wake.set()

    def lost(self, reason: str) -> None:
        """Calls cannot be sent any more; those under way are given up."""
        with self._lock:
            if not self._ready:
                return
            self._ready, self._reason = False, reason
            log.warning("%s", reason)
            self._tell()
        self._subject.give_up()
        self._wake.set()

    def stop(self) -> None:
        """Look no more."""
        self._closed = True
        self._wake.set()

    def join(self) -> None:
        """Wait for the look under way, whose calls were given up."""
        if self._thread.is_alive():
            self._thread.join()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener(self._ready)

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._every)
            self._wake.clear()
            if self._closed:
                return
            try:
                self._look() if self._ready else self._connect()
            except XecError as error:
                self._refused(error)
            except Exception:
                # A defect, unless `stop` was followed by closing what is in use here. Whatever it
                # is, without this thread nobody would find Triton again.
                if self._closed:
                    return
                log.exception("looking at Triton failed")
                self.lost("The gateway failed to look at Triton: see its log.")

    def _connect(self) -> None:
        self._subject.connect()
        with self._lock:
            self._ready, self._suspected, self._reason = True, False, ""
            self.answered()
            log.info("Triton is ready")
            self._tell()

    def _refused(self, error: XecError) -> None:
        if str(error) != self._reason:
            log.warning("%s", error)
        self._reason = str(error)

    def _look(self) -> None:
        now = time.monotonic()
        silent = now - self._last_answer
        suspected, self._suspected = self._suspected, False
        if silent < self._every and not suspected:
            return
        if not self._subject.is_live():
            if self._last_answer < now:
                self.lost("Triton does not answer: it is stopped, overloaded or out of reach.")
            return
        if suspected or silent >= self._model_every:
            self._try_model(now)

    def _try_model(self, since: float) -> None:
        try:
            self._subject.answers()
        except XecError as error:
            if self._last_answer < since:
                self.lost(str(error))
