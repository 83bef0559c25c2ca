"""The server tells systemd, over a real socket, that it is ready, alive and stopping."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from xec_server.notify import ALIVE, READY, STOPPING, keep_alive, notify, watchdog_seconds


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The receiving end, as systemd holds it."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield receiver


def test_messages_arrive_as_one_datagram(manager: socket.socket) -> None:
    assert notify(READY, "STATUS=listens")
    assert manager.recv(1000) == b"READY=1\nSTATUS=listens"


def test_an_abstract_socket_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"xec-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        assert notify(STOPPING)
        assert receiver.recv(1000) == b"STOPPING=1"


def test_without_a_manager_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify(READY)
    monkeypatch.setenv("NOTIFY_SOCKET", "vsock:2:1")
    assert not notify(READY)
    assert caplog.records == []
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify(READY)
    assert "could not be told READY=1" in caplog.text


def test_the_watchdog_is_that_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1500000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert watchdog_seconds() == 1.5
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert watchdog_seconds() == 1.5
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_seconds() is None
    monkeypatch.delenv("WATCHDOG_PID")
    for text in ("", "0", "soon"):
        monkeypatch.setenv("WATCHDOG_USEC", text)
        assert watchdog_seconds() is None


async def test_a_loop_that_hangs_says_nothing(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    task = asyncio.create_task(keep_alive())
    for _ in range(3):
        assert await asyncio.to_thread(manager.recv, 100) == ALIVE.encode()
    time.sleep(0.2)  # a handler that blocks
    manager.setblocking(False)
    while True:  # what was sent before it hung, one at most
        try:
            manager.recv(100)
        except BlockingIOError:
            break
    time.sleep(0.2)  # a handler that blocks
    with pytest.raises(BlockingIOError):
        manager.recv(100)
    await asyncio.sleep(0.1)
    assert manager.recv(100) == ALIVE.encode()
    task.cancel()


async def test_without_a_watchdog_it_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    await asyncio.wait_for(keep_alive(), 60)


def test_xec_serve_is_ready_alive_and_stopping_in_this_order(
    stub_repository: Path, manager: socket.socket
) -> None:
    command = [sys.executable, "-c", "from xec.cli import main; main()", "serve"]
    command += ["--model", str(stub_repository), "--no-dead-list", "--listen", "127.0.0.1:0"]
    environment = os.environ | {"WATCHDOG_USEC": "300000"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        said = [manager.recv(1000).decode()]
        while not said[-1].startswith(READY):
            said.append(manager.recv(1000).decode())
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        assert said[-1] == f"{READY}\nSTATUS=listens on {address}"
        assert manager.recv(1000).decode() == ALIVE
        process.send_signal(signal.SIGTERM)
        while (last := manager.recv(1000).decode()) == ALIVE:
            pass
        assert last == STOPPING
        assert process.wait(30) == 0
