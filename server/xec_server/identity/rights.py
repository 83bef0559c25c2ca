"""Which right each method needs: the one table, and what is not in it is refused."""

from __future__ import annotations

from enum import StrEnum, auto
from typing import Final

from xec_server.calls.refusal import Reason, Refusal


class Right(StrEnum):
    """What a caller may be allowed to do."""

    RECONSTRUCT = auto()
    INFO = auto()  # which model answers
    REFLECTION = auto()  # the schema
    ADMIN = auto()  # reload, drain, status
    HEALTH = auto()  # whether the server serves


PUBLIC: Final = frozenset({Right.HEALTH})
"""What needs no name: load balancers and probes ask for health, and carry no secrets."""

OPEN: Final = frozenset(Right) - {Right.ADMIN}
"""What everybody may do on a server that asks for no names."""

METHODS: Final = {
    "/xec.v1.Reconstruction/Reconstruct": Right.RECONSTRUCT,
    "/xec.v1.Reconstruction/ReconstructBatch": Right.RECONSTRUCT,
    "/xec.v1.Reconstruction/ReconstructStream": Right.RECONSTRUCT,
    "/xec.v1.Reconstruction/GetModel": Right.INFO,
    "/xec.v1.Admin/Reload": Right.ADMIN,
    "/xec.v1.Admin/Drain": Right.ADMIN,
    "/xec.v1.Admin/GetStatus": Right.ADMIN,
    "/grpc.health.v1.Health/Check": Right.HEALTH,
    "/grpc.health.v1.Health/Watch": Right.HEALTH,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Right.REFLECTION,
}


def right_for(method: str) -> Right:
    """The right that a method needs.

    Raises:
        Refusal: nobody has said which; so nobody may call it.
    """
    right = METHODS.get(method)
    if right is None:
        raise Refusal(
            Reason.PERMISSION_DENIED,
            "Nobody may call this method: the server does not say which right it needs.",
        )
    return right
