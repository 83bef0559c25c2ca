"""Plausibility of the conventional methods on simulated signal events, mask by mask.

The ratio of sums is never worse than the neighbour average on the inner face; a mean of ratios,
or a wrong vertex, is.
"""

from functools import cache

import numpy as np
import pytest

from xec.detector.channels import INNER_GRID, N_CHANNELS, N_MPPC
from xec.detector.geometry import parametric
from xec.detector.solid_angle import fractions
from xec.recovery.neighbour_average import neighbour_average, neighbour_sums
from xec.recovery.solid_angle import solid_angle_ratio
from xec.recovery.vertex import conventional_vertex
from xec.simulation.generator import Generator, SimulationConfig

GEOMETRY = parametric()
EVENTS = 150
MASKS = ("single", "boards of 16 in a row", "boards of 4 x 4", "a row", "a column", "front")


@cache
def signal() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Readings, expected light and where the gammas converted."""
    batch = Generator(SimulationConfig(), GEOMETRY, "cpu", seed=930_001).sample(EVENTS)
    return batch.npho.numpy(), batch.light.double().numpy(), batch.xyz.double().numpy()


def mask(kind: str) -> np.ndarray:
    """Dead inner sensors (EVENTS, 4760); clusters lie near the light, where methods differ."""
    rng = np.random.default_rng(931_001)
    dead = np.zeros((EVENTS, N_CHANNELS), dtype=np.bool_)
    for event, conversion in enumerate(signal()[2]):
        front = np.linalg.norm(GEOMETRY.position[:N_MPPC] - conversion, axis=1).argmin()
        row, column = np.divmod(front, 44) + rng.integers(-5, 6, 2)
        row, column = np.clip(row, 0, 92), np.clip(column, 0, 43)
        high, left, wide = min(row, 89), min(column, 40), min(column, 28)
        ids = {
            "single": rng.choice(N_MPPC, 60, replace=False),
            "boards of 16 in a row": INNER_GRID[row, wide : wide + 16],
            "boards of 4 x 4": INNER_GRID[high : high + 4, left : left + 4],
            "a row": INNER_GRID[row],
            "a column": INNER_GRID[:, column],
            "front": front,
        }[kind]
        dead[event, ids] = True
    return dead


def rms(answer: np.ndarray, dead: np.ndarray) -> float:
    error = (answer - signal()[1])[dead]
    return float(np.sqrt(np.mean(error**2)))


def mean_of_ratios(npho: np.ndarray, valid: np.ndarray, vertex: np.ndarray) -> np.ndarray:
    """What the ratio of sums is not: every neighbour's own prediction counts alike."""
    sums = neighbour_sums(GEOMETRY)
    omega = fractions(GEOMETRY, vertex)
    seen = valid & (omega > 0)
    ratio = np.divide(npho, omega, out=np.zeros_like(omega), where=seen)
    count = sums(seen.astype(np.float64)).round()
    return omega * sums(ratio) / np.maximum(count, 1)


@pytest.mark.parametrize("kind", MASKS)
def test_the_ratio_of_sums_is_never_worse_than_the_average(kind: str) -> None:
    npho, dead = signal()[0], mask(kind)
    vertex = conventional_vertex(npho, ~dead, GEOMETRY)
    average = rms(neighbour_average(npho, ~dead, GEOMETRY), dead)
    assert rms(solid_angle_ratio(npho, ~dead, vertex, GEOMETRY), dead) <= average


def test_a_wrong_vertex_is_worse_than_the_average() -> None:
    npho = signal()[0]
    failures = []
    for kind in MASKS:
        dead = mask(kind)
        # Each event with the vertex of another one.
        wrong = np.roll(conventional_vertex(npho, ~dead, GEOMETRY), 1, axis=0)
        average = rms(neighbour_average(npho, ~dead, GEOMETRY), dead)
        failures.append(rms(solid_angle_ratio(npho, ~dead, wrong, GEOMETRY), dead) > average)
    assert all(failures)


def test_the_mean_of_ratios_is_worse_than_the_ratio_of_sums() -> None:
    npho = signal()[0]
    failures = []
    for kind in MASKS:
        dead = mask(kind)
        vertex = conventional_vertex(npho, ~dead, GEOMETRY)
        ratio = rms(solid_angle_ratio(npho, ~dead, vertex, GEOMETRY), dead)
        failures.append(rms(mean_of_ratios(npho, ~dead, vertex), dead) > ratio)
    assert all(failures)
