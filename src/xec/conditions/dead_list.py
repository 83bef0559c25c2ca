"""Lists of dead sensors in text form: `#` begins a comment, one channel id per line.

Source: FACTS 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Self

import numpy as np

from xec.detector.channels import N_CHANNELS
from xec.errors import ConditionsError
from xec.event import BoolArray
from xec.lineage import digest

# A full list with comments stays far below; anything longer is another kind of file.
MAX_BYTES: Final = 1 << 20


def list_id_of(channels: tuple[int, ...]) -> str:
    """The id of a list that has no name: a digest of its sorted channel ids."""
    return f"sha256:{digest(channels)[:16]}"


@dataclass(frozen=True, slots=True)
class DeadList:
    """Channel ids that are dead, ascending and without repetition, and the id of the list.

    An empty list is one: nothing is dead. That no list is known is an error, never an empty list.

    Raises:
        ConditionsError: when an id is unknown, or they are not ascending.
    """

    channels: tuple[int, ...]
    list_id: str

    def __post_init__(self) -> None:
        unknown = [channel for channel in self.channels if not 0 <= channel < N_CHANNELS]
        if unknown:
            raise ConditionsError(
                f"The dead list names channel {unknown[0]}; ids go from 0 to {N_CHANNELS - 1}."
            )
        if list(self.channels) != sorted(set(self.channels)):
            raise ConditionsError("The channel ids of a dead list ascend without repetition.")

    @classmethod
    def of(cls, channels: Iterable[int]) -> Self:
        """A list of these channels, in any order, with its digest as id."""
        ascending = tuple(sorted({_as_id(channel) for channel in channels}))
        return cls(ascending, list_id_of(ascending))

    @classmethod
    def from_mask(cls, mask: BoolArray) -> Self:
        """A list of the channels where `mask` (4760,) is True."""
        return cls.of(np.flatnonzero(mask).tolist())

    @property
    def mask(self) -> BoolArray:
        """True where a sensor is dead, (4760,); read-only, and the same array each time."""
        return _mask_of(self.channels)

    def __len__(self) -> int:
        return len(self.channels)


@lru_cache(maxsize=64)
def _mask_of(channels: tuple[int, ...]) -> BoolArray:
    """A server asks for it with every event."""
    mask = np.zeros(N_CHANNELS, dtype=np.bool_)
    mask[list(channels)] = True
    mask.setflags(write=False)
    return mask


def _as_id(channel: object) -> int:
    """Refuse what Python would take for an integer: the list of a mask's truth values."""
    if isinstance(channel, bool | np.bool_) or not isinstance(channel, int | np.integer):
        raise ConditionsError(
            f"A dead list holds integer channel ids, not {channel!r}; give a mask as an array."
        )
    return int(channel)


def _channel(text: str, where: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise ConditionsError(f"{where}: {text[:40]!r} is not a channel id; write one per line.")
    if text.startswith("-") or len(digits) > 9 or int(digits) >= N_CHANNELS:
        raise ConditionsError(
            f"{where}: there is no channel {text[:40]}; ids go from 0 to {N_CHANNELS - 1}."
        )
    return int(digits)


def parse_dead_list(text: str, name: str) -> DeadList:
    """The list that `text` spells; `name` stands for it in errors.

    An id that occurs twice is dead once: lists are often put together from several.

    Raises:
        ConditionsError: when a line is not a known channel id; it names the line.
    """
    channels = []
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if content:
            channels.append(_channel(content, f"{name}, line {number}"))
    return DeadList.of(channels)


def read_dead_list(path: Path) -> DeadList:
    """Read a list from a text file.

    Raises:
        ConditionsError: when it is missing, unreadable or not a list.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConditionsError(f"The dead list {path} does not exist.") from error
    except OSError as error:
        raise ConditionsError(f"The dead list {path} cannot be read: {error.strerror}.") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConditionsError(f"{path} is not a dead list: it is not text.") from error
    if len(content) > MAX_BYTES:
        raise ConditionsError(f"{path} is not a dead list: it is longer than {MAX_BYTES} bytes.")
    return parse_dead_list(text, str(path))


def list_lines(dead_list: DeadList) -> list[str]:
    """The lines of a list in text form."""
    head = f"# {len(dead_list)} dead channels, list {dead_list.list_id}"
    return [head, *(str(channel) for channel in dead_list.channels)]


def write_dead_list(path: Path, dead_list: DeadList) -> None:
    """Write a list as text that `read_dead_list` reads.

    Raises:
        ConditionsError: when the operating system refuses.
    """
    try:
        path.write_text("\n".join(list_lines(dead_list)) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConditionsError(
            f"The dead list {path} cannot be written: {error.strerror}."
        ) from error
