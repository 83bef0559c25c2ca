"""From the banks of MIDAS events to counts and times.

FACTS 7 does not tell the experiment's own banks for analysed counts and times; the names and types
below are ours, and every part of them can be set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xec.detector.channels import N_CHANNELS
from xec.errors import FileError, UsageError
from xec.event import EventBatch
from xec.io.markers import split_markers
from xec.io.midas.event import Bank, MidasEvent
from xec.io.midas.layout import BankType
from xec.io.root_columns import useful_times
from xec.units import NS_PER_S

_FLOATING: Final = (BankType.FLOAT, BankType.DOUBLE)


@dataclass(frozen=True, slots=True)
class BankName:
    """A bank of one number per sensor, in the order of the channel ids.

    Args:
        name: four characters.
        type: of its values, FLOAT or DOUBLE.

    Raises:
        UsageError: the name is none, or the type holds no fractions.
    """

    name: str
    type: BankType = BankType.FLOAT

    def __post_init__(self) -> None:
        if len(self.name) != 4 or not (self.name.isascii() and self.name.isprintable()):
            raise UsageError(f"A bank is named by four characters, not {self.name!r}.")
        if self.type not in _FLOATING:
            raise UsageError(f"Bank {self.name} must be FLOAT or DOUBLE, not {self.type.name}.")


@dataclass(frozen=True, slots=True)
class ReadingBanks:
    """Where an event has its counts and times.

    Args:
        npho: photons at the sensor surface.
        time: times, after any zero common to the event.
        time_unit: nanoseconds per unit of the times in the bank.
        event_id: of the events that hold both banks; None for all events that hold one of them.

    Raises:
        UsageError: the unit is no positive number.
    """

    npho: BankName = BankName("XNPH")
    time: BankName = BankName("XTIM")
    time_unit: float = NS_PER_S
    event_id: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.time_unit < math.inf:
            raise UsageError(f"A unit of time is a positive number, not {self.time_unit:g} ns.")


DEFAULT_BANKS: Final = ReadingBanks()


@dataclass(frozen=True, slots=True, eq=False)
class RawReading:
    """Counts and times of one event as in the file, markers included; views of its bytes."""

    run: int
    event: int
    npho: NDArray[np.floating[Any]]  # (4760,) photons
    time: NDArray[np.floating[Any]]  # (4760,) in the unit of the bank

    def copied(self) -> RawReading:
        """The same, of its own: an event can be a thousand times as large as its readings."""
        return replace(self, npho=self.npho.copy(), time=self.time.copy())


def find_reading(event: MidasEvent, run: int, banks: ReadingBanks) -> RawReading | None:
    """The readings of an event, numbered by its serial, or None if it is of another kind.

    Args:
        event: of any kind.
        run: number of its run.
        banks: where the readings are.

    Raises:
        FileError: one bank is there and the other is not, one is there twice, or is of another
            type or length; or the list of banks is damaged.
    """
    if banks.event_id is not None and event.header.event_id != banks.event_id:
        return None
    wanted: dict[str, Bank] = {}
    for bank in event.banks():
        if bank.name in (banks.npho.name, banks.time.name):
            if bank.name in wanted:
                raise FileError(f"{event} has two banks {bank.name}: correct what wrote it.")
            wanted[bank.name] = bank
    if not wanted and banks.event_id is None:
        return None
    npho, time = (_values(event, wanted, name) for name in (banks.npho, banks.time))
    return RawReading(run, event.header.serial, npho, time)


def _values(event: MidasEvent, found: dict[str, Bank], wanted: BankName) -> NDArray[Any]:
    bank = found.get(wanted.name)
    if bank is None:
        raise FileError(f"{event} has no bank {wanted.name}: set the names of the banks.")
    try:
        values = bank.array()
    except ValueError as error:
        raise FileError(f"{event}: bank {bank.name} {error}.") from error
    if bank.type is not wanted.type:
        kind = bank.type.name if bank.type is not None else bank.code
        raise FileError(f"{event}: bank {bank.name} is of type {kind}, not {wanted.type.name}.")
    if len(values) != N_CHANNELS:
        raise FileError(f"{event}: bank {bank.name} holds {len(values)} values, not {N_CHANNELS}.")
    return values


def to_batch(
    readings: Sequence[RawReading], banks: ReadingBanks, where: str, first: int = 0
) -> EventBatch:
    """Readings as events: units converted, markers turned into validity.

    Args:
        readings: at least one.
        banks: where they were.
        where: the file, for the error.
        first: entry number of the first one, for the error.

    Raises:
        FileError: a value is neither a reading nor a marker.
    """
    npho, npho_valid = split_markers(
        _stacked([each.npho for each in readings]), 1.0, f"{where}: bank {banks.npho.name}", first
    )
    time, time_valid = split_markers(
        _stacked([each.time for each in readings]),
        banks.time_unit,
        f"{where}: bank {banks.time.name}",
        first,
    )
    time_valid = useful_times(npho, npho_valid, time_valid)
    return EventBatch(
        run=np.array([each.run for each in readings], dtype=np.int64),
        event=np.array([each.event for each in readings], dtype=np.int64),
        npho=npho,
        time=np.where(time_valid, time, np.float32(0)),
        npho_valid=npho_valid,
        time_valid=time_valid,
    )


def _stacked(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """(B, 4760) in the byte order of this machine."""
    stacked = np.empty((len(rows), N_CHANNELS), rows[0].dtype.newbyteorder("="))
    for row, values in zip(stacked, rows, strict=True):
        row[:] = values
    return stacked
