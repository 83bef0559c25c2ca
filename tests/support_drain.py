"""Two servers that are restarted in turns, and callers who know both."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from support_operator import METADATA, tokens_file
from support_server import SETTINGS
from support_stream import until
from support_swap import NOTHING
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.wire.v1 import admin_pb2 as pb
from xec.wire.v1.admin_pb2_grpc import AdminStub
from xec_server.address import Address
from xec_server.app import Server

_XEC = [sys.executable, "-c", "from xec.cli import main; main()", "serve", "--sessions", "1"]


class Pair:
    """Two servers in this process, each at an address that stays.

    Args:
        repository: of the model.
        drain_delay: of both.
    """

    def __init__(self, repository: Path, drain_delay: float = 0.0) -> None:
        self._repository = repository
        self._settings = replace(SETTINGS, drain_delay=drain_delay)
        self.servers: list[Server] = []
        self.computed = 0  # by those that are gone

    @property
    def addresses(self) -> str:
        return ",".join(str(server.address) for server in self.servers)

    async def start(self) -> None:
        self.servers = [await self._started(Address(port=0)) for _ in range(2)]

    async def _started(self, address: Address) -> Server:
        engine = OnnxEngine(self._repository, OnnxSettings(sessions=2), version=1)
        server = Server(engine, NOTHING, replace(self._settings, address=address))
        await server.start()
        return server

    async def restart(self, number: int) -> None:
        """Stop one and start it anew; returns once calls come to it again."""
        old = self.servers[number]
        await old.stop()
        self.computed += old.batcher.counts.computed
        self.servers[number] = new = await self._started(old.address)
        await until(lambda: new.batcher.counts.accepted > 0)

    async def stop(self) -> None:
        for server in self.servers:
            await server.stop()
            self.computed += server.batcher.counts.computed


@asynccontextmanager
async def pair(repository: Path, drain_delay: float = 0.0) -> AsyncIterator[Pair]:
    both = Pair(repository, drain_delay)
    await both.start()
    try:
        yield both
    finally:
        await both.stop()


class Process:
    """`xec serve` at an address that stays, with a port for operators.

    Args:
        repository: of the model.
        folder: for its ready file.
        arguments: more of them.
    """

    def __init__(self, repository: Path, folder: Path, *arguments: str) -> None:
        folder.mkdir()
        self._ready = folder / "ready"
        self._tokens = tokens_file(folder)
        self._command = [*_XEC, "--model", str(repository), "--no-dead-list", *arguments]
        self.address, self._admin = "127.0.0.1:0", "127.0.0.1:0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        places = ("--listen", self.address, "--admin", "127.0.0.1:0", "--tokens", str(self._tokens))
        command = [*self._command, *places, "--ready-file", str(self._ready)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._ready.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )

    async def serves(self) -> None:
        await until(self._ready.exists)
        self.address, admin = self._ready.read_text().splitlines()
        self._admin = admin.removeprefix("admin ")

    async def status(self) -> Any:
        async with grpc.aio.insecure_channel(self._admin) as channel:
            return await AdminStub(channel).GetStatus(pb.GetStatusRequest(), metadata=METADATA)

    async def has_callers(self) -> None:
        """Wait until calls come."""
        end = time.monotonic() + 60
        while not (await self.status()).events.accepted:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)

    async def drain(self, how: signal.Signals | None) -> int:
        """By a signal or by the operator's call; the exit status."""
        assert self._process is not None
        if how is None:
            async with grpc.aio.insecure_channel(self._admin) as channel:
                answer = await AdminStub(channel).Drain(pb.DrainRequest(), metadata=METADATA)
                assert answer.cut_off == 0
        else:
            self._process.send_signal(how)
        return await asyncio.to_thread(self._process.wait, 60)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
