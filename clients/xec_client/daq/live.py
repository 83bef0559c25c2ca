"""Events from a running MIDAS experiment, through MIDAS's own Python module where it is installed.

The buffer is sampled: MIDAS hands over what it can without making the experiment wait, we register
no equipment and hook no run transition. The module is imported only here; it comes with MIDAS
(`$MIDASSYS/python`) and is on no package index.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from xec.errors import ServiceError, UsageError
from xec.io.midas.event import Bank, EventHeader, MidasEvent
from xec.io.midas.layout import BankType, ByteOrder, EventKind
from xec.io.midas.readings import DEFAULT_BANKS, ReadingBanks
from xec.io.midas.writer import Layout, pack_banks
from xec_client.daq.source import MidasReadings, Sample, Stopped

CLIENT_NAME: Final = "xec daq"
_RUN_NUMBER: Final = "/Runinfo/Run number"
_RUN_START: Final = "/Runinfo/Start time binary"
_IDLE_SECONDS: Final = 0.005
_ALIVE_SECONDS: Final = 1.0
_LONGEST_PAUSE: Final = 5.0


def _official() -> tuple[Any, Any]:
    """The modules `midas` and `midas.client`.

    Raises:
        UsageError: they are not installed.
    """
    try:
        return import_module("midas"), import_module("midas.client")
    except ImportError as error:
        raise UsageError(
            "xec daq --live needs MIDAS's own Python module: install MIDAS and put "
            "$MIDASSYS/python on PYTHONPATH, or read files with --follow."
        ) from error


class LiveSource:
    """Events of a MIDAS buffer, sampled without blocking whoever fills it.

    Args:
        buffer: name of the shared-memory buffer.
        banks: where the readings are.
        modules: `midas` and `midas.client`; found by default.

    Raises:
        UsageError: MIDAS's module is not installed.
    """

    patient = False
    geometry_hash: str | None = None

    def __init__(
        self,
        buffer: str = "SYSTEM",
        banks: ReadingBanks = DEFAULT_BANKS,
        modules: tuple[Any, Any] | None = None,
    ) -> None:
        self._midas, self._clients = modules or _official()
        self.name = f"MIDAS buffer {buffer}"
        self._buffer = buffer
        self._readings = MidasReadings(banks)
        self._wanted = (banks.npho.name, banks.time.name)
        self._event_id = -1 if banks.event_id is None else banks.event_id
        self._connected = False
        self._runs: list[tuple[float, int]] = []
        self._early = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """See `Source`."""
        early = f"{self._early} events of a run before the first known one were left out."
        return (*self._readings.notes, *([early] if self._early else []))

    def samples(self, stopped: Stopped) -> Iterator[Sample]:
        """See `Source`; after the first connection a lost one is made anew, with back-off.

        Raises:
            ServiceError: MIDAS cannot be reached at the start.
        """
        pause = 0.1
        while not stopped():
            before = self._readings.readable
            try:
                yield from self._of_connection(stopped)
            except (self._midas.MidasError, OSError) as error:
                if not self._connected:
                    raise ServiceError(
                        f"{self.name} cannot be opened: {error}; check that the experiment runs, "
                        "and MIDAS_EXPTAB and MIDAS_EXPT_NAME."
                    ) from error
                pause = 0.1 if self._readings.readable > before else min(2 * pause, _LONGEST_PAUSE)
                time.sleep(pause)

    def _of_connection(self, stopped: Stopped) -> Iterator[Sample]:
        client = self._clients.MidasClient(CLIENT_NAME)
        try:
            handle = client.open_event_buffer(self._buffer)
            # The default of the module, GET_ALL, makes the experiment wait for us.
            client.register_event_request(
                handle, event_id=self._event_id, sampling_type=self._midas.GET_NONBLOCKING
            )
            self._connected = True
            yield from self._of_buffer(client, handle, stopped)
        finally:
            client.disconnect()

    def _of_buffer(self, client: Any, handle: Any, stopped: Stopped) -> Iterator[Sample]:
        alive = time.monotonic()
        while not stopped():
            if time.monotonic() - alive > _ALIVE_SECONDS:
                client.communicate(0)  # MIDAS removes clients that it does not hear of
                alive = time.monotonic()
            event = client.receive_event(handle, True)
            if event is None:
                time.sleep(_IDLE_SECONDS)
                continue
            sample = self._sample(event, client.odb_get)
            if sample is not None:
                yield sample

    def _sample(self, event: Any, odb_get: Callable[[str], Any]) -> Sample | None:
        header = EventHeader(
            event.header.event_id,
            event.header.trigger_mask,
            event.header.serial_number,
            event.header.timestamp,
            0,
        )
        if header.kind is not EventKind.DATA:
            return None
        run = self._run_at(header.unix_time, odb_get)
        if run is None:
            self._early += 1
            return None
        banks = [
            self._bank(name, event.banks[name]) for name in self._wanted if name in event.banks
        ]
        data = memoryview(pack_banks(banks, Layout()))
        return self._readings.sample(
            MidasEvent(header, data, ByteOrder.LITTLE, Path(self._buffer), 0), run, False
        )

    @staticmethod
    def _bank(name: str, bank: Any) -> Bank:
        try:
            return Bank.of(name, BankType(bank.type), bank.data)
        except (ValueError, TypeError):  # of a type without numbers; refused where it is read
            return Bank(name, int(bank.type), memoryview(b""))

    def _run_at(self, moment: float, odb_get: Callable[[str], Any]) -> int | None:
        """The run of an event, also of one that waited in the buffer while the next run began."""
        current = (float(odb_get(_RUN_START)), int(odb_get(_RUN_NUMBER)))
        if not self._runs or self._runs[-1] != current:
            self._runs = [*self._runs[-1:], current]
        return next((run for start, run in reversed(self._runs) if moment >= int(start)), None)
