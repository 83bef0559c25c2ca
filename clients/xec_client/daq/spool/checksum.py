"""CRC32C (Castagnoli, RFC 3720 appendix B.4) of records, headers and ledger slots."""

from __future__ import annotations

import google_crc32c


def crc32c(*parts: bytes) -> int:
    """The checksum of the parts one after the other, as an unsigned 32-bit number."""
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return crc
