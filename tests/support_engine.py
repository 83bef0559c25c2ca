"""An engine's settings for small batches, and how it refuses a repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.errors import ModelError
from xec.event import EventBatch

Events = Callable[..., EventBatch]
TWO = OnnxSettings(sessions=2, largest_batch=4)


def refused(repository: Path, match: str, **arguments: Any) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        OnnxEngine(repository, TWO, **arguments)
    assert "\n" not in str(caught.value)
