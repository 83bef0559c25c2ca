"""Mixed traffic for hours in minutes, and what the server process holds meanwhile.

Every kind of call that a server sees is in it: answered ones of each method, refusals of each
kind, calls that are cancelled or run out of time, streams that end well and badly, connections
that come and go, dead lists that are never the same.
"""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from conftest import random_events
from support_conditions import NOTE, address_of, writer
from support_daq import free_port, xec
from support_server import NOTHING_DEAD, request
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Runs, Tag
from xec.conditions.revisions import Change
from xec.detector.channels import N_CHANNELS
from xec.wire import codec
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub

IN_FLIGHT = 24
KEEPS = """
from xec_server.events.admission import Admission
works, kept = Admission.works, []
def keeping(self, served, messages, *rest):
    kept.extend(messages)
    return works(self, served, messages, *rest)
Admission.works = keeping
"""


@dataclass(frozen=True)
class Held:
    """What a process holds: bytes in memory (all, and its own alone), threads, descriptors."""

    resident: int
    own: int
    threads: int
    descriptors: int

    @classmethod
    def of(cls, process: int) -> Held:
        folder = Path(f"/proc/{process}")
        sizes = Counter[str]()
        for line in (folder / "smaps_rollup").read_text().splitlines()[1:]:
            name, _, rest = line.partition(":")
            sizes[name] = 1024 * int(rest.split()[0])
        return cls(
            sizes["Rss"],
            sizes["Private_Clean"] + sizes["Private_Dirty"],
            len(list((folder / "task").iterdir())),
            len(list((folder / "fd").iterdir())),
        )

    def __str__(self) -> str:
        memory = f"resident {self.resident / 1e6:.1f} MB, own {self.own / 1e6:.1f} MB"
        return f"{memory}, {self.threads} threads, {self.descriptors} descriptors"


class Traffic:
    """Calls of all kinds against one server; `tally` says how they ended."""

    def __init__(self, address: str, seed: int) -> None:
        self.tally: Counter[str] = Counter()
        self._address = address
        self._random = Random(seed)
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = ReconstructionStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._raw = self._channel.unary_unary("/xec.v1.Reconstruction/Reconstruct")
        self._events = list(random_events(8, seed=seed))
        self._kinds: list[tuple[Callable[[], Awaitable[Any]], int]] = [
            (self._single, 32),
            (self._another_list, 6),
            (self._another_run, 8),
            (self._batch, 2),
            (self._model, 27),
            (self._refused, 9),
            (self._cancelled, 4),
            (self._too_late, 4),
            (self._stream, 2),
            (self._broken_stream, 2),
            (self._connection, 2),
            (self._watch, 2),
        ]

    async def run(self, calls: int) -> None:
        """So many calls, a few at a time."""
        left = iter(range(calls))
        await asyncio.gather(*(self._caller(left) for _ in range(IN_FLIGHT)))

    async def warm(self, calls: int) -> None:
        """The same, after all that is held in pools was needed at once."""
        await asyncio.gather(*(self._another_run() for _ in range(64)), return_exceptions=True)
        await self.run(calls)

    async def close(self) -> None:
        await self._channel.close()

    async def _caller(self, left: Any) -> None:
        kinds, weights = zip(*self._kinds, strict=True)
        for _ in left:
            (kind,) = self._random.choices(kinds, weights)
            name = kind.__name__.strip("_")
            try:
                await kind()
            except grpc.aio.AioRpcError as error:
                self.tally[f"{name} {error.code().name}"] += 1
            except asyncio.CancelledError:
                self.tally[f"{name} CANCELLED"] += 1
            else:
                self.tally[f"{name} OK"] += 1

    def _event(self) -> Any:
        return self._random.choice(self._events)

    async def _single(self) -> None:
        await self._stub.Reconstruct(request(self._event(), dead_list=NOTHING_DEAD))

    async def _another_list(self) -> None:
        mask = np.zeros(N_CHANNELS, dtype=bool)
        mask[self._random.sample(range(N_CHANNELS), 50)] = True
        await self._stub.Reconstruct(
            request(self._event(), dead_list=codec.dead_list_of_channels(mask))
        )

    async def _another_run(self) -> None:
        event = replace(self._event(), run=self._random.randrange(3000))
        await self._stub.Reconstruct(request(event))

    async def _batch(self) -> None:
        events = [codec.event_to_proto(event) for event in self._events]
        await self._stub.ReconstructBatch(
            pb.ReconstructBatchRequest(events=events, dead_list=NOTHING_DEAD)
        )

    async def _model(self) -> None:
        await self._stub.GetModel(pb.GetModelRequest())

    async def _refused(self) -> None:
        message = request(self._event(), dead_list=NOTHING_DEAD)
        match self._random.randrange(5):
            case 0:
                message.event.npho = message.event.npho[:-4]
            case 1:
                message.model_version = "another"
            case 2:
                message.dead_list.list_id = f"sha256:{self._random.getrandbits(64):016x}"
            case 3:
                message.dead_list.channels.id.append(N_CHANNELS + 1)
            case _:
                await self._raw(b"\xff" * 64)
        await self._stub.Reconstruct(message)

    async def _cancelled(self) -> None:
        call = self._stub.Reconstruct(request(self._event(), dead_list=NOTHING_DEAD))
        await asyncio.sleep(self._random.random() * 0.02)
        call.cancel()
        await call

    async def _too_late(self) -> None:
        message = request(self._event(), dead_list=NOTHING_DEAD)
        await self._stub.Reconstruct(message, timeout=self._random.random() * 0.02)

    async def _opened(self) -> Any:
        call = self._stub.ReconstructStream()
        await call.write(pb.StreamRequest(open=pb.StreamOpen(dead_list=NOTHING_DEAD)))
        await call.read()
        return call

    async def _stream(self) -> None:
        call = await self._opened()
        for number, event in enumerate(self._events):
            message = pb.StreamEvent(id=number, event=codec.event_to_proto(event))
            await call.write(pb.StreamRequest(event=message))
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            self.tally["answers of streams"] += 1

    async def _broken_stream(self) -> None:
        call = await self._opened()
        message = pb.StreamEvent(id=1, event=codec.event_to_proto(self._event()))
        await call.write(pb.StreamRequest(event=message))
        if self._random.random() < 0.5:
            call.cancel()
        else:
            await call.write(pb.StreamRequest(open=pb.StreamOpen()))
        while await call.read() is not grpc.aio.EOF:
            pass

    async def _connection(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._address, options) as channel:
            await ReconstructionStub(channel).GetModel(pb.GetModelRequest())

    async def _watch(self) -> None:
        asked = health_pb2.HealthCheckRequest()
        await self._health.Check(asked)
        watch = self._health.Watch(asked)
        await watch.read()
        watch.cancel()


def conditions(folder: Path) -> Path:
    """A database that knows half of the runs that `Traffic` asks for."""
    file = folder / "conditions.sqlite"
    with writer(address_of(file)) as store:
        lists = [DeadList.of((number, number + 1)) for number in range(15)]
        changes = [Change(Runs(100 * n, 100 * n + 99), dead) for n, dead in enumerate(lists)]
        store.record(Tag.ONLINE, changes, NOTE)
    return file


@asynccontextmanager
async def server(
    repository: Path, folder: Path, first: str = ""
) -> AsyncIterator[tuple[str, subprocess.Popen[str], deque[str]]]:
    """`xec serve`: its address, its process, and the last lines of its log."""
    address = f"127.0.0.1:{free_port()}"
    options = ("--conditions", conditions(folder), "--tag", "online", "--listen", address)
    process = xec("serve", "--model", repository, *options, first=first)
    lines: deque[str] = deque(maxlen=200)
    assert process.stderr is not None
    reader = threading.Thread(target=lines.extend, args=(process.stderr,))
    reader.start()
    try:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        assert address in line, list(lines)
        yield address, process, lines
    finally:
        process.terminate()
        process.wait(60)
        reader.join()
        process.stdout.close()
        process.stderr.close()


async def at_rest(process: int) -> Held:
    """What it holds once connections that were closed are gone."""
    last, same = Held.of(process), 0
    while same < 5:
        await asyncio.sleep(0.1)
        now = Held.of(process)
        same = same + 1 if now.descriptors == last.descriptors else 0
        last = now
    return last
