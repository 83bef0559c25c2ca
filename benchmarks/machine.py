"""What a benchmark was measured on: `xec.machine`, which the load tests use as well."""

from __future__ import annotations

from xec.machine import machine

__all__ = ["machine"]
