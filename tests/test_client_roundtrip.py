"""Both clients against a server that fails on purpose, in one process, over a real connection."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from support_client import (
    Ask,
    FaultyServicer,
    ask_awaiting,
    ask_blocking,
    retry_info,
    rich,
    serving,
)
from xec.detector.channels import N_CHANNELS
from xec.errors import UsageError
from xec.event import Event, EventBatch
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_client import Client, RetryPolicy, errors
from xec_client.conversation import STREAM_PATH
from xec_client.exchange import METHODS
from xec_client.retry import DEFAULT_RETRY
from xec_client.settings import CHANNEL_OPTIONS

Code = grpc.StatusCode
QUICK = RetryPolicy(first_wait=0.01, longest_wait=0.02)
AWAY = rich(Code.UNAVAILABLE, "draining")


@pytest.fixture(params=[ask_blocking, ask_awaiting], ids=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param


@pytest.fixture
def servicer() -> FaultyServicer:
    return FaultyServicer()


@pytest.fixture
def server(servicer: FaultyServicer) -> Iterator[str]:
    with serving(servicer) as address:
        yield address


@pytest.fixture
def event(events: Callable[..., EventBatch]) -> Event:
    return next(iter(events(1)))


def total(event: Event) -> float:
    return float(event.npho.sum(dtype=np.float64))


def blank_events(count: int) -> list[Event]:
    zeros, valid = np.zeros(N_CHANNELS, np.float32), np.ones(N_CHANNELS, np.bool_)
    return [Event(7, number, zeros, zeros, valid, valid) for number in range(count)]


@pytest.mark.parametrize("failures", [0, 1, 3])
def test_as_many_calls_arrive_as_failed_and_one(
    ask: Ask, servicer: FaultyServicer, server: str, event: Event, failures: int
) -> None:
    servicer.script = [AWAY] * failures
    answer = ask(server, "reconstruct", event, retry=QUICK)
    assert len(servicer.requests) == failures + 1
    assert answer.event == event.event
    assert answer.energy.mean[0] == np.float32(total(event))


def test_four_failures_and_no_fifth_call(
    ask: Ask, servicer: FaultyServicer, server: str, event: Event
) -> None:
    servicer.script = [AWAY] * 9
    with pytest.raises(errors.Unavailable, match=f"{server} .*4 attempts.*draining"):
        ask(server, "reconstruct", event, retry=QUICK)
    # gRPC's own retries would have added to these.
    assert len(servicer.requests) == 4


def test_overload_is_repeated_only_where_the_server_says_when(
    ask: Ask, servicer: FaultyServicer, server: str, event: Event
) -> None:
    servicer.script = [rich(Code.RESOURCE_EXHAUSTED, "full", retry_info(0.05))]
    start = time.monotonic()
    ask(server, "reconstruct", event, retry=QUICK)
    assert time.monotonic() - start >= 0.05
    assert len(servicer.requests) == 2
    servicer.script = [None, None, rich(Code.RESOURCE_EXHAUSTED, "full")]
    with pytest.raises(errors.RequestRefused):
        ask(server, "reconstruct", event, retry=QUICK)
    assert len(servicer.requests) == 3


@pytest.mark.parametrize(
    "code", [Code.INTERNAL, Code.UNKNOWN, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.ABORTED]
)
def test_what_would_fail_again_is_asked_once(
    ask: Ask, servicer: FaultyServicer, server: str, event: Event, code: grpc.StatusCode
) -> None:
    servicer.script = [rich(code, "no")]
    with pytest.raises(errors.ClientError) as raised:
        ask(server, "reconstruct", event, retry=QUICK)
    assert raised.value.code == code.name
    assert len(servicer.requests) == 1


def test_every_call_carries_a_deadline(
    ask: Ask, servicer: FaultyServicer, server: str, event: Event
) -> None:
    servicer.script = [AWAY]
    ask(server, "reconstruct", event, timeout=2.0, retry=RetryPolicy(first_wait=0.4))
    ask(server, "reconstruct_batch", [event], call={"timeout": 5.0})
    ask(server, "model")
    first, second, batch, model = servicer.remaining
    assert 1.0 < first <= 2.1
    # The second attempt has what the first one and the pause left; gRPC rounds up a little.
    assert second <= 2.0 - 0.8 * 0.4 + 0.1
    assert 4.0 < batch <= 5.1
    assert 9.0 < model <= 10.1


def test_a_server_that_hangs_is_given_up_once(
    ask: Ask, servicer: FaultyServicer, server: str, event: Event
) -> None:
    release = threading.Event()
    servicer.script = [lambda _: release.wait(30)]
    try:
        with pytest.raises(errors.DeadlineExceeded, match=r"within 0\.2 s"):
            ask(server, "reconstruct", event, timeout=0.2, retry=QUICK)
    finally:
        release.set()
    assert len(servicer.requests) == 1


def test_batches_are_cut_and_put_together(ask: Ask, servicer: FaultyServicer, server: str) -> None:
    servicer.script = [None, AWAY]
    answers = ask(server, "reconstruct_batch", blank_events(300), retry=QUICK)
    assert [answer.event for answer in answers] == list(range(300))
    assert [len(request.events) for request in servicer.requests] == [256, 44, 44]


def test_a_batch_of_arrays(ask: Ask, server: str, events: Callable[..., EventBatch]) -> None:
    batch = events(5)
    answers = ask(server, "reconstruct_batch", batch, [1, 2])
    assert [a.energy.mean[0] for a in answers] == [np.float32(total(e)) for e in batch]


def test_no_events_no_call(ask: Ask, servicer: FaultyServicer, server: str) -> None:
    assert ask(server, "reconstruct_batch", []) == []
    assert servicer.requests == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda many: many[::-1],
        lambda many: many[:-1],
        lambda many: [*many, many[0]],
        lambda many: [],
    ],
    ids=["swapped", "one less", "one more", "none"],
)
def test_answers_to_other_events_are_a_defect(
    ask: Ask, servicer: FaultyServicer, server: str, wrong: Callable[[list[Any]], list[Any]]
) -> None:
    def mixed_up(request: Any) -> Any:
        answers = [pb.ReconstructResponse(run=e.run, event=e.event) for e in request.events]
        return pb.ReconstructBatchResponse(responses=wrong(answers))

    servicer.script = [mixed_up]
    with pytest.raises(errors.ProtocolDefect, match="not the 3"):
        ask(server, "reconstruct_batch", blank_events(3))


def test_too_large_is_refused_before_it_is_sent(
    ask: Ask, servicer: FaultyServicer, server: str, event: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xec_client import aio, client
    from xec_client.settings import Settings

    def narrow(*values: Any) -> Settings:
        return Settings(*values, max_request_bytes=20_000)

    for module in (client, aio):
        monkeypatch.setattr(module, "Settings", narrow)
    for method, what in (("reconstruct", event), ("reconstruct_batch", [event])):
        with pytest.raises(errors.MessageTooLarge, match="20000"):
            ask(server, method, what)
    assert servicer.requests == []


def test_nobody_listens(ask: Ask, server: str, servicer: FaultyServicer, event: Event) -> None:
    with serving(FaultyServicer()) as gone:
        pass
    with pytest.raises(errors.Unavailable, match=f"{gone} .*Connection refused"):
        ask(gone, "reconstruct", event, retry=QUICK)
    with pytest.raises(errors.Unavailable, match="not ready within"):
        ask(gone, "wait_ready", 0.3)
    ask(server, "wait_ready", 5.0)
    assert servicer.requests == []


def test_a_server_that_comes_back_is_found_again(servicer: FaultyServicer, event: Event) -> None:
    with serving(servicer) as address:
        client = Client(address)
        client.reconstruct(event)
    with client:
        with pytest.raises(errors.Unavailable):
            client.reconstruct(event)
        with serving(servicer, address):
            assert client.reconstruct(event).event == event.event
    assert len(servicer.requests) == 2


def test_the_model(ask: Ask, server: str) -> None:
    description = ask(server, "model")
    assert description.contract_version == "1"
    assert description.provenance.model_name == "fake"
    assert description.dead_channels == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A key and a certificate for 127.0.0.1 that signs itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return key.read_bytes(), certificate.read_bytes()


def test_encrypted(ask: Ask, certificate: tuple[bytes, bytes], event: Event) -> None:
    servicer = FaultyServicer()
    with serving(servicer, credentials=grpc.ssl_server_credentials([certificate])) as address:
        trusting = grpc.ssl_channel_credentials(certificate[1])
        assert ask(address, "reconstruct", event, tls=trusting).event == event.event
        # Whoever does not trust the certificate, or speaks in clear, gets nowhere.
        for tls in (grpc.ssl_channel_credentials(), None):
            with pytest.raises(errors.Unavailable):
                ask(address, "reconstruct", event, tls=tls, retry=QUICK, timeout=3.0)
    assert len(servicer.requests) == 1


def test_threads_share_a_client(server: str, events: Callable[..., EventBatch]) -> None:
    answers: dict[int, float] = {}
    many = list(events(16))
    with Client(server) as client:

        def one(place: int) -> None:
            answers[place] = float(client.reconstruct(many[place]).energy.mean[0])

        threads = [threading.Thread(target=one, args=(place,)) for place in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == {k: float(np.float32(total(event))) for k, event in enumerate(many)}


@pytest.mark.parametrize("address", ["", "daq7", ":50051", "daq7:", "daq7:x", "daq7:0"])
def test_an_address_is_needed(address: str) -> None:
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:50051"):
        Client(address)


def test_a_port_beyond_the_last_is_not_wrapped_around(server: str) -> None:
    """gRPC would take it modulo 65536, and find the server of the tests."""
    host, _, port = server.rpartition(":")
    with pytest.raises(UsageError, match="no server's address"):
        Client(f"{host}:{int(port) + 65_536}")


def test_the_channel_is_set_up_as_promised() -> None:
    options = dict(CHANNEL_OPTIONS)
    assert options["grpc.enable_retries"] == 0
    assert options["grpc.keepalive_time_ms"] == 30_000
    assert options["grpc.keepalive_timeout_ms"] == 10_000
    assert options["grpc.http2.ping_timeout_ms"] == 10_000
    assert options["grpc.max_reconnect_backoff_ms"] <= 5_000
    # Were it longer than the pauses of the retries, these would find the same broken connection.
    assert options["grpc.initial_reconnect_backoff_ms"] <= 1000 * DEFAULT_RETRY.first_wait


def test_the_paths_are_those_of_the_schema() -> None:
    service = pb.DESCRIPTOR.services_by_name["Reconstruction"]
    schema = {f"/{service.full_name}/{method.name}" for method in service.methods}
    ours = {method.path for method in METHODS} | {STREAM_PATH}
    assert schema | {"/grpc.health.v1.Health/Check"} == ours
