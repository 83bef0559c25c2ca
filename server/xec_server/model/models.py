"""The model that answers, and its exchange for another one while calls are under way.

A call leases the model that is current when it is admitted and keeps it to its end: its events are
computed by that model, and their answers name it. One that was replaced is closed when the last
call that leased it is through.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from xec.engines.base import Engine, ModelInfo, provenance_of
from xec.errors import EngineError, ModelError, XecError
from xec_server.calls.refusal import Reason, Refusal
from xec_server.model.gateway import Gateway

Reopen: TypeAlias = Callable[[int | None], Engine]
"""Opens a version of the model as at the start, warm and checked; None: the one of the start."""

log = logging.getLogger(__name__)


class ServedModel:
    """An engine that answers, until it is replaced and nobody uses it any more.

    Args:
        engine: warm.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.model: ModelInfo = engine.model
        self.provenance = provenance_of(engine.model)
        self._lock = threading.Lock()
        self._users = 0
        self._retired = False
        self._closing: threading.Thread | None = None

    @contextmanager
    def used(self) -> Iterator[Engine]:
        """Keep the engine open for as long as the context; from any thread.

        Raises:
            EngineError: it was closed before.
        """
        with self._lock:
            if self._closing is not None:
                raise EngineError("The model was replaced, and is closed.")
            self._users += 1
        try:
            yield self.engine
        finally:
            with self._lock:
                self._users -= 1
                self._close_if_idle()

    def retire(self) -> None:
        """Close the engine once nobody uses it."""
        with self._lock:
            self._retired = True
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._retired and not self._users and self._closing is None:
            # Not here: an engine waits for its threads, and this may be the event loop.
            self._closing = threading.Thread(target=self.engine.close, name="xec-retired")
            self._closing.start()

    @property
    def is_closed(self) -> bool:
        """Whether it was retired and has closed."""
        return self._closing is not None and not self._closing.is_alive()

    def end(self) -> None:
        """Close the engine now, whoever uses it, and wait for that."""
        self.retire()
        if self._closing is None:
            self.engine.close()
        else:
            self._closing.join()


class Models:
    """The one model that answers, and those before it that are still in use.

    Args:
        engine: warm; closed when it was replaced, or by `end`.
        reopen: opens what may replace it; None: nothing can.
        followed: told of each new gateway to Triton, before it is used.
        prove: takes an event through all that is around a model; slow, and in a thread.
    """

    def __init__(
        self,
        engine: Engine,
        reopen: Reopen | None = None,
        followed: Callable[[Gateway], None] | None = None,
        prove: Callable[[ModelInfo], None] = lambda _: None,
    ) -> None:
        self.current = ServedModel(engine)
        self.swaps = 0
        self._reopen = reopen
        self._followed = followed
        self._prove = prove
        self._before: list[ServedModel] = []
        self._one_at_a_time = asyncio.Lock()
        self._ended = False

    @property
    def in_use(self) -> int:
        """Engines that are open: the current one, and replaced ones whose calls still run."""
        self._before = [one for one in self._before if not one.is_closed]
        return 1 + len(self._before)

    def check_version(self, version: str) -> None:
        """Refuse a version of the model that does not answer now.

        Raises:
            Refusal: it does not.
        """
        served = self.current.model.version
        if version not in ("", served):
            raise Refusal(
                Reason.UNKNOWN_MODEL_VERSION,
                f"Model version {version[:80]!r} is not served; {served!r} is.",
            )

    @contextmanager
    def leased(self, version: str = "") -> Iterator[ServedModel]:
        """The model that answers now, kept for as long as the context.

        Args:
            version: that it must have; empty: any.

        Raises:
            Refusal: it has another one.
        """
        self.check_version(version)
        served = self.current
        with served.used():
            yield served

    async def swap(self, version: int | None = None) -> ModelInfo:
        """Open a model, and let it answer from now on; on any failure nothing changes.

        Calls go on meanwhile, by the model that was current when they began. A second swap
        waits for the first.

        Args:
            version: folder in the repository; None: as at the start.

        Returns:
            The model that answers now; the same object as before where nothing was to be done.

        Raises:
            Refusal: the model cannot be opened, or does not fit; the old one goes on.
        """
        async with self._one_at_a_time:
            try:
                engine = await asyncio.to_thread(self._opened, version)
            except (XecError, MemoryError) as error:
                raise self._refused(error) from error
            return self._put(engine)

    def _opened(self, version: int | None) -> Engine:
        """Open it, check it, and take an event through it, all in a thread."""
        if self._reopen is None:
            raise ModelError("This server was not started from a model repository.")
        engine = self._reopen(version)
        try:
            self._check(engine)
            self._prove(engine.model)
        except BaseException:
            engine.close()
            raise
        return engine

    def _check(self, engine: Engine) -> None:
        old, new = self.current.model, engine.model
        if new.geometry_hash != old.geometry_hash:
            raise ModelError(
                f"Model version {new.version} was made for geometry {new.geometry_hash[:12]}…, "
                f"this server answers for {old.geometry_hash[:12]}…: start another server for it."
            )
        if isinstance(engine, Gateway):
            engine.require_ready()

    def _put(self, engine: Engine) -> ModelInfo:
        old = self.current
        if self._ended or engine.model == old.model:
            threading.Thread(target=engine.close, name="xec-retired").start()
            if self._ended:
                raise self._refused(ModelError("The server is stopping."))
            log.info("model %s answers already", _named(old.model))
            return old.model
        if isinstance(engine, Gateway) and self._followed is not None:
            self._followed(engine)
        self.current = ServedModel(engine)
        self.swaps += 1
        self._before = [*(one for one in self._before if not one.is_closed), old]
        old.retire()
        log.info("model %s answers in place of %s", _named(engine.model), _named(old.model))
        return engine.model

    def _refused(self, error: XecError | MemoryError) -> Refusal:
        why = str(error)
        if isinstance(error, MemoryError):
            why = "There is not enough memory for a second model: restart the server instead."
        kept = f"Model {self.current.model.version!r} goes on answering."
        log.warning("the model was not replaced: %s", why)
        return Refusal(Reason.RELOAD_REFUSED, f"{why} {kept}")

    def end(self) -> None:
        """Close all engines and wait for that; no swap comes after it."""
        self._ended = True
        for one in (*self._before, self.current):
            one.end()


def _named(model: ModelInfo) -> str:
    return f"{model.name} {model.version} (sha256 {model.sha256[:12]})"
