"""Events, reconstructions and pictures for the tests of the display."""

from __future__ import annotations

import numpy as np

from xec.detector.channels import N_CHANNELS
from xec.display.content import EventPicture
from xec.event import (
    Event,
    Flag,
    GammaEstimate,
    Reconstruction,
    Recovered,
    RecoveryStatus,
    Truth,
)
from xec.lineage import Provenance

DEAD = np.array([0, 100, 101, 4100, 4320, 4500, 4600, 4700, 4750], dtype=np.int32)
REFUSED = 4700


def event() -> Event:
    """Counts from −3 over 1 and 10 to 10⁴, with dead sensors on all faces."""
    npho = np.geomspace(1.0, 1.0e4, N_CHANNELS).astype(np.float32)
    npho[1] = -3.0
    valid = np.ones(N_CHANNELS, dtype=np.bool_)
    valid[DEAD] = False
    npho[DEAD] = 0.0
    nothing = np.zeros(N_CHANNELS, dtype=np.float32)
    return Event(run=77, event=12, npho=npho, time=nothing, npho_valid=valid, time_valid=~valid)


def estimate(*means: float) -> GammaEstimate:
    """These means, with a σ of a tenth each."""
    mean = np.array(means, dtype=np.float32)
    sigma = np.abs(mean) / 10
    return GammaEstimate(mean, sigma, mean - sigma, mean + sigma)


def reconstruction(channel: np.ndarray = DEAD) -> Reconstruction:
    """Sensor k recovered with 100 (k + 1) photons; one of them refused."""
    npho = 100 * (np.arange(len(channel), dtype=np.float32) + 1)
    status = np.full(len(channel), RecoveryStatus.INPAINTED, dtype=np.uint8)
    status[channel == REFUSED] = RecoveryStatus.REFUSED
    npho[channel == REFUSED] = 0
    zero = np.zeros(len(channel), dtype=np.float32)
    return Reconstruction(
        run=77,
        event=12,
        energy=estimate(52.5),
        gamma_time=estimate(1.5),
        uvw=estimate(10.0, -30.0, 5.0),
        angle=estimate(90.0, 20.0),
        recovered=Recovered(channel, npho, np.sqrt(npho), zero, zero, status),
        flags=Flag.NONE,
        provenance=Provenance("reconstruct", "3", "ab" * 32, "cd" * 32, "list-5"),
    )


def truth() -> Truth:
    """One gamma of 52.8 MeV."""
    unused = [[0.0, 0.0, 0.0]]
    rows = ([52.8], [1.0], [[11.0, -31.0, 4.0]], unused, unused, unused, [[90.0, 20.0]])
    return Truth(*(np.array(row, dtype=np.float32) for row in rows))


def reference() -> np.ndarray:
    """500 photons everywhere: some of the recovered counts are below, some above."""
    return np.full(N_CHANNELS, 500.0, dtype=np.float32)


def measured_picture() -> EventPicture:
    """Without reconstruction."""
    return EventPicture(event())


def full_picture() -> EventPicture:
    """With all that a simulated file tells."""
    return EventPicture(event(), reconstruction(), reference(), truth(), synthetic=True)
