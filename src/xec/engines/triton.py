"""Triton as an engine: each batch becomes one request to another process.

Triton collects requests into batches, so nothing is collected here. What it runs must be the
model of the repository given here: its digest, contract and geometry are compared with Triton's
configuration, and its golden events run, before the first call and after every loss of the
connection. Answers come from a Triton that passed, or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import numpy as np
from numpy.typing import NDArray

from xec.contract import MODEL_NAME, outputs_of
from xec.engines.base import ModelInfo, Tensors
from xec.engines.golden import GOLDEN_FILE, Golden, golden_of
from xec.engines.identity import identity
from xec.engines.onnx_bytes import metadata_of
from xec.engines.priority import Priority
from xec.engines.repository import MODEL_FILE, StoredModel, read_model
from xec.engines.triton_link import Link
from xec.engines.triton_watch import Watch
from xec.engines.triton_wire import (
    Cause,
    answer_of,
    cause_of,
    config_difference,
    largest_message,
    request_of,
    text_of,
)
from xec.errors import (
    EngineAway,
    EngineBusy,
    EngineError,
    EngineTooLate,
    ModelError,
    UsageError,
    XecError,
)

Outputs = dict[str, NDArray[np.float32]]

_IN_TIME: Final = 0.9
"""Of a call's time: a request that Triton refuses for its age later than this is simply late."""
_SUSPICIOUS_SILENCE: Final = 0.25
"""Seconds without any answer after which a call in vain means that Triton is away, not slow."""


@dataclass(frozen=True, slots=True)
class CallSettings:
    """How Triton is asked.

    Args:
        largest_batch: events in one request, where Triton's `max_batch_size` allows more.
        timeout: seconds for a call that brings no limit of its own.
        patience: seconds in which a Triton that lives says so.
        model_patience: seconds in which its model answers the golden events, under load, too.
        look_every: seconds between looks at a Triton that does not answer anything.
        model_every: seconds without an answer after which the golden events run.
        retry_after: seconds after which events come again that found the queue full.
    """

    largest_batch: int = 256
    timeout: float = 30.0
    patience: float = 2.0
    model_patience: float = 10.0
    look_every: float = 0.5
    model_every: float = 10.0
    retry_after: float = 0.2

    def __post_init__(self) -> None:
        if self.largest_batch < 1:
            raise UsageError("A request to Triton holds at least one event.")
        times = (self.timeout, self.patience, self.model_patience, self.look_every)
        if min(*times, self.model_every, self.retry_after) <= 0:
            raise UsageError("The times for calls to Triton are longer than 0.")


def _golden(stored: StoredModel) -> Golden:
    path = stored.folder / GOLDEN_FILE
    if stored.golden is None:
        raise ModelError(
            f"There is no {path}, and without golden events nobody knows whether Triton answers "
            "rightly: export the model again."
        )
    return golden_of(stored.golden, path, outputs_of(stored.name))


class TritonEngine:
    """A model of a repository, run by a Triton that serves the same repository.

    `infer` may be called from any number of threads; each call is one request.
    """

    def __init__(
        self,
        address: str,
        repository: Path,
        settings: CallSettings | None = None,
        *,
        name: str = MODEL_NAME,
        version: int | None = None,
        geometry_hash: str | None = None,
    ) -> None:
        """Read the model's identity and golden events, and look for Triton.

        A Triton that is not there yet is waited for: see `listen`.

        Args:
            address: ``host:port`` of Triton's gRPC service.
            repository: folder in Triton's layout, with the model that Triton is to run.
            settings: how to ask.
            name: of the model.
            version: of the model; the highest one by default.
            geometry_hash: refuse a model that was made for another geometry than this.

        Raises:
            ModelError: the model is missing or altered, or Triton is there and runs another one,
                or answers the golden events wrongly.
        """
        self.settings = settings or CallSettings()
        self._address = address
        stored = read_model(repository, name, version)
        try:
            metadata = metadata_of(stored.content)
        except ModelError as error:
            raise ModelError(f"{stored.folder / MODEL_FILE} is refused: {error}.") from error
        self._model = identity(stored, metadata, geometry_hash, "triton")
        self._name, self._version = stored.name, stored.folder.name
        self._golden = _golden(stored)
        self._largest = self.settings.largest_batch
        self._link = self._candidate = self._new_link()
        self._closed = False
        self._watch = Watch(self, self.settings.look_every, self.settings.model_every)
        try:
            self._watch.start()
        except ModelError:
            self.close()
            raise

    @property
    def model(self) -> ModelInfo:
        """What Triton is to run."""
        return self._model

    @property
    def largest_batch(self) -> int:
        """Events that one request may hold, as far as is known."""
        return self._largest

    @property
    def is_ready(self) -> bool:
        """Whether Triton passed, and has not been lost since."""
        return self._watch.is_ready

    @property
    def reason(self) -> str:
        """Why it is not ready: one sentence."""
        return self._watch.reason

    def listen(self, listener: Callable[[bool], None]) -> None:
        """Call `listener` with `is_ready`, now and at each change, from some thread."""
        self._watch.listen(listener)

    def infer(self, inputs: Tensors) -> Outputs:
        """`infer_within` the settings' time."""
        return self.infer_within(inputs, self.settings.timeout)

    def infer_within(
        self, inputs: Tensors, seconds: float, priority: Priority = Priority.OFFLINE
    ) -> Outputs:
        """Run B events; more than `largest_batch` are cut into several requests.

        Args:
            inputs: arrays of the contract's inputs, each (B, width), with B of 1 or more.
            seconds: until it must have answered.
            priority: over other requests.

        Returns:
            Arrays of the contract's outputs, each (B, width).

        Raises:
            EngineAway: Triton is not there, stalls, or runs another model.
            EngineBusy: its queue is full.
            EngineTooLate: it did not answer in time.
            EngineError: it answered with an error.
        """
        if self._closed:
            raise EngineError("The engine is closed.")
        link = self._link  # before the question: it may be replaced after it
        if not self._watch.is_ready:
            raise EngineAway(self._watch.reason)
        last = time.monotonic() + seconds
        outputs = self._run(link, inputs, last, priority)
        self._watch.answered()
        return outputs

    def _run(self, link: Link, inputs: Tensors, last: float, priority: Priority) -> Outputs:
        """All events, one request after the other, until `last` by `time.monotonic`."""
        step = self._largest
        pieces = [
            {name: values[start : start + step] for name, values in inputs.items()}
            for start in range(0, len(inputs["npho"]), step)
        ]
        answers = [self._call(link, piece, last - time.monotonic(), priority) for piece in pieces]
        if len(answers) == 1:
            return answers[0]
        return {name: np.concatenate([a[name] for a in answers]) for name in answers[0]}

    def _call(self, link: Link, inputs: Tensors, seconds: float, priority: Priority) -> Outputs:
        if seconds <= 0:
            raise EngineTooLate("The time for the call passed before it could be sent.")
        sent = time.monotonic()
        request = request_of(self._name, self._version, inputs, seconds, priority)
        try:
            response = link.infer(request, seconds)
            return answer_of(response, self._name, len(inputs["npho"]))
        except grpc.RpcError as error:
            in_time = time.monotonic() < sent + _IN_TIME * seconds
            raise self._error_of(link, error, sent, in_time) from error

    def _error_of(
        self, link: Link, error: grpc.RpcError, sent: float, in_time: bool
    ) -> EngineError:
        """What a failed call means; tells the watch where it means more than that call."""
        where = f"Triton at {self._address}"
        match cause_of(error):
            case Cause.BUSY if in_time:
                text = f"{where} has no room: {text_of(error)}."
                return EngineBusy(text, self.settings.retry_after)
            case Cause.BUSY | Cause.TOO_LATE:
                return self._late(where, sent)
            case Cause.AWAY:
                reason = f"{where} is away: {text_of(error)}."
                self._lose(link, reason)
                return EngineAway(reason)
            case Cause.GIVEN_UP:
                return EngineAway(f"The connection to {where} was lost.")
            case Cause.FAILED:
                self._watch.suspect()
                return EngineError(f"{where} failed: {text_of(error)}.")

    def _late(self, where: str, sent: float) -> EngineError:
        """No answer in time: from a Triton that answers others meanwhile, or none."""
        silent = time.monotonic() - max(sent, self._watch.last_answer)
        if silent < _SUSPICIOUS_SILENCE:
            return EngineTooLate(f"{where} did not answer in the time of the call.")
        self._watch.suspect()
        return EngineAway(f"{where} does not answer.")

    def close(self) -> None:
        """Stop watching, give up all calls and disconnect."""
        if self._closed:
            return
        self._closed = True
        self._watch.stop()
        self._link.close()
        self._candidate.close()  # ends what the watch waits for
        self._watch.join()

    # --- what the watch does ----------------------------------------------------------------------

    def _new_link(self) -> Link:
        return Link(self._address, largest_message(self.settings.largest_batch))

    def connect(self) -> None:
        """Connect anew, compare the configuration, run the golden events.

        Raises:
            EngineAway: Triton is not there, or does not serve the model yet.
            EngineError: it fails at the golden events.
            ModelError: it runs another model, or answers wrongly.
        """
        self._candidate = link = self._new_link()
        try:
            self._check_config(link)
            self._check_answers(link)
        except XecError:
            link.close()
            raise
        self._link.close()
        self._link = link
        link.on_lost(
            lambda: self._lose(link, f"The connection to Triton at {self._address} was lost.")
        )

    def _check_config(self, link: Link) -> None:
        try:
            config = link.config(self._name, self._version, self.settings.patience)
        except grpc.RpcError as error:
            raise EngineAway(
                f"There is no Triton with {self._name} version {self._version} at "
                f"{self._address}: {text_of(error)}."
            ) from error
        difference = config_difference(config, self._name, self._model)
        if difference:
            raise ModelError(
                f"Triton at {self._address} runs another {self._name} than our repository holds: "
                f"{difference}. Start it on the same repository."
            )
        self._largest = max(1, min(self.settings.largest_batch, config.max_batch_size))

    def _check_answers(self, link: Link) -> None:
        last = time.monotonic() + self.settings.model_patience
        outputs = self._run(link, self._golden.inputs, last, Priority.ONLINE)
        self._golden.check(outputs, f"Triton at {self._address}")

    def _lose(self, link: Link, reason: str) -> None:
        """The watch learns it, unless another link has replaced this one."""
        if link is self._link:
            self._watch.lost(reason)

    def is_live(self) -> bool:
        """Whether the process answers."""
        return self._link.is_live(self.settings.patience)

    def answers(self) -> None:
        """Run the golden events.

        Raises:
            EngineError: it fails, or takes too long.
            ModelError: the answers are wrong.
        """
        self._check_answers(self._link)

    def give_up(self) -> None:
        """Give up all calls under way."""
        self._link.give_up()
