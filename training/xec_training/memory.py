"""Keep freed memory: large tensors come and go each step, and page faults cost much of it.

glibc returns blocks above a threshold to the system at once and must fault them in again; see
mallopt(3). Elsewhere this does nothing.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_MAX: Final = -4
NEVER: Final = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to reuse large blocks; returns whether it was told."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, NEVER))
