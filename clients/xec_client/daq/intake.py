"""The thread between source and spool: it offers every event once and waits for nothing else."""

from __future__ import annotations

import logging
import time
from threading import Event, Thread
from typing import Final

from xec.errors import XecError
from xec_client.daq.source import Source
from xec_client.daq.spool import Spool
from xec_client.daq.spool.seen import SeenIds

_LOG = logging.getLogger(__name__)

PATIENT_EVENTS: Final = 256
"""A source that can wait does so while as many events wait for the disk."""

_LOOK_SECONDS: Final = 0.005


class Intake:
    """Runs a source.

    Args:
        source: of the events.
        spool: takes them.
        known: events that need not be offered again, as they are in the output, in the spool or
            rejected: a source that begins anew (a file after a restart) comes out once.
    """

    def __init__(self, source: Source, spool: Spool, known: SeenIds) -> None:
        self.source = source
        self._spool = spool
        self._known = known
        self._stop = Event()
        self.repeated = 0
        """Events that were known already."""
        self.error: BaseException | None = None
        """Why the source ended, if not well."""
        self._thread = Thread(target=self._run, name="source", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Let the source end, and wait for that: whether it did."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def is_done(self) -> bool:
        """Whether the source has ended."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def _run(self) -> None:
        try:
            for sample in self.source.samples(self._stop.is_set):
                if sample.id in self._known:
                    self.repeated += 1
                    continue
                if self.source.patient and not self._wait_for_room():
                    break
                if self._spool.offer(sample.id, sample.payload) is not None:
                    self._known.add(sample.id)
        except XecError as error:
            # A source that is told to stop and takes long finds the spool closed: that is no error.
            self.error = None if self._stop.is_set() else error
        except BaseException as error:
            _LOG.exception("the source ended by a defect")
            self.error = error

    def _wait_for_room(self) -> bool:
        """Whether there is room; False: stopped before there was."""
        while self._spool.accounting().in_memory >= PATIENT_EVENTS:
            if self._stop.is_set():
                return False
            time.sleep(_LOOK_SECONDS)
        return True
