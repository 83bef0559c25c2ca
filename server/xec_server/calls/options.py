"""How gRPC is set: what it takes, how long it waits, and which of its own ways are off."""

from __future__ import annotations

from typing import Final

from xec.wire.limits import MAX_METADATA_BYTES, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES

GRPC_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.so_reuseport", 0),  # two servers on one port would share its calls unnoticed
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    # Between the two limits gRPC refuses by chance.
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    # A megabyte may hold a gigabyte of zeros, which gRPC unpacks before it looks at the size.
    ("grpc.compression_enabled_algorithms_bitset", 1),  # plain messages only
    # With it a window grows until a whole message fits, of calls that nobody reads as well.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_concurrent_streams", 100),
    # With it, streams that the client has ended but the server not yet tidied up count against
    # the limit, and a client that keeps to it sees UNAVAILABLE in a burst of more than 100 calls.
    ("grpc.http.overload_protection", 0),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # or else 60 s, whatever the line before says
    ("grpc.keepalive_permit_without_calls", 1),
    # Pings are never too many: to close a connection for them, gRPC 1.76 keeps 2.4 kB of errors for
    # each that still comes, gigabytes in seconds; without it, answers to pings are bounded.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_connection_age_ms", 3_600_000),
    # Longer than a stream lasts, so that each ends by itself and in good order.
    ("grpc.max_connection_age_grace_ms", 3_900_000),
)
