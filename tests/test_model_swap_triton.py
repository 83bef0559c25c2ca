"""A reload in front of Triton: the gateway follows once Triton serves the new version."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from support_gateway import config_text, real_triton
from support_server import NOTHING_DEAD, SETTINGS, request
from support_stream import until
from support_swap import NOTHING, add_version, answers_of, other_model
from xec.contract import MODEL_NAME
from xec.engines.kind import EngineKind
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.wire.limits import MAX_RESPONSE_BYTES
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub
from xec_server.app import Server
from xec_server.calls.refusal import Refusal
from xec_server.model.engines import EngineChoice

OPTIONS = [("grpc.max_receive_message_length", MAX_RESPONSE_BYTES)]


def put(repository: Path, version: int, factor: float) -> None:
    """One more version, and Triton's configuration for it."""
    name = f"stub-{version}"
    add_version(repository, version, other_model(factor, model_version=name), golden_of=name)
    config = repository / MODEL_NAME / "config.pbtxt"
    config.unlink(missing_ok=True)
    engine = OnnxEngine(repository, OnnxSettings(sessions=1), version=version)
    config.write_text(config_text(engine.model))
    engine.close()


async def answer(server: Server, events: Any) -> pb.ReconstructResponse:
    async with grpc.aio.insecure_channel(str(server.address), OPTIONS) as channel:
        call = request(next(iter(events(1))), dead_list=NOTHING_DEAD)
        return await ReconstructionStub(channel).Reconstruct(call, timeout=30)


@pytest.mark.faults
async def test_the_gateway_follows_triton(tmp_path: Path, events: Any) -> None:
    put(tmp_path, 1, 1.0)
    with real_triton(tmp_path) as triton:
        choice = EngineChoice(
            tmp_path,
            kind=EngineKind.TRITON,
            onnx=OnnxSettings(sessions=1),
            triton=triton.address,
            fallback=True,
        )
        server = Server(choice.open(), NOTHING, replace(SETTINGS), reopen=choice.open)
        await server.start()
        try:
            found = await answer(server, events)
            assert (found.provenance.engine, found.provenance.model_version) == ("triton", "stub-1")

            put(tmp_path, 2, 2.0)  # in the repository, and not in Triton
            with pytest.raises(Refusal, match="'stub-1' goes on answering"):
                await server.models.swap()
            triton.kill()
            found = await answer(server, events)
            assert (found.provenance.engine, found.provenance.model_version) == ("onnx", "stub-1")

            triton.restart(tmp_path)
            assert (await server.models.swap()).version == "stub-2"
            found = await answer(server, events)
            assert (found.provenance.engine, found.provenance.model_version) == ("triton", "stub-2")
            expected = answers_of("stub-2", events(1))["energy"][0]
            np.testing.assert_allclose(found.energy.mean, expected, rtol=1e-4)
            await until(lambda: server.models.in_use == 1)
            assert server.is_serving
        finally:
            await server.stop()
