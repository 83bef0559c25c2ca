"""Floods of frames, and messages that grow when they are unpacked: little memory, others go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from support_bad_clients import HEADERS, MEMORY, bounded, without
from support_http2 import PREFACE, connected, frame, message, zeros_in_gzip
from support_server import Events
from support_server_process import Served, serving

log = logging.getLogger(__name__)


async def flood(address: str, blocks: Callable[[int], bytes], count: int, reads: bool) -> int:
    """Write blocks until all are sent or the server has had enough; how many were sent."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    async def read() -> None:
        with suppress(OSError):
            while await reader.read(1 << 16):
                pass

    reading = asyncio.create_task(read()) if reads else None
    sent = 0
    try:
        writer.write(PREFACE + frame(4, 0, 0))
        with suppress(OSError, TimeoutError):
            for sent in range(count):
                writer.write(blocks(sent))
                await asyncio.wait_for(writer.drain(), 2)
                await asyncio.sleep(0)
        await asyncio.sleep(0.2)
    finally:
        writer.transport.abort()
        if reading is not None:
            reading.cancel()
            await asyncio.wait([reading])
    return sent


def pings(number: int) -> bytes:
    return frame(6, 0, 0, bytes(8)) * 500


def settings(number: int) -> bytes:
    return frame(4, 0, 0) * 500


def resets(number: int) -> bytes:
    first = 1 + 2 * 100 * number
    streams = range(first, first + 200, 2)
    cancel = (8).to_bytes(4, "big")
    return b"".join(frame(1, 4, s, HEADERS) + frame(3, 0, s, cancel) for s in streams)


def continuations(number: int) -> bytes:
    """Of headers that never end."""
    more = b"\x00\x01a\x7f\x00" + b"b" * 127
    begin = frame(1, 0, 1, HEADERS) if number == 0 else b""
    return begin + frame(9, 0, 1, more) * 500


def empty_data(number: int) -> bytes:
    begin = frame(1, 4, 1, HEADERS) if number == 0 else b""
    return begin + frame(0, 0, 1) * 500


FLOODS = [pings, settings, resets, continuations, empty_data]


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("blocks", FLOODS)
async def test_floods(server_process: Served, events: Events, blocks: Any, reads: bool) -> None:
    async with bounded(server_process, events) as others:
        sent = await others.during(flood(server_process.address, blocks, 100, reads))
    assert sent > 50  # so much was taken


@pytest.mark.faults
@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("blocks", FLOODS)
async def test_long_floods(
    server_process: Served, events: Events, blocks: Any, reads: bool
) -> None:
    before = server_process.resident
    async with bounded(server_process, events) as others:
        sent = await others.during(flood(server_process.address, blocks, 1000, reads))
        assert sent > 500  # so much was taken
        growth = server_process.most_resident - before
        longest = max(others.seconds)
        log.info("%s: +%.0f MB, longest other call %.3f s", blocks.__name__, growth, longest)


@pytest.mark.faults
async def test_the_control_with_strikes_pings_take_memory(
    stub_repository: Path, tmp_path: Path, events: Events
) -> None:
    code = without("grpc.http2.max_ping_strikes")
    with serving(stub_repository, tmp_path, code=code) as served:
        before = served.resident
        for attempt in range(6):  # it needs an answer that is under way: not each flood finds one
            await flood(served.address, pings, 1000, reads=attempt % 2 == 0)
            if served.most_resident - before > MEMORY:
                return
        raise AssertionError(served.most_resident - before)


async def bomb(served: Served, megabytes: int) -> str:
    content = message(zeros_in_gzip(megabytes << 20), compressed=True)
    async with connected(served.address) as connection:
        call = await connection.call("Reconstruct", ("grpc-encoding", "gzip"))
        await connection.send(call, content, end=True)
        return (await connection.reply(call, 60)).headers["grpc-message"]


@pytest.mark.parametrize("megabytes", [64, pytest.param(1024, marks=pytest.mark.faults)])
async def test_compressed_zeros(server_process: Served, events: Events, megabytes: int) -> None:
    """A gigabyte fits into a megabyte."""
    async with bounded(server_process, events, memory=megabytes / 2) as others:
        assert "disabled" in await others.during(bomb(server_process, megabytes))


@pytest.mark.faults
async def test_the_control_with_compression_it_is_unpacked(
    stub_repository: Path, tmp_path: Path
) -> None:
    code = without("grpc.compression_enabled_algorithms_bitset")
    with serving(stub_repository, tmp_path, code=code) as served:
        before = served.resident
        await bomb(served, 300)
        assert served.most_resident - before > MEMORY
