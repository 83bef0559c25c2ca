"""What a Triton of ours lets nobody do: reach it from elsewhere, load models, share memory."""

from __future__ import annotations

import re
import socket
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import pytest
import tritonclient.grpc as triton

from support_triton import Served, needs_triton
from xec_server.triton.processes import descendants

pytestmark = needs_triton
LISTEN = "0A"


def address_of(field: str) -> tuple[str, int]:
    """Read an address of `/proc/net/tcp`: words of 32 bits, each in the machine's byte order."""
    host, _, port = field.partition(":")
    words = [bytes.fromhex(host[k : k + 8])[::-1] for k in range(0, len(host), 8)]
    address = ip_address(b"".join(words))
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address), int(port, 16)


def sockets_of(process_id: int) -> set[str]:
    """Inodes of the sockets that a process holds."""
    targets = []
    for link in Path(f"/proc/{process_id}/fd").iterdir():
        try:
            targets.append(str(link.readlink()))
        except FileNotFoundError:  # the descriptor of this very listing
            continue
    return {found[1] for t in targets if (found := re.fullmatch(r"socket:\[(\d+)\]", t))}


def listening(process_ids: set[int]) -> set[tuple[str, int]]:
    """Addresses on which these processes listen."""
    held = set().union(*(sockets_of(process_id) for process_id in process_ids))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN and fields[9] in held:
                found.add(address_of(fields[1]))
    return found


def port_of(address: str | None) -> int:
    assert address is not None
    return int(address.rpartition(":")[2])


def test_it_listens_on_this_machine_only(served: Served) -> None:
    """On two ports, gRPC and metrics: so there is no HTTP, on whatever port."""
    processes = {served.triton.process_id, *descendants(served.triton.process_id)}
    assert len(processes) >= 6  # the guard, Triton, a process for each model
    grpc, metrics = port_of(served.triton.address), port_of(served.triton.metrics)
    assert listening(processes) == {("127.0.0.1", grpc), ("127.0.0.1", metrics)}


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "::", "::1"])
def test_a_listener_would_be_seen(host: str) -> None:
    """The negative control: the same look at a socket of this process."""
    import os

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"no {host} here: {error}")
    with listener:
        assert (host, listener.getsockname()[1]) in listening({os.getpid()})


def test_the_port_of_grpc_speaks_no_http(served: Served) -> None:
    with pytest.raises((OSError, HTTPException)):
        urllib.request.urlopen(f"http://{served.triton.address}/v2/health/ready", timeout=2)


def test_metrics_are_served_where_they_are_announced(served: Served) -> None:
    with urllib.request.urlopen(f"http://{served.triton.metrics}/metrics", timeout=5) as answer:
        assert 'nv_inference_request_success{model="reconstruct"' in answer.read().decode()


Client = triton.InferenceServerClient
REFUSED: dict[str, Callable[[Client], object]] = {
    "load": lambda client: client.load_model("reconstruct"),
    "unload": lambda client: client.unload_model("reconstruct"),
    "index": lambda client: client.get_model_repository_index(),
    "shared memory": lambda client: client.register_system_shared_memory("x", "/x", 16),
    "cuda memory": lambda client: client.register_cuda_shared_memory("x", b"eA==", 0, 16),
    "memory status": lambda client: client.get_system_shared_memory_status(),
    "trace": lambda client: client.update_trace_settings("reconstruct", {"trace_rate": "1"}),
    "logging": lambda client: client.update_log_settings({"log_verbose_level": 1}),
}


@pytest.mark.parametrize("call", REFUSED)
def test_calls_that_change_the_server_are_refused(served: Served, call: str) -> None:
    with pytest.raises(triton.InferenceServerException, match="This protocol is restricted"):
        REFUSED[call](served.client)
    assert served.client.is_model_ready("reconstruct")


def test_other_calls_are_open(served: Served) -> None:
    """The negative control of the test above."""
    assert served.client.is_server_ready()
    assert served.client.get_model_config("reconstruct").config.max_batch_size == 64
    assert served.client.get_inference_statistics("reconstruct").model_stats
    assert served.client.get_server_metadata().version == "2.51.0"


def test_only_the_models_asked_for_are_served(served: Served) -> None:
    assert served.triton.models == ("fragile", "half", "reconstruct", "steady")
    assert not served.client.is_model_ready("inpaint")
