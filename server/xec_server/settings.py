"""What a server is told at its start."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from xec.engines.onnx import OnnxSettings
from xec.errors import UsageError
from xec.wire.limits import MAX_EVENTS_PER_BATCH
from xec_server.address import Address
from xec_server.calls.limits import CallLimits
from xec_server.events.streams import StreamPolicy
from xec_server.identity.identity import Identity
from xec_server.queueing.batcher import BatchPolicy
from xec_server.queueing.forwarder import ForwardPolicy
from xec_server.telemetry.settings import TelemetrySettings


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How a server listens, batches and stops.

    Args:
        address: where to listen.
        insecure_listen: allow an address beyond loopback although nothing is encrypted.
        identity: TLS, and how callers are known.
        batching: how events wait for the embedded engine.
        forwarding: how they go on to Triton, where that is the engine.
        streams: how many streaming calls there may be.
        limits: of all calls.
        engine_timeout: seconds that one call of the embedded engine may take; beyond, it hangs.
        grace: seconds for calls in progress once the server is told to stop.
        drain_delay: seconds before that, in which calls are still accepted while health says no,
            so that whoever balances by health turns away.
        ready_file: holds the address while the server is ready, and that for operators.
        admin: where operators' calls are answered, on loopback; None: nowhere.
        telemetry: what it tells of itself.
    """

    address: Address = field(default_factory=Address)
    insecure_listen: bool = False
    identity: Identity = field(default_factory=Identity)
    batching: BatchPolicy = field(default_factory=BatchPolicy)
    forwarding: ForwardPolicy = field(default_factory=ForwardPolicy)
    streams: StreamPolicy = field(default_factory=StreamPolicy)
    limits: CallLimits = field(default_factory=CallLimits)
    engine_timeout: float = 60.0
    grace: float = 10.0
    drain_delay: float = 0.0
    ready_file: Path | None = None
    admin: Address | None = None
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)

    def __post_init__(self) -> None:
        if self.is_exposed and not self.insecure_listen:
            raise UsageError(
                f"{self.address} is reachable from other machines and nothing is encrypted: give "
                "--tls-cert and --tls-key, listen on 127.0.0.1, or say --insecure-listen."
            )
        if self.admin is not None and not self.identity.asks_for_names:
            raise UsageError(
                "--admin needs --tokens: whoever may stop the server has the right admin, by a "
                "token of `xec tokens new`."
            )
        if self.admin is not None and not self.admin.is_loopback:
            raise UsageError(
                f"--admin {self.admin} is reachable from other machines, and whoever reaches it "
                "can stop the server: use 127.0.0.1, from elsewhere through ssh."
            )
        if not self.engine_timeout > 0:  # nor is it NaN
            raise UsageError("An engine call may take some time: --engine-timeout is above 0.")
        queue = min(self.batching.queue, self.forwarding.queue)
        if queue < MAX_EVENTS_PER_BATCH:
            raise UsageError(
                f"A queue of {queue} events cannot take one full batch: "
                f"allow at least {MAX_EVENTS_PER_BATCH}."
            )

    @property
    def is_exposed(self) -> bool:
        """Whether what goes to and from other machines can be read on the way."""
        return not self.address.is_loopback and self.identity.credentials is None


def batching_for(engine: OnnxSettings, delay: float, queue: int) -> BatchPolicy:
    """Batches of the size that the engine takes at once, as many side by side as it runs."""
    return BatchPolicy(
        size=engine.largest_batch, delay=delay, queue=queue, workers=engine.calls_at_once
    )
