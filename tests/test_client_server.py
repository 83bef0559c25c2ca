"""Both clients against the real server with a small real model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support_client import Ask, ask_awaiting, ask_blocking, real_server
from xec.conditions.dead_list import DeadList
from xec.contract import CONTRACT_VERSION
from xec.event import EventBatch
from xec_client import errors

OWN = DeadList.of(range(0, 4000, 100))


@pytest.fixture(params=[ask_blocking, ask_awaiting], ids=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param


@pytest.fixture(scope="module")
def server(stub_repository: Path) -> Iterator[str]:
    with real_server(stub_repository, OWN) as address:
        yield address


@pytest.fixture(scope="module")
def server_without_list(stub_repository: Path) -> Iterator[str]:
    with real_server(stub_repository) as address:
        yield address


def test_answers_are_those_of_the_model(
    ask: Ask, server: str, events: Callable[..., EventBatch], answers: Callable[..., dict]
) -> None:
    batch = events(12)
    dead = DeadList.of([7, 4000])
    expected = answers(batch.with_dead(dead.mask))
    for row, answer in enumerate(ask(server, "reconstruct_batch", batch, dead)):
        np.testing.assert_allclose(answer.energy.mean, expected["energy"][row], rtol=1e-4)
        np.testing.assert_allclose(answer.uvw.sigma, expected["uvw_sigma"][row], rtol=1e-3)
        recovered = answer.recovered.channel
        assert {7, 4000} <= set(recovered.tolist())
        np.testing.assert_allclose(
            answer.recovered.npho, expected["npho_mean"][row, recovered], rtol=1e-4
        )


def test_one_and_many_agree(ask: Ask, server: str, events: Callable[..., EventBatch]) -> None:
    batch = events(3)
    many = ask(server, "reconstruct_batch", batch)
    for event, answer in zip(batch, many, strict=True):
        alone = ask(server, "reconstruct", event)
        np.testing.assert_allclose(alone.energy.mean, answer.energy.mean, rtol=1e-6)
        assert alone.recovered.channel.tolist() == answer.recovered.channel.tolist()


def test_the_servers_list_counts_when_asked_to(
    ask: Ask, server: str, events: Callable[..., EventBatch]
) -> None:
    event = next(iter(events(1)))
    marked = set(np.flatnonzero(~event.npho_valid).tolist())
    resolved = ask(server, "reconstruct", event)
    assert set(resolved.recovered.channel.tolist()) == marked | set(OWN.channels)
    assert resolved.provenance.dead_list_id == OWN.list_id
    named = ask(server, "reconstruct", event, OWN.list_id)
    assert named.recovered.channel.tolist() == resolved.recovered.channel.tolist()
    nothing = ask(server, "reconstruct", event, ())
    assert set(nothing.recovered.channel.tolist()) == marked


def test_the_description(ask: Ask, server: str, server_without_list: str) -> None:
    described = ask(server, "model")
    assert described.contract_version == CONTRACT_VERSION
    assert described.dead_channels == len(OWN)
    assert described.provenance.dead_list_id == OWN.list_id
    assert described.provenance.model_version == "stub-1"
    assert ask(server_without_list, "model").provenance.dead_list_id == ""


def test_refusals(
    ask: Ask, server: str, server_without_list: str, events: Callable[..., EventBatch]
) -> None:
    event = next(iter(events(1)))
    npho = event.npho.copy()
    npho[np.flatnonzero(event.npho_valid)[:40]] = np.nan
    with pytest.raises(errors.InvalidRequest, match="nan") as raised:
        ask(server, "reconstruct", replace(event, npho=npho), ())
    assert 1 <= len(raised.value.violations) <= 16
    assert "npho[" in raised.value.violations[0].field
    with pytest.raises(errors.InvalidRequest):
        ask(server, "reconstruct", replace(event, npho=npho[:-1]), ())
    with pytest.raises(errors.NotFound, match="no-such-list"):
        ask(server, "reconstruct", event, "no-such-list")
    with pytest.raises(errors.PreconditionFailed):
        ask(server_without_list, "reconstruct", event)
    # After all that, it goes on.
    assert ask(server, "reconstruct", event).event == event.event


def test_ready(ask: Ask, server: str) -> None:
    ask(server, "wait_ready", 5.0)


def test_torch_and_server_are_not_needed() -> None:
    program = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['xec_server'] = None\n"
        "import xec_client, xec_client.command, xec_client.file_run, xec_client.places\n"
        "xec_client.Client, xec_client.AsyncClient\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_package_is_importable_without_grpc() -> None:
    program = (
        "import sys\n"
        "sys.modules['grpc'] = None\n"
        "from xec_client.command import COMMAND\n"
        "import xec_client\n"
        "try:\n    xec_client.Client\n"
        "except ImportError:\n    print('only then')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "only then\n"
