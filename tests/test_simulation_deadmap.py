"""Dead maps: how many, which shapes, and that nothing escapes the face."""

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from xec.detector.channels import INNER_GRID, N_CHANNELS, N_MPPC
from xec.simulation.deadmap import (
    BOARD_CLUSTERS,
    TYPICAL_RUN,
    Cluster,
    DeadMapConfig,
    draw_dead_maps,
)

DEFAULT = DeadMapConfig()
ALONE = (0.0, 0.0)


def _draw(config: DeadMapConfig, n: int = 3000, seed: int = 8) -> torch.Tensor:
    return draw_dead_maps(n, config, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", [DEFAULT, TYPICAL_RUN])
def test_about_88_of_4760_are_dead(config: DeadMapConfig) -> None:
    dead = _draw(config)
    assert dead.shape == (3000, N_CHANNELS)
    assert dead.dtype == torch.bool
    assert float(dead.sum(1).float().mean()) == pytest.approx(88.0, abs=3.0)


def test_training_maps_spread_more_than_those_of_typical_runs() -> None:
    wide, narrow = (_draw(config).sum(1).float().std() for config in (DEFAULT, TYPICAL_RUN))
    assert float(wide) > 1.4 * float(narrow)


def test_single_sensors_die_on_every_face_alike() -> None:
    dead = _draw(DeadMapConfig(single_fraction=(0.01, 0.01), cluster_slots=0))
    rate = dead.float().mean(0)
    assert float(rate[:N_MPPC].mean()) == pytest.approx(0.01, rel=0.03)
    assert float(rate[N_MPPC:].mean()) == pytest.approx(0.01, rel=0.06)


@pytest.mark.parametrize("cluster", BOARD_CLUSTERS)
def test_a_cluster_is_a_full_rectangle_inside_the_inner_face(cluster: Cluster) -> None:
    config = DeadMapConfig(ALONE, 1, (1.0, 1.0), (cluster,))
    dead = _draw(config, n=200).numpy()
    assert not dead[:, N_MPPC:].any()
    for inner in dead[:, :N_MPPC].reshape(-1, *INNER_GRID.shape):
        _, pieces = label(inner)
        assert pieces == 1
        rows, columns = np.nonzero(inner)
        assert np.ptp(rows) + 1 == cluster.rows
        assert np.ptp(columns) + 1 == cluster.columns
        assert len(rows) == cluster.rows * cluster.columns


def test_clusters_reach_every_inner_sensor() -> None:
    config = DeadMapConfig(ALONE, 6, (1.0, 1.0), (Cluster(4, 4, 1.0),))
    assert bool(_draw(config, n=5000).any(0)[:N_MPPC].all())


def test_cluster_shapes_come_with_their_weights() -> None:
    clusters = (Cluster(1, 1, 3.0), Cluster(2, 8, 1.0))
    size = _draw(DeadMapConfig(ALONE, 1, (1.0, 1.0), clusters)).sum(1)
    assert float((size == 1).float().mean()) == pytest.approx(0.75, abs=0.03)
    assert bool(((size == 1) | (size == 16)).all())
