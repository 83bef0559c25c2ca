"""Triton's command line, hardened, and the variables it runs under.

tritonserver 2.51 listens on every interface unless told otherwise, and is older than the security
fixes of 2025 and 2026: it stays on this machine, without HTTP, and without the calls that load
models, share memory, or change its logging and tracing.
"""

from __future__ import annotations

import os
import secrets
import sysconfig
from dataclasses import dataclass
from typing import Final

from xec_server.triton.environment import Environment
from xec_server.triton.layout import Layout

LOOPBACK: Final = "127.0.0.1"
STUB_SECONDS: Final = 120
EXIT_SECONDS: Final = 5
"""For inferences in flight when Triton is told to stop."""

RESTRICTED: Final = ("model-repository", "shared-memory", "trace", "logging")
MESSAGE_PINGS: Final = (("time", 30_000), ("timeout", 10_000), ("permit-without-calls", 1))


@dataclass(frozen=True, slots=True)
class Listening:
    """Ports on the loopback interface; no metrics without their port."""

    grpc: int
    metrics: int | None = None


def command_line(
    environment: Environment,
    layout: Layout,
    listening: Listening,
    flavour: str | None,
    shared_memory: str,
) -> list[str]:
    """The command of one start.

    Args:
        environment: of Triton.
        layout: what it reads.
        listening: where it answers.
        flavour: name of the configuration; None takes `config.pbtxt`.
        shared_memory: prefix of the names of its regions, by which they are found again.
    """
    settings = {
        "model-repository": layout.models,
        "backend-directory": layout.backends,
        "model-control-mode": "none",
        "strict-readiness": "true",
        "exit-timeout-secs": EXIT_SECONDS,
        "allow-http": "false",
        "allow-sagemaker": "false",
        "allow-vertex-ai": "false",
        "allow-grpc": "true",
        "grpc-address": LOOPBACK,
        "grpc-port": listening.grpc,
        # The key is thrown away: nobody is meant to use these calls.
        "grpc-restricted-protocol": f"{','.join(RESTRICTED)}:never={secrets.token_urlsafe(32)}",
        **{f"grpc-keepalive-{name}": value for name, value in MESSAGE_PINGS},
        "grpc-http2-min-recv-ping-interval-without-data": 15_000,
        "allow-metrics": str(listening.metrics is not None).lower(),
        "allow-gpu-metrics": "false",
        "metrics-address": LOOPBACK,
        "metrics-port": listening.metrics or 0,
        "log-info": "false",
    }
    if listening.metrics is None:
        del settings["metrics-address"], settings["metrics-port"]
    if flavour is not None:
        settings["model-config-name"] = flavour
    backend = (f"shm-region-prefix-name={shared_memory}", f"stub-timeout-seconds={STUB_SECONDS}")
    return [
        str(environment.server),
        "--disable-auto-complete-config",
        *(f"--{name}={value}" for name, value in settings.items()),
        *(f"--backend-config=python,{setting}" for setting in backend),
    ]


def variables(environment: Environment) -> dict[str, str]:
    """Environment variables of Triton and its stubs; nothing else of ours is handed on.

    The stub embeds the Python that it finds first on `PATH`, and ignores `PYTHONPATH`; its shared
    library must be that of the same Python, although another may lie in the system's folders.
    """
    library = sysconfig.get_config_var("LIBDIR") or ""
    kept = ("HOME", "LANG", "TZ", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "TMPDIR")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PATH": f"{environment.scripts}:/usr/bin:/bin",
        "ORT_DISABLE_TELEMETRY": "1",  # in the backend, see xec.engines
        "LD_LIBRARY_PATH": ":".join(filter(None, (str(environment.libraries), library))),
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
