"""Broken messages through a raw channel: each call ends in a way that was foreseen.

`make test` sends a few thousand, `make faults` many more.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

import support_sizes as sizes
from support_fuzz import Fuzz
from support_http2 import connected, message
from support_server import DEAD, Events, Running, details, running, still_serves
from support_stream import until
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.calls.guard import Guard

log = logging.getLogger(__name__)
FORESEEN = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}
IN_FLIGHT = 24


@dataclass
class Found:
    """How calls ended, and whether each that was refused said why."""

    messages: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    in_band: Counter[str] = field(default_factory=Counter)
    silent: int = 0
    by_hand: int = 0


async def send(service: Running, method: str, contents: list[bytes], found: Found) -> None:
    found.messages += len(contents)
    streams = method.endswith("Stream")
    kind = service.channel.stream_stream if streams else service.channel.unary_unary
    try:
        if streams:
            await send_stream(kind(method), contents, found)
        else:
            await kind(method)(contents[0], timeout=60)
        found.codes["OK"] += 1
    except grpc.aio.AioRpcError as error:
        if error.details() == "Internal error from Core":
            # The client's own word where a call has ended while it was still sending.
            await send_by_hand(service, method, contents, found)
            return
        found.codes[error.code().name] += 1
        if error.code() == grpc.StatusCode.NOT_FOUND and "Health" in method:
            return  # as its protocol has it, without a reason
        try:
            found.reasons[details(error)["ErrorInfo"].reason] += 1
        except (KeyError, ValueError):
            found.silent += 1


async def send_by_hand(service: Running, method: str, contents: list[bytes], found: Found) -> None:
    """The same call without gRPC's client: what the server itself says."""
    found.by_hand += 1
    async with connected(str(service.server.address)) as connection:
        call = await connection.call(method)
        for content in contents:
            await connection.send(call, message(content), end=content is contents[-1])
        reply = await connection.reply(call)
    names = {str(code.value[0]): code.name for code in grpc.StatusCode}
    found.codes[names[reply.status]] += 1
    found.silent += reply.status != "0" and "grpc-status-details-bin" not in reply.headers


async def send_stream(make: Any, contents: list[bytes], found: Found) -> None:
    async def all_contents() -> Any:
        for content in contents:
            yield content

    async for one in make(all_contents(), timeout=60):
        answer = pb.StreamResponse.FromString(one).answer
        if answer.HasField("error"):
            found.in_band[answer.error.reason] += 1


async def fuzzed(service: Running, fuzz: Fuzz, messages: int) -> Found:
    """Send until so many messages are sent, several calls at a time."""
    found = Found()

    async def caller() -> None:
        while found.messages < messages:
            await send(service, *fuzz.call(), found)

    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    return found


def check(found: Found, messages: int) -> None:
    assert found.messages >= messages
    assert set(found.codes) - {"OK"} <= FORESEEN, found
    assert found.silent == 0, found
    assert found.reasons.keys().isdisjoint({"DEFECT", "ENGINE_FAILED"}), found
    assert found.in_band.keys().isdisjoint({"DEFECT", "ENGINE_FAILED"}), found
    # It has gone to many places, and some messages came through.
    assert found.codes["OK"] > messages / 20
    assert {"UNPARSEABLE_REQUEST", "INVALID_EVENT", "TOO_MANY_EVENTS"} <= found.reasons.keys()
    assert found.in_band["INVALID_EVENT"] > 0


async def nothing_is_left(service: Running, events: Events) -> None:
    await until(lambda: service.server.streams.open == 0)
    assert service.server.batcher.waiting == 0
    assert service.server.streams.held == 0
    assert service.server.calls.in_progress == 0
    await still_serves(service, events)


async def test_each_of_some_thousand_messages(stub_repository: Path, events: Events) -> None:
    async with running(stub_repository, DEAD) as service:
        check(await fuzzed(service, Fuzz(1), 3000), 3000)
        await nothing_is_left(service, events)


async def test_the_control_with_decoding_by_grpc_the_fuzz_fails(
    stub_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unguarded(self: Guard, continuation: Any, call: Any) -> Any:
        return await continuation(call)

    monkeypatch.setattr(Guard, "intercept_service", unguarded)
    async with running(stub_repository, DEAD) as service:
        found = await fuzzed(service, Fuzz(1), 300)
    assert found.codes["INTERNAL"] + found.codes["UNKNOWN"] > 0
    assert found.silent > 0
    with pytest.raises(AssertionError):
        check(found, 300)


@pytest.mark.faults
async def test_each_of_very_many_messages(
    stub_repository: Path, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "xec_server")  # pytest would keep each line, in this process
    warm, messages = sizes.of(5_000, 20_000), sizes.of(20_000, 100_000)
    async with running(stub_repository, DEAD) as service:
        await fuzzed(service, Fuzz(2), warm)
        gc.collect()
        before = psutil.Process().memory_info().rss
        found = await fuzzed(service, Fuzz(3), messages)
        gc.collect()
        growth = (psutil.Process().memory_info().rss - before) / before
        check(found, messages)
        await nothing_is_left(service, events)
        log.info("%s: %+.2f %% of %.0f MB", found, 100 * growth, before / 1e6)
        assert growth < (0.05 if sizes.IS_FULL else 0.15)  # its pools fill first
