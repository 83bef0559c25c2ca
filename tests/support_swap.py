"""Two models with different answers in one repository, and callers who know what each must say."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from conftest import build_stub_model, random_events, stub_answers, write_model
from support_server import SETTINGS
from xec.conditions.dead_list import DeadList
from xec.contract import MODEL_NAME
from xec.engines.base import Engine, tensors_of
from xec.engines.golden import GOLDEN_FILE, Golden, golden_bytes
from xec.engines.onnx import OnnxSettings
from xec.event import EventBatch, Reconstruction
from xec.lineage import sha256_of_bytes
from xec_client import AsyncClient, RetryPolicy
from xec_client.errors import ClientError
from xec_server.app import Server
from xec_server.model.engines import EngineChoice
from xec_server.settings import ServerSettings

NOTHING = DeadList.of(())
FACTORS = {"stub-1": 1.0, "stub-2": 2.0}
"""By version: what multiplies energies and light centres."""

NO_RETRY = RetryPolicy(attempts=1)


def other_model(factor: float, ballast: int = 0, **metadata: str) -> Any:
    """The stub with energies and light centres multiplied, and so many MiB that only weigh."""
    from onnx import helper, numpy_helper

    model = build_stub_model(metadata)
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.float32([[factor]]), "factor"))
    for name in ("energy", "uvw"):
        (node,) = (node for node in graph.node if name in node.output)
        node.output[0] = f"{name}_alone"
        for reader in graph.node:
            reader.input[:] = [f"{name}_alone" if one == name else one for one in reader.input]
        graph.node.append(helper.make_node("Mul", [f"{name}_alone", "factor"], [name]))
    if ballast:
        # Read at a row that depends on an input, so that nothing folds it away.
        weights = np.random.default_rng(0).random((ballast * 4096, 64), dtype=np.float32)
        for name, value in (("ballast", weights), ("nothing", np.float32([[0]]))):
            graph.initializer.append(numpy_helper.from_array(value, name))
        (node,) = (node for node in graph.node if "gamma_time" in node.output)
        node.output[0] = "time_alone"
        add = helper.make_node
        graph.node.append(add("Mul", ["time_alone", "nothing"], ["none"]))
        graph.node.append(add("Cast", ["none"], ["row"], to=7))
        graph.node.append(add("Gather", ["ballast", "row"], ["rows"], axis=0))
        graph.node.append(add("ReduceMin", ["rows"], ["least"], keepdims=0))
        graph.node.append(add("Mul", ["least", "nothing"], ["no_weight"]))
        graph.node.append(add("Add", ["time_alone", "no_weight"], ["gamma_time"]))
    return model


def answers_of(version: str, batch: EventBatch) -> dict[str, np.ndarray]:
    """What the model of a version must answer, by NumPy."""
    expected = stub_answers(tensors_of(batch))
    for name in ("energy", "uvw"):
        expected[name] = expected[name] * FACTORS[version]
    return expected


def vouch(path: Path, content: bytes) -> None:
    """Write a file of a version, and its digest into the manifest."""
    path.write_bytes(content)
    manifest = path.parent / "manifest.json"
    promised = json.loads(manifest.read_text())
    promised["files"][path.name] = {"sha256": sha256_of_bytes(content), "bytes": len(content)}
    manifest.write_text(json.dumps(promised))


def add_version(repository: Path, version: int, model: Any, golden_of: str | None = None) -> Path:
    """One more version, with golden events that a version of `FACTORS` answers; its folder."""
    folder = write_model(model, repository, version).parent
    if golden_of is not None:
        batch = random_events(2, seed=41)
        outputs = {k: v.astype(np.float32) for k, v in answers_of(golden_of, batch).items()}
        vouch(folder / GOLDEN_FILE, golden_bytes(Golden(tensors_of(batch), outputs)))
    return folder


def two_models(repository: Path, ballast: int = 0) -> Path:
    """Versions 1 and 2 are stub-1 and stub-2."""
    for version, (name, factor) in enumerate(FACTORS.items(), start=1):
        model = other_model(factor, ballast, model_version=name)
        add_version(repository, version, model, name)
    assert (repository / MODEL_NAME / "2").is_dir()
    return repository


@asynccontextmanager
async def swapping(
    repository: Path,
    settings: ServerSettings = SETTINGS,
    reopen: Callable[[int | None], Engine] | None = None,
) -> AsyncIterator[Server]:
    """A server on version 1 that can take the others."""
    open_version = reopen or EngineChoice(repository, onnx=OnnxSettings(sessions=2)).open
    server = Server(open_version(1), NOTHING, settings, reopen=open_version)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@dataclass
class Verdict:
    """What became of the calls of a load."""

    right: Counter[str] = field(default_factory=Counter)  # by version
    wrong: list[str] = field(default_factory=list)
    mixed: int = 0  # batches of two models
    failed: list[str] = field(default_factory=list)
    streams_of_both: int = 0

    @property
    def is_clean(self) -> bool:
        return not (self.wrong or self.mixed or self.failed)


class SwapLoad:
    """Callers of all three kinds, who compare each answer with the model that it names."""

    def __init__(
        self, address: str, unary: int = 4, retry: RetryPolicy = NO_RETRY, streams: int = 1
    ) -> None:
        self.verdict = Verdict()
        self._address, self._retry = address, retry
        batch = random_events(24, seed=6)
        self._events = list(batch)
        self._expected = {version: answers_of(version, batch) for version in FACTORS}
        self._ended = False
        loops = [self._single] * unary + [self._many] + [self._stream] * streams
        self._tasks = [asyncio.ensure_future(loop(n)) for n, loop in enumerate(loops)]

    async def end(self) -> Verdict:
        self._ended = True
        await asyncio.gather(*self._tasks)
        return self.verdict

    def _judge(self, row: int, answer: Reconstruction) -> str:
        version = answer.provenance.model_version
        expected = self._expected[version]
        good = answer.event == row and all(
            np.allclose(getattr(answer, name).mean, expected[name][row], rtol=1e-4, atol=1e-4)
            for name in ("energy", "uvw", "angle", "gamma_time")
        )
        if good:
            self.verdict.right[version] += 1
        else:
            self.verdict.wrong.append(f"event {answer.event} for {row} by {version}")
        return version

    async def _repeat(self, call: Callable[[AsyncClient], Any]) -> None:
        async with AsyncClient(self._address, timeout=30, retry=self._retry) as client:
            while not self._ended:
                try:
                    await call(client)
                except ClientError as error:
                    self.verdict.failed.append(str(error))

    async def _single(self, number: int) -> None:
        rows = self._rows(number)

        async def call(client: AsyncClient) -> None:
            row = next(rows)
            self._judge(row, await client.reconstruct(self._events[row], NOTHING))

        await self._repeat(call)

    async def _many(self, _: int) -> None:
        async def call(client: AsyncClient) -> None:
            answers = await client.reconstruct_batch(self._events, NOTHING)
            versions = {self._judge(row, answer) for row, answer in enumerate(answers)}
            self.verdict.mixed += len(versions) > 1

        await self._repeat(call)

    async def _stream(self, number: int) -> None:
        """One stream as long as the load; another one only if it broke."""

        async def call(client: AsyncClient) -> None:
            versions, places = set(), []
            async for streamed in client.stream(self._until_the_end(), NOTHING, window=8):
                versions.add(self._judge(streamed.event, streamed.result()))
                places.append(streamed.place)
            self.verdict.streams_of_both += len(versions) > 1
            if sorted(places) != list(range(len(places))):
                self.verdict.wrong.append("a stream with gaps or doubles")

        await self._repeat(call)

    def _rows(self, first: int) -> Iterator[int]:
        row = first
        while True:
            row = (row + 1) % len(self._events)
            yield row

    async def _until_the_end(self) -> AsyncIterator[Any]:
        for row in self._rows(0):
            if self._ended:
                return
            yield self._events[row]


async def said(call: Any) -> grpc.aio.AioRpcError | None:
    """The status of a call that may fail."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    return None
