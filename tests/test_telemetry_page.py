"""The page of metrics: two paths, few connections, for a short time, on this machine."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter

from support_telemetry import measured, scrape
from xec.errors import ServiceError, UsageError
from xec_server.address import Address
from xec_server.app import Server
from xec_server.telemetry import http as page_module
from xec_server.telemetry import hub
from xec_server.telemetry.http import MOST_CONNECTIONS, MetricsPage
from xec_server.telemetry.settings import (
    TelemetrySettings,
    metrics_address,
    telemetry_settings,
    trace_target,
)


@pytest.fixture
def page() -> Iterator[MetricsPage]:
    registry = CollectorRegistry()
    Counter("seen", "A counter.", registry=registry).inc(3)
    page = MetricsPage(Address(port=0), registry, lambda: False)
    yield page
    page.close()


def ask(page: MetricsPage, method: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(page.address.host, page.address.port, timeout=30)
    connection.request(method, path)
    answer = connection.getresponse()
    content = answer.read().decode()
    connection.close()
    return answer.status, content


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/metrics", 200, "seen_total 3.0"),
        ("GET", "/metrics?name[]=seen", 200, "seen_total 3.0"),
        ("GET", "/healthz", 503, "not serving"),
        ("GET", "/", 404, "/metrics"),
        ("GET", "/metrics/", 404, "/metrics"),
        ("GET", "/../../etc/passwd", 404, "/metrics"),
        ("POST", "/metrics", 501, ""),
        ("DELETE", "/metrics", 501, ""),
    ],
)
def test_there_are_two_pages(
    page: MetricsPage, method: str, path: str, status: int, words: str
) -> None:
    answered, content = ask(page, method, path)
    assert answered == status
    assert words in content
    assert path == "/" or status == 200 or path not in content  # nothing is echoed


def test_whoever_holds_all_connections_is_cut_off(
    page: MetricsPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "LONGEST_SECONDS", 1.5)
    where = (page.address.host, page.address.port)
    held = [socket.create_connection(where, timeout=30) for _ in range(MOST_CONNECTIONS)]
    for connection in held:
        connection.sendall(b"GET /metrics HTTP/1.0\r\nX-Slow: ")
    with pytest.raises((http.client.HTTPException, OSError)):
        ask(page, "GET", "/metrics")
    for connection in held:
        assert connection.recv(100) == b""
        connection.close()
    for _ in range(100):  # their threads end one after the other
        with suppress(http.client.HTTPException, OSError):
            assert ask(page, "GET", "/metrics")[0] == 200
            break
        time.sleep(0.05)
    else:
        pytest.fail("no connection was given back")


def test_a_port_in_use_is_said_in_a_sentence(page: MetricsPage) -> None:
    with pytest.raises(ServiceError, match=r"for metrics: .* --metrics"):
        MetricsPage(page.address, CollectorRegistry(), lambda: True)


def test_a_port_alone_is_one_of_this_machine() -> None:
    assert metrics_address("9464") == Address("127.0.0.1", 9464)
    assert metrics_address("0.0.0.0:9464") == Address("0.0.0.0", 9464)
    assert telemetry_settings(None, None).metrics is None
    for wrong in ("", "host", "host:", ":9464", "127.0.0.1:70000"):
        with pytest.raises(UsageError, match="HOST:PORT"):
            metrics_address(wrong)


def test_where_spans_go_is_told_by_the_option_or_the_standard_variables() -> None:
    variable = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}
    assert trace_target(None, {}) is None
    assert trace_target(None, variable) == ""
    assert trace_target(None, variable | {"OTEL_SDK_DISABLED": "true"}) is None
    assert trace_target(None, variable | {"OTEL_TRACES_EXPORTER": "none"}) is None
    assert trace_target("http://other:4317", variable) == "http://other:4317"
    with pytest.raises(UsageError, match="--trace http://HOST:PORT"):
        trace_target("collector:4317", {})


async def test_health_is_told_while_the_server_lives(stub_repository: Path) -> None:
    async with measured(stub_repository) as service:
        server: Server = service.server
        address = server.telemetry.address
        assert address is not None
        assert address.is_loopback
        assert (await scrape(server)).sum("xec_serving") == 1
        await server.stop()
        assert server.telemetry.address is None
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((address.host, address.port), timeout=5)


async def test_whoever_shows_metrics_to_other_machines_is_told(
    stub_repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_to_all = TelemetrySettings(metrics=Address("0.0.0.0", 0))
    async with measured(stub_repository, telemetry=open_to_all):
        assert "can be read from other machines" in caplog.text
    caplog.clear()
    async with measured(stub_repository):
        assert "other machines" not in caplog.text


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (
            TelemetrySettings(metrics=Address(port=0)),
            r"prometheus_client: pip install .*\[server\]",
        ),
        (
            TelemetrySettings(trace="http://127.0.0.1:1"),
            r"opentelemetry: pip install .*\[tracing\]",
        ),
    ],
)
def test_a_package_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, told: TelemetrySettings, words: str
) -> None:
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=words):
        hub.Telemetry(told)
    hub.Telemetry(TelemetrySettings())  # needs neither
