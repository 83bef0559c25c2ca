"""Dead lists as the server takes them: its own, named, sent along, or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from support_server import (
    DEAD,
    NOTHING_DEAD,
    Code,
    Events,
    Running,
    refusal,
    request,
    running,
    still_serves,
    violated,
)
from xec.conditions.dead_list import DeadList
from xec.detector.channels import N_CHANNELS
from xec.wire import codec
from xec.wire.v1 import reconstruction_pb2 as pb


async def test_a_list_has_the_same_id_whichever_way_it_comes(
    service: Running, events: Events
) -> None:
    event = next(iter(events(1)))
    ways = [
        None,
        pb.DeadList(resolve=pb.DeadList.Resolve()),
        pb.DeadList(list_id=DEAD.list_id),
        codec.dead_list_of_channels(DEAD.mask),
    ]
    answers = [await service.stub.Reconstruct(request(event, dead_list=way)) for way in ways]
    for answer in answers:
        assert answer.provenance == answers[0].provenance
        assert answer.recovered == answers[0].recovered
    other = await service.stub.Reconstruct(request(event, dead_list=NOTHING_DEAD))
    assert other.provenance.dead_list_id not in ("", DEAD.list_id)
    assert other.recovered != answers[0].recovered


async def test_without_a_list_nothing_is_assumed_alive(
    stub_repository: Path, events: Events
) -> None:
    event = next(iter(events(1)))
    async with running(stub_repository, own=None) as service:
        text, _ = await refusal(
            service.stub.Reconstruct(request(event)), Code.FAILED_PRECONDITION, "NO_DEAD_LIST"
        )
        assert "--dead-list" in text
        await service.stub.Reconstruct(request(event, dead_list=NOTHING_DEAD))
        model = await service.stub.GetModel(pb.GetModelRequest())
        assert model.provenance.dead_list_id == ""


async def test_an_unknown_list_is_not_found(service: Running, events: Events) -> None:
    unknown = pb.DeadList(list_id="run-7")
    call = service.stub.Reconstruct(request(next(iter(events(1))), dead_list=unknown))
    text, _ = await refusal(call, Code.NOT_FOUND, "UNKNOWN_DEAD_LIST")
    assert "'run-7'" in text


async def test_unknown_channels_are_listed(service: Running, events: Events) -> None:
    channels = pb.DeadList.Channels(id=[1, 4760, 2, 2**32 - 1])
    call = service.stub.Reconstruct(
        request(next(iter(events(1))), dead_list=pb.DeadList(channels=channels))
    )
    _, found = await refusal(call, Code.INVALID_ARGUMENT, "INVALID_DEAD_LIST")
    assert violated(found) == ["channels.id[1]", "channels.id[3]"]
    await still_serves(service, events)


async def test_more_ids_than_sensors_are_refused(service: Running, events: Events) -> None:
    channels = pb.DeadList.Channels(id=[1] * (N_CHANNELS + 1))
    call = service.stub.Reconstruct(
        request(next(iter(events(1))), dead_list=pb.DeadList(channels=channels))
    )
    _, found = await refusal(call, Code.INVALID_ARGUMENT, "INVALID_DEAD_LIST")
    assert violated(found) == ["channels.id"]


async def test_everything_dead_is_a_failed_precondition(
    service: Running, events: Events, stub_repository: Path
) -> None:
    everything = codec.dead_list_of_channels(np.ones(N_CHANNELS, dtype=bool))
    event = next(iter(events(1)))
    await refusal(
        service.stub.Reconstruct(request(event, dead_list=everything)),
        Code.FAILED_PRECONDITION,
        "ALL_SENSORS_DEAD",
    )
    async with running(stub_repository, own=DeadList.of(range(N_CHANNELS))) as other:
        await refusal(
            other.stub.Reconstruct(request(event)), Code.FAILED_PRECONDITION, "ALL_SENSORS_DEAD"
        )
