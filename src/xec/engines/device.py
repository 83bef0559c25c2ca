"""Where an engine inside this process computes."""

from __future__ import annotations

from enum import StrEnum


class Device(StrEnum):
    """What computes."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"

    @property
    def is_gpu(self) -> bool:
        """Whether its memory is the GPU's."""
        return self is not Device.CPU


def buckets_up_to(largest: int) -> tuple[int, ...]:
    """Batch sizes to prepare: powers of two up to the largest, and the largest."""
    powers = (2**k for k in range(largest.bit_length()))
    return tuple(sorted({*powers, largest}))
