"""The requests of one call: joined, run once, and parted again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]
Run = Callable[[Arrays], dict[str, NDArray[np.generic]]]


def in_pieces(run: Run, largest: int, at_once: int = 1) -> Run:
    """The same computation, in calls of at most `largest` events.

    Args:
        run: may be called from several threads.
        largest: events in one call.
        at_once: calls that run side by side.
    """
    pool = ThreadPoolExecutor(at_once) if at_once > 1 else None
    side_by_side = pool.map if pool else map

    def pieces(inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        count = len(next(iter(inputs.values())))
        if count <= largest:
            return run(inputs)
        parts = [
            {name: values[start : start + largest] for name, values in inputs.items()}
            for start in range(0, count, largest)
        ]
        answers = list(side_by_side(run, parts))
        return {name: np.concatenate([a[name] for a in answers]) for name in answers[0]}

    return pieces


def events_of(inputs: Arrays) -> int:
    """How many events a request holds.

    Raises:
        ValueError: its tensors disagree, or it holds none; the text is a sentence.
    """
    counts = {name: len(values) for name, values in inputs.items()}
    if len(set(counts.values())) != 1:
        text = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"The inputs have different numbers of events: {text}.")
    count = next(iter(counts.values()))
    if count < 1:
        raise ValueError("The request holds no event.")
    return count


def joined_run(requests: Sequence[Arrays], run: Run) -> list[dict[str, NDArray[np.generic]]]:
    """Run the events of all requests at once.

    Args:
        requests: the inputs of each, with one or more events.
        run: from inputs (B, ...) to outputs (B, ...).

    Returns:
        The outputs of each request, in order.
    """
    if len(requests) == 1:
        return [run(requests[0])]
    joined = {name: np.concatenate([r[name] for r in requests]) for name in requests[0]}
    outputs = run(joined)
    parted = []
    at = 0
    for request in requests:
        rows = slice(at, at := at + events_of(request))
        parted.append({name: values[rows] for name, values in outputs.items()})
    return parted


def answers_of(
    requests: Sequence[Arrays], run: Run
) -> list[dict[str, NDArray[np.generic]] | Exception]:
    """`joined_run`, where an error hits the request that causes it and no other.

    Returns:
        For each request its outputs, or the error that its events raise on their own.
    """
    try:
        return list(joined_run(requests, run))
    except Exception as error:  # ONNX Runtime's errors have no common base
        if len(requests) == 1:
            return [error]
    return [answers_of([request], run)[0] for request in requests]
