"""The record of a model's reliability, as it travels in checkpoints and in the model's metadata.

It is measured by `xec train calibrate` on held-out events. All of it is optional: a model without
an entry is served without the interval or flag that would need it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

from xec.errors import ModelError
from xec.reliability.dead_light import DeadLight
from xec.reliability.domain import Domain
from xec.reliability.intervals import Intervals

METADATA_KEY: Final = "reliability"

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Reliability:
    """What is known of a model's limits.

    Args:
        intervals: factors from sigmas to intervals.
        domain: tells whether an event is like those of the training.
        dead_light: from where on a filling is not to be trusted.
    """

    intervals: Intervals | None = None
    domain: Domain | None = None
    dead_light: DeadLight | None = None

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`; other entries are left alone.

        Raises:
            ModelError: an entry that cannot be read.
        """
        return cls(
            _read(record, "intervals", Intervals.from_dict),
            _read(record, "domain", Domain.from_dict),
            _read(record, "dead_light", DeadLight.from_dict),
        )

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        parts = {
            "intervals": self.intervals,
            "domain": self.domain,
            "dead_light": self.dead_light,
        }
        return {name: part.as_dict() for name, part in parts.items() if part is not None}


def _read(
    record: Mapping[str, Any], name: str, make: Callable[[Mapping[str, Any]], Part]
) -> Part | None:
    entry = record.get(name)
    if entry is None:
        return None
    try:
        return make(entry)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"The model's {METADATA_KEY} has an entry {name} that cannot be used ({error}): "
            "calibrate and export it again."
        ) from error


def reliability_of(metadata: Mapping[str, str]) -> Reliability:
    """The reliability in a model's metadata; an empty one for a model that was not told.

    Raises:
        ModelError: when it cannot be read.
    """
    try:
        record = json.loads(metadata.get(METADATA_KEY, "{}"))
    except ValueError as error:
        raise ModelError(f"The model's {METADATA_KEY} is not JSON: export it again.") from error
    if not isinstance(record, dict):
        raise ModelError(f"The model's {METADATA_KEY} is not a JSON object: export it again.")
    return Reliability.from_dict(record)
