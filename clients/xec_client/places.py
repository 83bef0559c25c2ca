"""Where the events of a file are reconstructed: in this process, or by a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol

from xec.answer import answer
from xec.conditions.dead_list import DeadList
from xec.contract import CONTRACT_VERSION
from xec.engines.base import Engine, provenance_of, tensors_of
from xec.errors import UsageError
from xec.event import EventBatch, Reconstruction
from xec.lineage import Provenance
from xec_client.access import NO_ACCESS, Access
from xec_client.client import Client
from xec_client.description import ModelDescription
from xec_client.errors import PreconditionFailed
from xec_client.requests import Dead

READY_SECONDS: Final = 10.0
"""How long a server that is just starting is waited for."""

NOTHING_DEAD: Final = DeadList.of(())
"""Nothing is dead beyond the readings that each event marks as invalid."""


@dataclass(frozen=True, slots=True)
class Work:
    """Events to be reconstructed together, and the dead list to record with the answers.

    The list's sensors are already invalid in the events. None: nobody here knows a list.
    `revision` is that of the conditions database that the list comes from; empty for others.
    """

    events: EventBatch
    dead: DeadList | None
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Backend:
    """Reconstructs batches of events; `reconstruct` may be called from several threads.

    Args:
        reconstruct: the answers to a batch, in its order.
        geometry_hash: of the geometry that the model was made for.
    """

    reconstruct: Callable[[Work], list[Reconstruction]]
    geometry_hash: str


class Place(Protocol):
    """Where to reconstruct; its text completes "reconstructed ..."."""

    def open(self) -> AbstractContextManager[Backend]:
        """The backend, ready."""
        ...


def _provenance(engine: Engine, work: Work) -> Provenance:
    dead = work.dead or NOTHING_DEAD
    return replace(provenance_of(engine.model, dead.list_id), dead_list_revision=work.revision)


@dataclass(frozen=True, slots=True)
class Embedded:
    """The embedded engine, on all cores that this process may use.

    Args:
        repository: folder with the model.
        sessions: calls at the same time, each on one core; 0 means all cores.
    """

    repository: Path
    sessions: int = 0

    def __str__(self) -> str:
        return "in this process"

    @contextmanager
    def open(self) -> Iterator[Backend]:
        """Load the model.

        Raises:
            UsageError: ONNX Runtime is not installed.
            ModelError: the model is missing, altered or of another contract.
        """
        if find_spec("onnxruntime") is None:
            raise UsageError(
                "Reconstructing here needs onnxruntime: pip install 'xec-reconstruct[server]'."
            )
        from xec.engines.onnx import OnnxEngine, OnnxSettings  # noqa: PLC0415

        engine = OnnxEngine(self.repository, OnnxSettings(sessions=self.sessions))

        def reconstruct(work: Work) -> list[Reconstruction]:
            outputs = engine.infer(tensors_of(work.events))
            provenance = _provenance(engine, work)
            return answer(work.events, outputs, provenance, engine.model)

        try:
            yield Backend(reconstruct, engine.model.geometry_hash)
        finally:
            engine.close()


def _refuse_other_contract(model: ModelDescription, server: str) -> None:
    if model.contract_version != CONTRACT_VERSION:
        raise PreconditionFailed(
            f"The server at {server} follows contract version {model.contract_version}, this "
            f"program {CONTRACT_VERSION}: install matching versions.",
            server=server,
        )


def _dead_for(model: ModelDescription, dead: DeadList | None) -> Dead:
    """The list for the server; where nobody has one, the marks of the events are all there is."""
    if dead is None and model.dead_lists == "none":
        return NOTHING_DEAD
    return dead


@dataclass(frozen=True, slots=True)
class Remote:
    """A running server, asked through one connection.

    Args:
        server: address, ``host:port``.
        timeout: seconds for each batch, its retries included.
        access: what it takes to be let in.
    """

    server: str
    timeout: float
    access: Access = NO_ACCESS

    def __str__(self) -> str:
        return f"by the server at {self.server}"

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Connect, and wait until the server serves.

        Raises:
            ClientError: the server is not there, or not ready.
            XecError: as `Access.client`.
        """
        with self.access.client(self.server, timeout=self.timeout) as client:
            client.wait_ready(min(self.timeout, READY_SECONDS))
            yield client

    @contextmanager
    def open(self) -> Iterator[Backend]:
        """Connect; where we know no list, the server's own or that of the run counts.

        Raises:
            ClientError: the server is not there, not ready, or speaks another contract.
        """
        with self.client() as client:
            model = client.model()
            _refuse_other_contract(model, self.server)

            def reconstruct(work: Work) -> list[Reconstruction]:
                return client.reconstruct_batch(work.events, _dead_for(model, work.dead))

            yield Backend(reconstruct, model.provenance.geometry_hash)
