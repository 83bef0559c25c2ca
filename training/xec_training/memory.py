"""Memory of a training: keeping what was freed, and saying what to do when there is too little.

Large tensors come and go each step, and page faults cost much of it: glibc returns blocks above a
threshold to the system at once and must fault them in again; see mallopt(3). Elsewhere keeping
does nothing.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from xec.errors import OutOfMemoryError

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


# What torch's allocator on the CPU says; its own error class is the GPU's.
_ON_CPU: Final = ("can't allocate memory", "not enough memory", "cannot allocate memory")


@contextmanager
def explain_out_of_memory(batch_size: int) -> Iterator[None]:
    """Turn a lack of memory inside into a sentence with the way out.

    Raises:
        OutOfMemoryError: in place of what Python or torch raise.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        short = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not short and not any(words in text for words in _ON_CPU):
            raise
        raise OutOfMemoryError(
            f"There is not enough memory for training.batch_size={batch_size}: halve it and double "
            "training.grad_accum_steps, which trains the same. What was saved before is intact."
        ) from error
