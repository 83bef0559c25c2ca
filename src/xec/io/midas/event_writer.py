"""Events as a MIDAS run: what a DAQ with analysed counts and times would write."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from xec.errors import UsageError
from xec.event import BoolArray, EventBatch, FloatArray
from xec.io.markers import with_markers
from xec.io.midas.event import Bank
from xec.io.midas.label import RunLabel, label_dump
from xec.io.midas.layout import ITEM
from xec.io.midas.readings import DEFAULT_BANKS, BankName, ReadingBanks
from xec.io.midas.writer import Label, Layout, MidasWriter


class MidasEventWriter:
    """Writes batches of events of one run; a context manager.

    MIDAS files hold what a detector measures: truth, and what dead sensors would have read, are
    left out. Invalid readings are written as 1e10, times in the unit of the bank.

    Args:
        path: ``run00407.mid.lz4`` for instance; an existing file is replaced.
        run: number of the run.
        geometry_hash: of the geometry that the events were simulated or measured with.
        synthetic: whether the events were simulated; stored in the begin of run.
        banks: where the readings go; events have the id it names, 1 by default.
        layout: of the events.
        subrun_bytes: split into subruns of about this size; see `MidasWriter`.

    Raises:
        UsageError: the name is not one of MIDAS, or the run number is none.
        FileError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        run: int,
        geometry_hash: str,
        synthetic: bool,
        banks: ReadingBanks = DEFAULT_BANKS,
        layout: Layout | None = None,
        subrun_bytes: int | None = None,
    ) -> None:
        self._run, self._banks = run, banks
        self._layout = layout or Layout()
        self._writer = MidasWriter(
            path,
            run,
            layout=self._layout,
            odb=label_dump(run, RunLabel(synthetic, geometry_hash)),
            subrun_bytes=subrun_bytes,
        )

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def write(
        self,
        events: EventBatch,
        dead: BoolArray | None = None,
        npho_reference: FloatArray | None = None,
    ) -> None:
        """Append events.

        Args:
            events: of the run; their truth is left out.
            dead: the dead list, (4760,) or (B, 4760); its sensors are written as invalid.
            npho_reference: left out.

        Raises:
            UsageError: an event is of another run.
            FileError: the disk is full, or an event number does not fit a serial.
        """
        del npho_reference
        if dead is not None:
            events = events.with_dead(dead)
        if (events.run != self._run).any():
            other = int(events.run[events.run != self._run][0])
            raise UsageError(f"A MIDAS file holds one run: event of run {other} in {self._run}.")
        npho = with_markers(events.npho, events.npho_valid)
        time = with_markers(events.time, events.time_valid, 1.0 / self._banks.time_unit)
        event_id = 1 if self._banks.event_id is None else self._banks.event_id
        for row, serial in enumerate(events.event.tolist()):
            banks = (
                self._bank(self._banks.npho, npho[row]),
                self._bank(self._banks.time, time[row]),
            )
            self._writer.write(Label(serial, event_id), banks)

    def _bank(self, name: BankName, values: FloatArray) -> Bank:
        return Bank.of(
            name.name, name.type, values.astype(np.dtype(ITEM[name.type])), self._layout.order
        )
