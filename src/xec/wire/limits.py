"""How large a message of `xec.v1` may be; server and client keep to the same numbers."""

from __future__ import annotations

from typing import Final

MAX_EVENTS_PER_BATCH: Final = 256
"""Events in one `ReconstructBatch`: 256 of 39.3 kB are 10.1 MB, well inside the request limit."""

MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024
"""What the server receives at most; gRPC's own default (4 MiB) would stop at 106 events."""

MAX_RESPONSE_BYTES: Final = 32 * 1024 * 1024
"""What a client receives at most: 256 answers with every sensor recovered are 24 MB."""

MAX_VIOLATIONS: Final = 16
"""Violations listed in an error: its details travel in trailing metadata, 8 KiB by default."""

MAX_OTHER_BYTES: Final = 64 * 1024
"""What a message holds beside its events: a dead list of all 4760 sensors takes 14 kB."""

MAX_METADATA_BYTES: Final = 16 * 1024
"""Metadata of a call, names and 32 bytes for each entry included (HTTP/2 counts so)."""
