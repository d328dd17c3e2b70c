"""Masks: exact counts, full centres, seeds, distances, densities; trajectories: range, directions, spacing."""

import math

import pytest
import torch

import paralift as pl

MASKS = {
    "variable": pl.variable_density_mask,
    "uniform": lambda *a, **k: pl.variable_density_mask(*a, power=0.0, **k),
    "disc": pl.poisson_disc_mask,
    "uniform disc": lambda *a, **k: pl.poisson_disc_mask(*a, variation=0.0, **k),
}


@pytest.mark.parametrize("shape,acceleration,calibration", [((96, 80), 4, 16), ((95, 81), 7.3, (10, 5)), ((64, 64), 2, 0), ((16, 18, 20), 5, 4), ((30, 30), 1, 5)])
@pytest.mark.parametrize("name", MASKS)
def test_masks(name, shape, acceleration, calibration):
    make = MASKS[name]
    mask = make(shape, acceleration, calibration=calibration, seed=1)
    assert mask.dtype == torch.bool and mask.shape == shape and abs(int(mask.sum()) - mask.numel() / acceleration) <= 0.01 * mask.numel() / acceleration
    block = (calibration,) * len(shape) if isinstance(calibration, int) else calibration
    assert mask[tuple(slice(n // 2 - c // 2, n // 2 - c // 2 + c) for n, c in zip(shape, block))].all()
    assert torch.equal(mask, make(shape, acceleration, calibration=calibration, seed=1))
    assert acceleration == 1 or not torch.equal(mask, make(shape, acceleration, calibration=calibration, seed=2))


@pytest.mark.parametrize("shape,acceleration", [((96, 80), 4), ((64, 64), 10), ((20, 22, 24), 6)])
@pytest.mark.parametrize("variation", [0.0, 3.0])
def test_distances(shape, acceleration, variation):
    """No two samples outside the block are nearer than the larger of their radii, for the largest r_0 that the definition allows; and r_0 is not small."""
    c = 4
    mask = pl.poisson_disc_mask(shape, acceleration, c, variation, seed=3)
    mask[tuple(slice(n // 2 - c // 2, n // 2 - c // 2 + c) for n in shape)] = False
    points = mask.nonzero().double()
    radius = torch.sqrt(sum(((points[:, i] - n // 2) / (n / 2)).square() for i, n in enumerate(shape)))
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.inf)
    growth = 1 + variation * torch.maximum(radius[:, None], radius)
    spacing = (mask.numel() / len(points)) ** (1 / len(shape))
    r_0 = (distance / growth).min()                                       # samples thrown at random would be 1 apart somewhere
    far = radius > 0.8
    assert r_0 * (1 + variation * 0.8) > (0.85 if variation else 0.7) * spacing and distance[far][:, far].min() >= max(math.sqrt(2), r_0)
    if variation:
        assert mask.numel() and (distance.min(0).values[radius < 0.3].mean() < 0.7 * distance.min(0).values[radius > 0.8].mean())


def test_variable_density_follows_its_law():
    """Share of sampled points in rings against (1 - r)^power, where few points are taken and so chances are proportional."""
    shape, power = (200, 200), 2.0
    mask = sum(pl.variable_density_mask(shape, 100, 0, power, seed).double() for seed in range(40))
    y, x = torch.meshgrid(*[(torch.arange(200) - 100) / 100] * 2, indexing="ij")
    r = torch.sqrt(x * x + y * y) / math.sqrt(2)
    law = (1 - r).clamp(min=1e-3) ** power
    for low in (0.1, 0.3, 0.5, 0.7):
        ring = (r >= low) & (r < low + 0.1)
        assert abs(mask[ring].sum() / mask.sum() / (law[ring].sum() / law.sum()) - 1) < 0.1


@pytest.mark.parametrize("n,acceleration", [(180, 4), (181, 6), (64, 1)])
@pytest.mark.parametrize("kind", [{}, {"power": 3.0}, {"equispaced": True}])
def test_lines(n, acceleration, kind):
    mask = pl.line_mask((230, n), acceleration, calibration=10, **kind)
    assert mask.shape == (1, n) and int(mask.sum()) == round(n / acceleration) and mask[0, n // 2 - 5:n // 2 + 5].all()
    assert pl.line_mask((5, n, 7), acceleration, 10, axis=1, **kind).shape == (1, n, 1)
    if "equispaced" in kind and acceleration > 1:
        gaps = mask[0, :n // 2 - 5].nonzero().flatten().diff()
        assert gaps.max() - gaps.min() <= 1
    pl.MRI(mask, torch.ones(2, 230, n, dtype=torch.complex64))


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("angle", ["golden", "uniform"])
def test_radial(angle, dimension):
    t = pl.radial_trajectory(55, 32, angle, dimension)
    assert t.shape == (55, 32, dimension) and t.abs().max() <= math.pi
    assert t[:, 16].abs().max() == 0 and torch.allclose(t.norm(dim=-1)[:, 0], torch.full((55,), math.pi, dtype=t.dtype))
    u = t[:, 0] / math.pi
    nearest = (u @ u.T).abs().fill_diagonal_(0).max(1).values.clamp(max=1).acos()          # directions cover the half circle, the half sphere
    even = math.pi / 55 if dimension == 2 else math.sqrt(2 * math.pi / 55)
    assert nearest.min() > (0.5 if dimension == 2 else 0.3) * even and nearest.max() < 1.7 * even
    if (angle, dimension) == ("uniform", 2):
        assert torch.allclose(nearest, torch.full_like(nearest, even))
    assert torch.allclose(pl.radial_trajectory(1, 8)[0, :, 1], 2 * math.pi * (torch.arange(8, dtype=t.dtype) - 4) / 8)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_spiral(power):
    t = pl.spiral_trajectory(4, 500, 6.0, power)
    assert t.shape == (4, 500, 2) and t.norm(dim=-1).max() < math.pi and t[:, 0].abs().max() == 0 and t.norm(dim=-1)[0, -1] > 0.98 * math.pi
    steps = t.diff(dim=1).norm(dim=-1)
    assert steps.max() < 1.02 * steps.median() and steps[:, 5:].min() > 0.9 * steps.median()
    quarter = torch.stack([t[0, :, 1], -t[0, :, 0]], -1)
    assert torch.allclose(t[1].abs(), quarter.abs())
    if power == 1:                                                        # where it crosses an axis the turns are equally far apart
        crossing = t[0, :, 0].sign().diff().nonzero().flatten()[1:]
        assert torch.allclose(t[0, crossing].norm(dim=-1).diff(), torch.full((len(crossing) - 1,), math.pi / 12, dtype=t.dtype), atol=0.05)


BAD = [
    (lambda: pl.variable_density_mask((32, 32), 8, 24), "the calibration block alone has 576"),
    (lambda: pl.poisson_disc_mask((32, 32), 8, 24), "the calibration block alone has 576"),
    (lambda: pl.line_mask((32, 32), 8, 24), "the calibration block alone has 24"),
    (lambda: pl.variable_density_mask((32, 32), 0.5), "acceleration=0.5"),
    (lambda: pl.variable_density_mask((32, 32), 2, (4, 4, 4)), r"calibration=\(4, 4, 4\)"),
    (lambda: pl.variable_density_mask((32, 0), 2), "the shape"),
    (lambda: pl.variable_density_mask((32, 32), 2, 4, power=-1.0), "power=-1.0"),
    (lambda: pl.poisson_disc_mask(32, 2, 4), "line_mask for lines"),
    (lambda: pl.poisson_disc_mask((32, 32), 2, 4, variation=-1.0), "variation=-1.0"),
    (lambda: pl.line_mask((32, 32), 2, 4, axis=2), "axis=2"),
    (lambda: pl.line_mask((32, 32), 2, 4, power=1.0, equispaced=True), "equispaced"),
    (lambda: pl.radial_trajectory(5, 8, "bogus"), "'golden' or 'uniform'"),
    (lambda: pl.radial_trajectory(0, 8), "spokes=0"),
    (lambda: pl.spiral_trajectory(2, 8.5, 3), "readout=8.5"),
    (lambda: pl.spiral_trajectory(2, 8, 0), "turns=0"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, text = BAD[case]
    with pytest.raises(ValueError, match=text):
        call()
