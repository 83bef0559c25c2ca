"""Triton behind this server, and the embedded engine behind Triton where that is wanted.

The fall-back answers only while Triton is away; each answer says which of the two it is from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from xec.engines.base import Engine, ModelInfo, Tensors
from xec.engines.priority import Priority
from xec.errors import EngineAway

if TYPE_CHECKING:  # needs tritonclient, which a server without Triton does not have
    from xec.engines.triton import TritonEngine

Outputs = dict[str, NDArray[np.float32]]

_SHARE_OF_TRITON: Final = 0.75
"""Of the time of a call: the rest is for the fall-back, where Triton stalls."""


class Gateway:
    """An engine of one or two: Triton, and what answers in its place.

    Args:
        triton: answers as long as it can.
        reserve: warm; answers while Triton is away. None: nobody does.
    """

    def __init__(self, triton: TritonEngine, reserve: Engine | None = None) -> None:
        self._triton = triton
        self._reserve = reserve

    @property
    def model(self) -> ModelInfo:
        """What Triton is to run."""
        return self._triton.model

    def require_ready(self) -> None:
        """See that Triton is there and passed.

        Raises:
            EngineAway: it is not; the sentence says why.
        """
        if not self._triton.is_ready:
            raise EngineAway(self._triton.reason)

    def largest_batch(self) -> int:
        """Events that go to Triton in one request."""
        return self._triton.largest_batch

    def listen(self, listener: Callable[[bool], None]) -> None:
        """Call `listener` with whether events can be answered, now and at each change."""
        if self._reserve is not None:
            listener(True)
        else:
            self._triton.listen(listener)

    def infer(self, inputs: Tensors) -> Outputs:
        """`infer_within` Triton's own limit."""
        return self.infer_within(inputs, None)[0]

    def infer_within(
        self, inputs: Tensors, seconds: float | None, priority: Priority = Priority.ONLINE
    ) -> tuple[Outputs, ModelInfo]:
        """Run B events.

        Args:
            inputs: arrays of the contract's inputs, each (B, width).
            seconds: until they must be answered; None leaves it to the settings of Triton.
            priority: the queue of Triton's in which they wait.

        Returns:
            Arrays of the contract's outputs, each (B, width), and the model that answered.

        Raises:
            EngineAway: Triton is away and there is no fall-back, or no time for it.
            EngineError: as from Triton or from the fall-back.
        """
        limit = self._triton.settings.timeout if seconds is None else seconds
        share = 1.0 if self._reserve is None else _SHARE_OF_TRITON
        last = time.monotonic() + limit
        try:
            return self._triton.infer_within(inputs, share * limit, priority), self._triton.model
        except EngineAway:
            if self._reserve is None or time.monotonic() >= last:
                raise
        return self._reserve.infer(inputs), self._reserve.model

    def close(self) -> None:
        """Close both."""
        self._triton.close()
        if self._reserve is not None:
            self._reserve.close()
