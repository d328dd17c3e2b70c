"""Groups of samples, one of each pair of mirror images; masks refined by reconstructions."""

import math

import pytest
import torch

import paralift as pl
from tests.problems.test_source_condition import images

torch.set_num_threads(1)
S, C = pl.Space((16, 16), torch.float64), pl.Space((16, 16), torch.complex128)
F = pl.FourierTransform(S)
CENTRE = torch.zeros(16, 16, dtype=torch.bool).index_put((torch.tensor(8), torch.tensor(8)), torch.tensor(True))


def opposite(mask):
    """A mask at -k, by its definition."""
    index = [(2 * (n // 2) - torch.arange(n)) % n for n in mask.shape]
    return mask[torch.meshgrid(*index, indexing="ij")]


def zero_filled(transform):
    return lambda mask, u: transform.adjoint(mask * transform(u))


@pytest.mark.parametrize("shape", [(16, 16), (5, 6), (9,)])
@pytest.mark.parametrize("lines", [False, True])
def test_one_of_each_pair_for_real_images(shape, lines):
    """A mask of all choices determines a real image, and misses nothing else; a budget never holds k and -k."""
    space = pl.Space(shape, torch.float64)
    T = pl.FourierTransform(space)
    groups = pl.SampleGroups(T, pl.line_groups(shape) if lines else None)
    every = groups.mask(groups.costs > 0)
    assert int(every.sum()) == groups.total and bool((every | opposite(every)).all())
    own = math.prod(2 if n % 2 == 0 else 1 for n in shape)
    assert groups.total == (math.prod(shape) + own) // 2 if not lines else math.prod(shape[:-1]) * (shape[-1] // 2 + 1)
    mask = groups.draw(torch.ones(len(groups.costs)), groups.total // 2, seed=1)
    again = mask & opposite(mask)
    itself = torch.arange(math.prod(shape)).reshape(shape) if not lines else pl.line_groups(shape)
    assert bool((itself == opposite(itself))[again].all())
    x = space.randn(generator=torch.Generator().manual_seed(0))
    both = T.adjoint((every | opposite(every)) * T(x))
    assert torch.allclose(both, x) and torch.equal(groups.held(mask), groups.held(opposite(mask)))


def test_complex_images_and_forced_samples():
    assert pl.SampleGroups(pl.FourierTransform(C)).total == 256 and pl.SampleGroups(pl.HadamardTransform(S)).total == 256
    side = torch.zeros(16, 16, dtype=torch.bool)
    side[3, 4] = True
    groups = pl.SampleGroups(F, forced=side)                                # (13, 12) holds nothing new
    assert groups.total == 130 and groups.costs[13 * 16 + 12] == 0 and groups.costs[3 * 16 + 4] == 0
    spokes = pl.SampleGroups(F, pl.spoke_groups((16, 16), 12))              # a spoke is its own mirror image, but for the Nyquist row: none is left out
    assert spokes.total == 256
    u = images(2, 16, 16)
    energy = groups.sums(F(u).abs().square())
    assert float(energy.sum()) == pytest.approx(float(u.square().sum())) and (energy[groups.costs == 0].sum() == energy[3 * 16 + 4])


def test_draws_follow_the_density():
    groups = pl.SampleGroups(pl.FourierTransform(pl.Space((4,), torch.complex128)))
    density = torch.tensor([3.0, 1.0, 0.0, math.inf])
    masks = torch.stack([groups.draw(density, 2, seed) for seed in range(2000)])
    assert masks[:, 3].all() and (masks.sum(1) == 2).all()
    assert float(masks[:, 0].double().mean()) == pytest.approx(0.75, abs=0.03) and not masks[:, 2].any()


def test_budget_of_a_design_has_no_mirror_images():
    for lines in (None, pl.line_groups((16, 16))):
        found = pl.SamplingDesign(F, pl.TotalVariation(), images(3, 16, 16), budget=64, groups=lines).design(pl.FISTA(50))
        both = found.mask & opposite(found.mask)
        assert int(both.sum()) <= (4 if lines is None else 32)              # the samples, or lines, that are their own
    with pytest.raises(ValueError, match="130 that are no mirror images"):
        pl.SamplingDesign(F, pl.TotalVariation(), images(16, 16), budget=140)


@pytest.mark.parametrize("T", [F, pl.FourierTransform(C), pl.HadamardTransform(S)])
@pytest.mark.parametrize("lines", [False, True])
def test_refined_for_zero_filling_is_the_largest_energy(T, lines):
    """Without a regulariser the error in a group is its energy, so the best mask is known."""
    u = T.domain.randn(1, generator=torch.Generator().manual_seed(0))
    labels = pl.line_groups((16, 16)) if lines else None
    groups = pl.SampleGroups(T, labels, CENTRE)
    start = groups.draw(torch.ones(len(groups.costs)), 65, seed=3)
    best = groups.mask(groups.fill(groups.sums(T(u).abs().square() * ~CENTRE) / groups.costs.clamp(min=1), int(start.sum())))
    mask, errors = pl.refine_mask(start, T, u, lambda m, u: T.adjoint((m | opposite(m) if groups.paired else m) * T(u)), labels, CENTRE, rounds=60, share=(0.7, 0.3))
    again = pl.refine_mask(best, T, u, lambda m, u: T.adjoint((m | opposite(m) if groups.paired else m) * T(u)), labels, CENTRE, rounds=5)[0]
    assert torch.equal(mask, best) and torch.equal(again, best) and len(errors) == 60 and errors[-1] < errors[0]


@pytest.mark.parametrize("lines", [False, True])
def test_refined_for_total_variation_serves_other_images(lines):
    """Fewer errors on images that were not used, from a start of another kind, at the same number of samples."""
    learn, test = images(8, 16, 16), images(4, 16, 16, seed=77)
    labels = pl.line_groups((16, 16)) if lines else None
    groups = pl.SampleGroups(F, labels, CENTRE)

    def reconstruct(mask, u):
        K = pl.FourierTransform(S, mask)
        return pl.PDHG(60).solve(pl.Composite(nonsmooth=pl.LeastSquares(K, K(u)), linear=1e-3 * pl.GroupL1Norm() @ pl.Gradient(S), start=K.adjoint(K(u))), progress=False,
                                 record_every=60).x["x"]

    start = groups.draw(torch.ones(len(groups.costs)), 49, seed=2)
    mask, errors = pl.refine_mask(start, F, learn, reconstruct, labels, CENTRE, rounds=20)
    error = lambda m: float((reconstruct(m, test) - test).square().sum())
    assert 49 - 16 < int(mask.sum()) <= 49 and mask[8, 8] and error(mask) < 0.6 * error(start)
    assert torch.equal(mask, pl.refine_mask(start, F, learn, reconstruct, labels, CENTRE, rounds=20)[0])


U = images(2, 16, 16)


@pytest.mark.parametrize("call,text", [
    (lambda: pl.refine_mask(CENTRE, F, U[0], zero_filled(F)), "it needs \\(n, 16, 16\\)"),
    (lambda: pl.refine_mask(CENTRE[0], F, U, zero_filled(F)), "bool tensor of k-space's shape"),
    (lambda: pl.refine_mask(~CENTRE, F, U, zero_filled(F), forced=CENTRE), "without some of the forced"),
    (lambda: pl.refine_mask(CENTRE, F, U, zero_filled(F), share=(0.1, 0.5)), "first share >= last share"),
    (lambda: pl.refine_mask(CENTRE, F, U * math.nan, zero_filled(F)), "NaN"),
    (lambda: pl.SampleGroups(F, forced=CENTRE[0]), "SampleGroups got forced"),
])
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_what_a_failed_design_leaves():
    """Nothing: the next call begins anew, and a problem without a weight is refused by solvers."""
    space = pl.Space((6, 6), torch.float64)
    problem = pl.SamplingDesign(pl.FourierTransform(space), pl.TotalVariation(), torch.rand(6, 6, dtype=torch.float64), budget=5.0)
    with pytest.raises(TypeError, match="ConjugateGradient"):
        problem.design(pl.ConjugateGradient(3))
    assert problem.weight is None and problem.design(pl.FISTA(3)).samples == 5
    with pytest.raises(ValueError, match="at least 36"):
        pl.SamplingDesign(pl.FourierTransform(space), pl.TotalVariation(), problem.images, budget=5, groups=torch.zeros(6, 6, dtype=torch.int64))


def test_refinement_buys_what_the_mask_bought():
    """Of mirror pairs one; reconstructions of another shape and empty images are refused."""
    space, images = pl.Space((6, 6), torch.float64), torch.rand(3, 6, 6, dtype=torch.float64)
    F, mask = pl.FourierTransform(space), torch.zeros(6, 6, dtype=torch.bool)
    mask[2:5, 2:5] = True
    assert int(pl.refine_mask(mask, F, images, lambda m, x: F.adjoint(m * F(x)), rounds=2)[0].sum()) == 5
    for reconstruct, given, words in ((lambda m, x: x[0], images, "finite images of shape"), (lambda m, x: x, 0 * images, "0 everywhere")):
        with pytest.raises(ValueError, match=words):
            pl.refine_mask(mask, F, given, reconstruct, rounds=2)
