"""The methods of `xec.v1.Admin`: what an operator asks of a running server.

They listen on a port of their own that never leaves the machine, and pass the same gates as all
other calls.
"""

from __future__ import annotations

import math
from typing import Protocol

import grpc

from xec.errors import ServiceError
from xec.lineage import Provenance
from xec.wire.codec import provenance_to_proto
from xec.wire.v1 import admin_pb2 as pb
from xec.wire.v1 import admin_pb2_grpc as pb_grpc
from xec_server.address import Address
from xec_server.calls.call import Context
from xec_server.calls.guard import Guard
from xec_server.calls.refusal import Reason, Refusal

_LONGEST_GRACE = 86_400.0  # seconds


class Administered(Protocol):
    """A server, as its operator sees it."""

    async def reload(self, version: int | None) -> tuple[Provenance, bool]:
        """Let another model answer; its provenance, and whether it did not before."""
        ...

    async def drain(self, grace: float | None) -> int:
        """Finish what was accepted and end; the number of events that were cut off."""
        ...

    def status(self) -> pb.GetStatusResponse:
        """What it does just now."""
        ...


class AdminService(pb_grpc.AdminServicer):  # type: ignore[misc]  # untyped code
    """Does what an operator asks.

    Args:
        server: of which.
    """

    def __init__(self, server: Administered) -> None:
        self._server = server

    async def Reload(  # noqa: N802  (the schema's name)
        self, request: pb.ReloadRequest, context: Context
    ) -> pb.ReloadResponse:
        """Another model, without a failed call."""
        del context
        provenance, changed = await self._server.reload(request.version or None)
        return pb.ReloadResponse(provenance=provenance_to_proto(provenance), changed=changed)

    async def Drain(  # noqa: N802  (the schema's name)
        self, request: pb.DrainRequest, context: Context
    ) -> pb.DrainResponse:
        """Finish, and end."""
        del context
        grace = request.grace if request.HasField("grace") else None
        if grace is not None and not (math.isfinite(grace) and 0 <= grace <= _LONGEST_GRACE):
            raise Refusal(
                Reason.INVALID_GRACE,
                f"The grace is a number of seconds from 0 to {_LONGEST_GRACE:.0f}, not {grace:g}.",
            )
        return pb.DrainResponse(cut_off=await self._server.drain(grace))

    async def GetStatus(  # noqa: N802  (the schema's name)
        self, request: pb.GetStatusRequest, context: Context
    ) -> pb.GetStatusResponse:
        """What the server does just now."""
        del request, context
        return self._server.status()


class AdminPort:
    """Where the operator's calls are answered.

    Args:
        server: that they are about.
        guard: stands around them.
        address: on loopback.
    """

    def __init__(self, server: Administered, guard: Guard, address: Address) -> None:
        self._grpc = grpc.aio.server(interceptors=(guard,), options=(("grpc.so_reuseport", 0),))
        pb_grpc.add_AdminServicer_to_server(AdminService(server), self._grpc)
        self.address = address

    async def start(self) -> None:
        """Listen.

        Raises:
            ServiceError: the address cannot be listened on.
        """
        try:
            port = self._grpc.add_insecure_port(str(self.address))
        except RuntimeError as error:
            raise ServiceError(
                f"Nothing can listen on {self.address}: choose another port with --admin."
            ) from error
        self.address = Address(self.address.host, port)
        await self._grpc.start()

    async def stop(self, grace: float) -> None:
        """Listen no more; calls under way have so many seconds."""
        await self._grpc.stop(grace)
