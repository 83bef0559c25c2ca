"""Metrics of the conditions: a database that goes away and comes back, lists that are stale."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from support_conditions import NOTE, address_of, writer
from support_server import Events, request
from support_telemetry import WITH_METRICS, Page, scrape
from xec.conditions.cache import ConditionsCache
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Runs, Tag
from xec.conditions.revisions import Change
from xec.conditions.store import ConditionsStore
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.errors import ConditionsUnavailable
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub
from xec_server.app import Server
from xec_server.events.run_lists import RunLists


def conditions(page: Page) -> tuple[float, float]:
    return page.sum("xec_conditions_away"), page.sum("xec_stale_lists_total")


async def test_a_database_that_goes_away_is_seen_and_that_it_is_back(
    stub_repository: Path, tmp_path: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = address_of(tmp_path / "conditions.sqlite")
    with writer(address) as store:
        store.record(Tag.ONLINE, [Change(Runs(100, 199), DeadList.of((17,)))], NOTE)
    store = ConditionsStore(address)
    cache = ConditionsCache(store, Tag.ONLINE, fresh=0.0, retry=0.0)
    engine = OnnxEngine(stub_repository, OnnxSettings(sessions=1))
    server = Server(engine, None, WITH_METRICS, RunLists(store, cache, Tag.ONLINE))
    await server.start()
    message = request(replace(next(iter(events(1))), run=150))

    def away(*arguments: Any) -> Any:
        raise ConditionsUnavailable("The database is away.")

    try:
        async with grpc.aio.insecure_channel(str(server.address)) as channel:
            stub = ReconstructionStub(channel)
            await stub.Reconstruct(message)
            assert conditions(await scrape(server)) == (0, 0)
            began = time.time()
            with monkeypatch.context() as patch:
                patch.setattr(store, "lookup", away)
                for _ in range(3):
                    assert (await stub.Reconstruct(message)).provenance.dead_list_stale_since
                page = await scrape(server)
                assert conditions(page) == (1, 3)
                since = page.sum("xec_conditions_away_since_seconds")
                assert began <= since <= time.time()
                await stub.Reconstruct(message)
                later = (await scrape(server)).sum("xec_conditions_away_since_seconds")
                assert later == since  # when it went, not when it was last missed
            await stub.Reconstruct(message)
            page = await scrape(server)
            assert conditions(page) == (0, 4)
            assert page.sum("xec_conditions_away_since_seconds") == 0
    finally:
        await server.stop()
