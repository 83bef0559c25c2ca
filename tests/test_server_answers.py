"""A real server with a real engine over a real socket: right answers, with their provenance."""

from __future__ import annotations

from typing import Any

import numpy as np

from support_server import DEAD, NOTHING_DEAD, Code, Events, Running, refusal, request
from xec.answer import answer
from xec.conditions.dead_list import DeadList
from xec.engines.base import provenance_of, tensors_of
from xec.event import EventBatch
from xec.wire import codec
from xec.wire.v1 import reconstruction_pb2 as pb


def same(wire: pb.ReconstructResponse, local: Any) -> None:
    """The answer of the server equals the one computed here, bit for bit."""
    remote = codec.reconstruction_from_proto(wire)
    for name in ("run", "event", "flags", "provenance"):
        assert getattr(remote, name) == getattr(local, name), name
    for group in ("energy", "gamma_time", "uvw", "angle", "recovered"):
        mine, theirs = getattr(local, group), getattr(remote, group)
        for name in mine.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(theirs, name), getattr(mine, name))


def local_answers(service: Running, batch: EventBatch, dead: DeadList) -> list[Any]:
    model = service.engine.model
    where = provenance_of(model, dead.list_id)
    batch = batch.with_dead(dead.mask)
    rows = [batch[row : row + 1] for row in range(len(batch))]
    return [
        answer(row, service.engine.inner.infer(tensors_of(row)), where, model)[0] for row in rows
    ]


async def test_the_answer_is_the_engines(service: Running, events: Events) -> None:
    batch = events(3)
    for event, expected in zip(batch, local_answers(service, batch, DEAD), strict=True):
        answer = await service.stub.Reconstruct(request(event))
        same(answer, expected)
        assert set(DEAD.channels) <= set(answer.recovered.channel)
        assert answer.timings.batch_size == 1
        assert answer.timings.compute_seconds > 0


async def test_the_answer_follows_from_the_event(
    service: Running, events: Events, answers: Any
) -> None:
    """Against NumPy, so that server and engine cannot agree on something wrong."""
    batch = events(1)
    answer = await service.stub.Reconstruct(request(next(iter(batch)), dead_list=NOTHING_DEAD))
    expected = answers(batch)
    dead = np.flatnonzero(~batch.npho_valid[0])
    np.testing.assert_array_equal(answer.recovered.channel, dead)
    np.testing.assert_allclose(answer.recovered.npho, expected["npho_mean"][0, dead], rtol=1e-4)
    np.testing.assert_allclose(answer.uvw.mean, expected["uvw"][0], rtol=1e-3, atol=1e-4)
    half = 1.5 * expected["energy_sigma"][0]
    np.testing.assert_allclose(answer.energy.high, expected["energy"][0] + half, rtol=1e-4)
    np.testing.assert_allclose(answer.energy.low, expected["energy"][0] - half, rtol=1e-4)


async def test_a_full_batch_is_answered_in_order(service: Running, events: Events) -> None:
    batch = events(256)
    messages = [codec.event_to_proto(event) for event in batch]
    answer = await service.stub.ReconstructBatch(pb.ReconstructBatchRequest(events=messages))
    assert [one.event for one in answer.responses] == batch.event.tolist()
    expected = local_answers(service, batch, DEAD)
    for one, local in zip(answer.responses, expected, strict=True):
        np.testing.assert_allclose(one.energy.mean, local.energy.mean, rtol=1e-5)
    assert len({one.energy.mean[0] for one in answer.responses}) == 256
    assert max(one.timings.batch_size for one in answer.responses) == 4


async def test_concurrent_calls_get_their_own_answers(
    service: Running, events: Events, answers: Any
) -> None:
    batch = events(120)
    calls = [service.stub.Reconstruct(request(e, dead_list=NOTHING_DEAD)) for e in batch]
    got = [await call for call in calls]
    assert [one.event for one in got] == batch.event.tolist()
    expected = answers(batch)["energy"][:, 0]
    np.testing.assert_allclose([one.energy.mean[0] for one in got], expected, rtol=1e-4)


async def test_an_empty_batch_has_an_empty_answer(service: Running) -> None:
    answer = await service.stub.ReconstructBatch(pb.ReconstructBatchRequest())
    assert list(answer.responses) == []


async def test_the_model_introduces_itself(service: Running) -> None:
    answer = await service.stub.GetModel(pb.GetModelRequest())
    assert answer.provenance.model_sha256 == service.engine.model.sha256
    assert answer.provenance.dead_list_id == DEAD.list_id
    assert (answer.contract_version, answer.dead_channels) == ("1", 4)
    assert answer.metadata["preset"] == "stub"


async def test_the_served_version_may_be_named(service: Running, events: Events) -> None:
    event = next(iter(events(1)))
    answer = await service.stub.Reconstruct(request(event, model_version="stub-1"))
    assert answer.provenance.model_version == "stub-1"
    text, _ = await refusal(
        service.stub.Reconstruct(request(event, model_version="stub-2")),
        Code.NOT_FOUND,
        "UNKNOWN_MODEL_VERSION",
    )
    assert "'stub-2' is not served; 'stub-1' is" in text
