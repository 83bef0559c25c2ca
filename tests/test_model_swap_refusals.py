"""A model that cannot be taken: the old one goes on, and one sentence says why."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from support_server import NOTHING_DEAD, request
from support_stream import until
from support_swap import add_version, answers_of, other_model, swapping, two_models
from xec.contract import MODEL_NAME
from xec.engines.base import Engine
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.wire.limits import MAX_RESPONSE_BYTES
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub
from xec_server.app import Server
from xec_server.calls.refusal import Reason, Refusal

OPTIONS = [("grpc.max_receive_message_length", MAX_RESPONSE_BYTES)]


def altered(repository: Path) -> None:
    path = add_version(repository, 3, other_model(3.0, model_version="stub-3")) / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def half_copied(repository: Path) -> None:
    (repository / MODEL_NAME / "3").mkdir()


def golden_off(repository: Path) -> None:
    add_version(repository, 3, other_model(3.0, model_version="stub-3"), golden_of="stub-2")


def of_another_geometry(repository: Path) -> None:
    model = other_model(3.0, model_version="stub-3", geometry_hash="8" * 64)
    add_version(repository, 3, model)


def of_another_contract(repository: Path) -> None:
    model = other_model(3.0, model_version="stub-3", contract_version="99")
    add_version(repository, 3, model)


def no_model(repository: Path) -> None:
    folder = add_version(repository, 3, b"no model at all")
    assert json.loads((folder / "manifest.json").read_text())


CASES: list[tuple[Callable[[Path], object], str]] = [
    (half_copied, "manifest.json cannot be read"),
    (altered, "is corrupted or was changed"),
    (golden_off, "answers the model's golden events wrongly"),
    (of_another_geometry, "was made for geometry 888888888888"),
    (of_another_contract, "follows contract version 99"),
    (no_model, "is refused"),
]


async def still_answers(server: Server, events: Any, version: str) -> None:
    (event,) = batch = events(1, seed=3)
    async with grpc.aio.insecure_channel(str(server.address), OPTIONS) as channel:
        call = ReconstructionStub(channel).Reconstruct(request(event, dead_list=NOTHING_DEAD))
        answer = await call
    assert answer.provenance.model_version == version
    expected = answers_of(version, batch)["energy"][0]
    np.testing.assert_allclose(answer.energy.mean, expected, rtol=1e-4)


async def refused(server: Server, words: str, version: int | None = None) -> None:
    with pytest.raises(Refusal, match=words) as caught:
        await server.models.swap(version)
    assert caught.value.reason is Reason.RELOAD_REFUSED
    assert caught.value.status().code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert "'stub-1' goes on answering" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(("damage", "words"), CASES, ids=[case[0].__name__ for case in CASES])
async def test_the_old_model_goes_on(
    damage: Callable[[Path], object],
    words: str,
    tmp_path: Path,
    events: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with swapping(two_models(tmp_path)) as server:
        damage(tmp_path)
        await refused(server, words)  # the highest version
        assert words in caplog.text
        await still_answers(server, events, "stub-1")
        await until(lambda: server.models.in_use == 1)
        await server.models.swap(2)  # a sound one is taken all the same
        await still_answers(server, events, "stub-2")


async def test_a_version_that_is_not_there(tmp_path: Path, events: Any) -> None:
    async with swapping(two_models(tmp_path)) as server:
        await refused(server, "has no version 7; there is 1, 2", 7)
        await still_answers(server, events, "stub-1")


async def test_a_model_that_does_not_fit_into_memory(tmp_path: Path, events: Any) -> None:
    def reopen(version: int | None) -> Engine:
        if version == 1:
            return OnnxEngine(tmp_path, OnnxSettings(sessions=1), version=1)
        raise MemoryError

    async with swapping(two_models(tmp_path), reopen=reopen) as server:
        await refused(server, "not enough memory for a second model")
        await still_answers(server, events, "stub-1")


async def test_a_server_without_a_repository(stub_repository: Path, events: Any) -> None:
    from support_server import running

    async with running(stub_repository) as service:
        await refused(service.server, "not started from a model repository")


async def test_a_defect_changes_nothing_either(tmp_path: Path, events: Any) -> None:
    def reopen(version: int | None) -> Engine:
        if version == 1:
            return OnnxEngine(tmp_path, OnnxSettings(sessions=1), version=1)
        raise RuntimeError("a defect")

    async with swapping(two_models(tmp_path), reopen=reopen) as server:
        with pytest.raises(RuntimeError, match="a defect"):
            await server.models.swap()
        await still_answers(server, events, "stub-1")
