"""The shower: where the energy goes, and that none appears or vanishes inside."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import gamma, kstest

from xec.simulation.shower import ShowerConfig, draw_deposits, inside_xenon
from xec.simulation.vertex import Gammas, SourceConfig, draw_gammas

CONFIG = ShowerConfig()
BOUNDLESS = replace(CONFIG, half_length=1e6, half_azimuth=4.0, xenon_depth=1e6)


def _gammas(n: int, xyz: tuple[float, float, float] | None = None) -> Gammas:
    gammas = draw_gammas(n, SourceConfig(), torch.Generator().manual_seed(5))
    if xyz is None:
        return gammas
    return replace(
        gammas,
        xyz=torch.tensor(xyz).expand(n, 3),
        direction=torch.tensor([-1.0, 0.0, 0.0]).expand(n, 3),
    )


def _deposits(gammas: Gammas, config: ShowerConfig):
    return draw_deposits(gammas, config, torch.Generator().manual_seed(6))


def test_energy_is_conserved_without_boundaries() -> None:
    gammas = _gammas(500, xyz=(-300.0, 0.0, 0.0))  # far behind the inner face: nothing leaks
    deposited = _deposits(gammas, BOUNDLESS).energy.sum(1)
    torch.testing.assert_close(deposited, gammas.energy, rtol=1e-5, atol=0)


def test_what_lies_outside_is_lost_and_only_that() -> None:
    gammas = _gammas(500)
    bounded, boundless = _deposits(gammas, CONFIG), _deposits(gammas, BOUNDLESS)
    inside = inside_xenon(boundless.xyz, CONFIG)
    assert 0 < (~inside).sum() < inside.sum()
    torch.testing.assert_close(bounded.energy, boundless.energy * inside)
    assert inside_xenon(bounded.xyz, CONFIG).all()  # lost deposits are parked, not left outside


def test_leakage_through_the_inner_face_falls_with_depth_and_through_the_outer_rises() -> None:
    lost = []
    for depth in (0.1, 5.0, 34.0):
        gammas = _gammas(2000, xyz=(-64.97 - depth, 0.0, 0.0))
        lost.append(1.0 - float((_deposits(gammas, CONFIG).energy.sum(1) / gammas.energy).mean()))
    assert lost[0] > 2 * lost[1]
    assert lost[2] > 10 * lost[1]
    assert all(0.0 < share < 0.8 for share in lost)


def test_depths_follow_the_gamma_distribution() -> None:
    still = replace(BOUNDLESS, lateral_slope=1e-6, length_spread=0.0)
    gammas = _gammas(2000, xyz=(-300.0, 0.0, 0.0))
    deposits = _deposits(gammas, still)
    depth = (-300.0 - deposits.xyz[:, :-1, 0]).flatten().double().numpy()
    mean = 2.77 * (0.5 + torch.log(torch.tensor(52.8 / 11.0)).item())
    assert kstest(depth, gamma(CONFIG.shape, scale=mean / CONFIG.shape).cdf).pvalue > 0.01
    assert kstest(depth, gamma(CONFIG.shape, scale=0.9 * mean / CONFIG.shape).cdf).pvalue < 1e-3


def test_halo_carries_its_share_in_all_directions() -> None:
    gammas = _gammas(20_000, xyz=(-300.0, 0.0, 0.0))
    deposits = _deposits(gammas, BOUNDLESS)
    share = deposits.energy[:, -1] / gammas.energy
    assert float(share.mean()) == pytest.approx(CONFIG.halo_share, rel=0.05)
    offset = (deposits.xyz[:, -1] - gammas.xyz).double()
    assert kstest(offset.norm(dim=1).numpy(), "expon", args=(0.0, CONFIG.halo_length)).pvalue > 0.01
    cosine = offset[:, 0] / offset.norm(dim=1)
    assert kstest(cosine.numpy(), "uniform", args=(-1.0, 2.0)).pvalue > 0.01


def test_transverse_spread_is_of_the_order_of_the_moliere_radius() -> None:
    gammas = _gammas(5000, xyz=(-300.0, 0.0, 0.0))
    deposits = _deposits(gammas, BOUNDLESS)
    radius = deposits.xyz[..., 1:].norm(dim=-1).flatten()
    order = radius.argsort()
    share = deposits.energy.flatten()[order].cumsum(0)
    r90 = radius[order][int(torch.searchsorted(share, 0.9 * share[-1]))]
    assert 2.0 < float(r90) < 5.5


def test_a_shower_grows_with_the_logarithm_of_the_energy() -> None:
    gammas = _gammas(4000, xyz=(-300.0, 0.0, 0.0))
    low = _deposits(replace(gammas, energy=gammas.energy / 2), BOUNDLESS)
    high = _deposits(gammas, BOUNDLESS)
    depth = [(-300.0 - d.xyz[:, :-1, 0]).mean().item() for d in (low, high)]
    assert depth[1] - depth[0] == pytest.approx(2.77 * 0.693, rel=0.1)


def test_delay_is_the_flight_from_the_conversion() -> None:
    gammas = _gammas(100, xyz=(-300.0, 0.0, 0.0))
    still = replace(BOUNDLESS, lateral_slope=1e-6)
    deposits = _deposits(gammas, still)
    distance = (deposits.xyz - gammas.xyz.unsqueeze(1)).norm(dim=-1)
    torch.testing.assert_close(deposits.delay, distance / 29.9792458, atol=1e-4, rtol=0)
