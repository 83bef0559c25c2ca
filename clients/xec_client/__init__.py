"""Clients of the reconstruction service, and `xec reconstruct`.

>>> from xec_client import Client
>>> with Client("127.0.0.1:50051") as client:
...     answer = client.reconstruct(event)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xec_client.aio import AsyncClient
    from xec_client.client import Client
    from xec_client.conversation import Streamed
    from xec_client.description import ModelDescription
    from xec_client.retry import RetryPolicy

__all__ = ["AsyncClient", "Client", "ModelDescription", "RetryPolicy", "Streamed"]

_HOMES = {
    "AsyncClient": "aio",
    "Client": "client",
    "ModelDescription": "description",
    "RetryPolicy": "retry",
    "Streamed": "conversation",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: the command line looks into this package where gRPC is not installed.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
