"""A server that fails on purpose, the real server in a thread, and both clients as one function."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from xec.conditions.dead_list import DeadList
from xec.contract import CONTRACT_VERSION, GAMMA_ESTIMATES
from xec.wire.limits import MAX_REQUEST_BYTES
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1 import reconstruction_pb2_grpc as pb_grpc
from xec_client import AsyncClient, Client
from xec_client.settings import SERVICE

Code = grpc.StatusCode


def packed(message: Any) -> AnyMessage:
    content = AnyMessage()
    content.Pack(message)
    return content


def retry_info(seconds: float) -> Any:
    delay = Duration()
    delay.FromMilliseconds(round(1000 * seconds))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def rich(code: grpc.StatusCode, text: str, *details: Any) -> grpc.Status:
    """A status with details, as a server sends it."""
    status = status_pb2.Status(code=code.value[0], message=text)
    status.details.extend(packed(detail) for detail in details)
    return rpc_status.to_status(status)


class FakeRpcError(grpc.RpcError):
    """What a channel raises, without a channel."""

    def __init__(self, status: grpc.Status) -> None:
        self._status = status

    def code(self) -> grpc.StatusCode:
        return self._status.code

    def details(self) -> str:
        return self._status.details

    def trailing_metadata(self) -> Any:
        return self._status.trailing_metadata


def failing(code: grpc.StatusCode, text: str = "on purpose", *details: Any) -> FakeRpcError:
    return FakeRpcError(rich(code, text, *details))


def answer_to(event: pb.Event) -> pb.ReconstructResponse:
    """An answer that tells its event: the energy is the sum of the event's counts."""
    total = float(np.frombuffer(event.npho, dtype="<f4").sum(dtype=np.float64))
    response = pb.ReconstructResponse(run=event.run, event=event.event)
    for estimate in GAMMA_ESTIMATES:
        message = getattr(response, estimate.name)
        for name in ("mean", "sigma", "low", "high"):
            getattr(message, name).extend([total] * estimate.width)
    return response


class FaultyServicer(pb_grpc.ReconstructionServicer):
    """Answers, except where its script says how to fail; keeps what it was asked.

    `script[n]` belongs to call n: None answers, a status ends the call with it, a callable gives
    the response in place of the right one.
    """

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.requests: list[Any] = []
        self.remaining: list[float] = []
        self.lock = threading.Lock()

    def _handle(self, request: Any, context: Any, answer: Callable[[Any], Any]) -> Any:
        with self.lock:
            number = len(self.requests)
            self.requests.append(request)
            self.remaining.append(context.time_remaining())
            outcome = self.script[number] if number < len(self.script) else None
        if outcome is None:
            return answer(request)
        if callable(outcome):
            return outcome(request)
        return context.abort_with_status(outcome)

    def Reconstruct(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._handle(request, context, lambda one: answer_to(one.event))

    def ReconstructBatch(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._handle(
            request,
            context,
            lambda many: pb.ReconstructBatchResponse(responses=map(answer_to, many.events)),
        )

    def GetModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._handle(
            request,
            context,
            lambda _: pb.GetModelResponse(
                contract_version=CONTRACT_VERSION, provenance=pb.Provenance(model_name="fake")
            ),
        )


@contextmanager
def serving(
    servicer: FaultyServicer,
    address: str = "127.0.0.1:0",
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[str]:
    """The address of a server that runs `servicer`, healthy from the start."""
    options = (("grpc.max_receive_message_length", MAX_REQUEST_BYTES), ("grpc.so_reuseport", 0))
    server = grpc.server(ThreadPoolExecutor(8), options=options)
    pb_grpc.add_ReconstructionServicer_to_server(servicer, server)
    checks = health.HealthServicer()
    checks.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def real_server(
    repository: Path, own: DeadList | None = None, identity: Any = None
) -> Iterator[str]:
    """The address of `xec_server` on a model, in a thread of its own."""
    from xec.engines.onnx import OnnxEngine, OnnxSettings
    from xec_server.address import Address
    from xec_server.app import Server
    from xec_server.settings import ServerSettings

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def finish(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    async def started() -> Server:
        engine = OnnxEngine(repository, OnnxSettings(sessions=2))
        known = {} if identity is None else {"identity": identity}
        server = Server(engine, own, ServerSettings(Address("127.0.0.1", 0), **known))
        await server.start()
        return server

    try:
        server = finish(started())
        try:
            yield str(server.address)
        finally:
            finish(server.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


Ask = Callable[..., Any]


def ask_blocking(server: str, method: str, *arguments: Any, **settings: Any) -> Any:
    """One call of the blocking client."""
    options = settings.pop("call", {})
    with Client(server, **settings) as client:
        return getattr(client, method)(*arguments, **options)


def ask_awaiting(server: str, method: str, *arguments: Any, **settings: Any) -> Any:
    """The same call of the client for asyncio."""
    options = settings.pop("call", {})

    async def ask() -> Any:
        async with AsyncClient(server, **settings) as client:
            return await getattr(client, method)(*arguments, **options)

    return asyncio.run(ask())
