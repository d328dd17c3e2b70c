"""Reconstruction: every solver finds the same image, in the form that suits it; the gap certifies; batches are loops; what does not fit is refused."""

import pytest
import torch

import paralift as pl

T = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class MaskedFourier(pl.LinearOperator):
    """x -> mask F(maps x), orthonormal; rows are coils."""

    def __init__(self, mask, maps):
        shape = tuple(mask.shape)
        super().__init__(pl.Space(shape, torch.complex128), pl.Space((len(maps), *shape), torch.complex128))
        self.mask, self.maps = mask, maps

    def _call(self, x):
        return self.mask * torch.fft.fft2(self.maps * x.unsqueeze(-3), norm="ortho")

    def _adjoint(self, y):
        return (self.maps.conj() * torch.fft.ifft2(self.mask * y, norm="ortho")).sum(-3)

    def rows(self, index):
        return MaskedFourier(self.mask, self.maps[index])


def scan(n=8, coils=4):
    g = generator()
    maps = torch.randn(coils, n, n, dtype=torch.complex128, generator=g)
    maps = maps / maps.abs().square().sum(0).sqrt()
    x = torch.zeros(n, n, dtype=torch.complex128)
    x[2:6, 1:6] = 1 + 0.5j
    A = MaskedFourier((torch.rand(n, n, dtype=T, generator=g) < 0.5).to(T), maps)
    return A, A(x) + 0.05 * A.mask * torch.randn(coils, n, n, dtype=torch.complex128, generator=g), x


def emission(n=10, views=12, background=0.5):
    A = pl.RayTransform((n, n), torch.pi * torch.arange(views, dtype=T) / views, bins=15)
    x = torch.zeros(n, n, dtype=T)
    x[2:7, 3:8], x[6:9, 2:5] = 6.0, 2.0
    A.background = torch.full(A.range.shape, background, dtype=T)
    return A, torch.poisson(A(x) + background, generator=generator()), x


FINE = dict(tolerance=1e-10, max_iterations=3000)           # of the prox: E is off by about as much


@pytest.mark.parametrize("constraint", [None, "real", "nonnegative"])
def test_solvers_agree_on_coils_with_total_variation(constraint):
    """PDHG, SPDHG over coils and ADMM take TV apart, FISTA and Douglas-Rachford by its prox, all to 1e-8 of E; E by the formula."""
    A, b, _ = scan(6)
    problem = pl.Reconstruction(A, b, regulariser=0.05 * pl.TotalVariation(**FINE), constraint=constraint)
    found = pl.PDHG(2000, tolerance=1e-7).solve(problem, record_every=50)
    x = found.solution
    d0, d1 = torch.diff(x, dim=0, append=x[-1:]), torch.diff(x, dim=1, append=x[:, -1:])
    value = float(0.5 * (A(x) - b).abs().square().sum() + 0.05 * (d0.abs().square() + d1.abs().square()).sqrt().sum())
    assert found.objective == pytest.approx(value, rel=1e-12)
    assert constraint is None or x.imag.abs().max() == 0 and (constraint == "real" or x.real.min() >= 0)
    for solver in (pl.FISTA(15), pl.SPDHG(1000, subsets=4, tolerance=1e-8), pl.ADMM(1000, tolerance=1e-8), pl.DouglasRachford(20)):
        assert solver.solve(problem, record_every=25).objective == pytest.approx(value, rel=1e-8), solver


@pytest.mark.parametrize("regulariser", [0.2 * pl.L1Norm(), 0.2 * pl.L2NormSquared(), 0.1 * pl.TotalVariation(**FINE),
                                         0.1 * pl.TotalVariation(**FINE) + 0.05 * pl.L1Norm()], ids=["l1", "l2", "tv", "tv + l1"])
@pytest.mark.parametrize("constraint", [None, "nonnegative"])
def test_optimality_against_the_subgradient(regulariser, constraint):
    """PDHG and FISTA agree to 1e-7 of E, and the gap vanishes where x >= 0 is the only part with a prox."""
    g = generator()
    A = pl.MatrixOperator(torch.rand(40, 25, dtype=T, generator=g))
    if "TotalVariation" in repr(regulariser):
        A = pl.Convolution(torch.rand(3, 3, dtype=T, generator=g) + 3 * torch.eye(3, dtype=T)[1].outer(torch.eye(3, dtype=T)[1]), pl.Space((7, 7), T), padding="zero")
    b = A(A.domain.randn(generator=g).abs()) + 0.3 * A.range.randn(generator=g)
    problem = pl.Reconstruction(A, b, regulariser=regulariser, constraint=constraint)
    dual = pl.PDHG(5000, tolerance=1e-8).solve(problem, record_every=50)
    primal = pl.FISTA(60 if "TotalVariation" in repr(regulariser) else 1000, tolerance=1e-5).solve(problem, record_every=5)
    assert primal.objective == pytest.approx(dual.objective, rel=1e-7)
    if isinstance(problem.nonsmooth_part, pl.IndicatorNonnegative):
        assert abs(float(problem.gap(dual.x, dual.state["dual"]))) < 1e-6 * dual.objective


def test_poisson_total_variation_to_a_certified_gap():
    """Tolerance(gap=) stops PDHG and SPDHG; the gap is above the true distance to the optimum all the way, and every other method ends at the same value."""
    A, b, _ = emission(9, 10)
    problem = pl.Reconstruction(A, b, "poisson", 0.3 * pl.TotalVariation(**FINE))
    best = pl.PDHG(3000, tolerance=1e-7).solve(problem, record_every=200).objective
    rows = []
    watch = lambda r: rows.append((r.objective, r.history["gap"][-1] * max(1, r.objective)))
    result = pl.PDHG(5000, tolerance=pl.Tolerance(gap=1e-4)).solve(problem, record_every=20, callback=watch)
    assert result.status is pl.Status.CONVERGED and result.objective - best <= 1e-4 * best
    assert all(objective - best <= gap * (1 + 1e-9) + 1e-7 for objective, gap in rows)
    assert pl.SPDHG(1000, subsets=4, tolerance=pl.Tolerance(gap=1e-4)).solve(problem, record_every=20).status is pl.Status.CONVERGED
    assert pl.FISTA(80).solve(problem, record_every=20).objective == pytest.approx(best, rel=1e-7)
    plain = pl.Reconstruction(A, b, "poisson")
    assert pl.BregmanPGD(1000).solve(plain, record_every=500).objective == pytest.approx(pl.PDHG(1500).solve(plain, record_every=500).objective, rel=1e-6)
    assert pl.BregmanPGD(20, kernel="burg").solve(plain).objective < float(plain.value(plain.start()))


def test_a_background_is_never_lost():
    """A @ K keeps A's; another product or sum is refused until it has its own."""
    A, b, _ = emission()
    flip = pl.LinearOperator(A.domain, A.domain)
    flip._call = flip._adjoint = lambda x: x.flip(-1)
    assert torch.equal(pl.Reconstruction(A @ flip, b, "poisson")._f.background, A.background)
    with pytest.raises(ValueError, match="op.background = ..."):
        pl.Reconstruction(0.5 * A, b, "poisson")
    half = 0.5 * A
    half.background = 0.5 * A.background
    assert torch.equal(pl.Reconstruction(half, b, "poisson")._f.background, half.background)


def test_batches_are_loops():
    A, b, _ = scan()
    several = torch.stack([b, 0.5 * b, b.flip(0)])
    make = lambda data: pl.Reconstruction(A, data, regulariser=0.05 * pl.TotalVariation(**FINE))
    together = pl.PDHG(600, tolerance=1e-6).solve(make(several), record_every=50).solution
    alone = torch.stack([pl.PDHG(600, tolerance=1e-6).solve(make(one), record_every=50).solution for one in several])
    assert (together - alone).abs().max() < 1e-4
    E, counts, _ = emission()
    two = torch.stack([counts, counts.flip(-1)])
    assert torch.allclose(pl.MLEM(20).solve(pl.Reconstruction(E, two, "poisson")).solution[1], pl.MLEM(20).solve(pl.Reconstruction(E, two[1], "poisson")).solution, rtol=1e-10)


def test_standard_deviations_weight_the_data():
    """Samples with a large deviation count little: the minimiser of sum |A x - b|^2 / (2 s^2) by a dense solve; subsets keep the weights."""
    g = generator()
    M, b, s = torch.randn(20, 6, dtype=T, generator=g), torch.randn(20, dtype=T, generator=g), 0.2 + torch.rand(20, dtype=T, generator=g)
    problem = pl.Reconstruction(pl.MatrixOperator(M), b, standard_deviation=s)
    exact = torch.linalg.lstsq(M / s[:, None], b / s).solution
    for solver in (pl.ConjugateGradient(20), pl.FISTA(500), pl.SPDHG(500, subsets=4)):
        assert (solver.solve(problem, record_every=100).solution - exact).abs().max() < 1e-6, solver
    assert float(pl.Reconstruction(pl.MatrixOperator(M), b, standard_deviation=2.0).value({"x": exact})) == pytest.approx(float((M @ exact - b).square().sum()) / 8)


def test_other_data_terms_and_auxiliary_unknowns():
    """An L1 data term needs methods that take its prox; a functional with unknowns of its own gives back the image alone."""
    g = generator()
    A = pl.MatrixOperator(torch.randn(15, 6, dtype=T, generator=g))
    b = A(torch.ones(6, dtype=T))
    b[3] += 100
    problem = pl.Reconstruction(A, b, fidelity=pl.L1Norm())
    assert (pl.PDHG(3000).solve(problem, record_every=100).solution - 1).abs().max() < 1e-5
    with pytest.raises(TypeError, match="use PDHG, ADMM or SPDHG"):
        pl.FISTA().solve(problem)


def test_results_draw_themselves(tmp_path):
    A, b, x = scan(16)
    result = pl.FISTA(10).solve(pl.Reconstruction(A, b, regulariser=0.05 * pl.TotalVariation()))
    figure = result.show(reference=x, path=tmp_path / "image.png")
    assert (tmp_path / "image.png").stat().st_size > 10_000 and "PSNR" in figure.get_suptitle() and result.solution.shape == x.shape
    titles = [ax.get_title() for ax in figure.get_axes()]
    assert "reconstruction, magnitude" in titles and any("profile" in t for t in titles)
    small = pl.FISTA(2).solve(pl.Reconstruction(*scan(8)[:2]))
    assert "PSNR" in small.show(reference=scan(8)[2]).get_suptitle()
    with pytest.raises(ValueError, match="both must agree"):
        result.show(reference=x[:5])
    volume = pl.PGD(2).solve(pl.Reconstruction(pl.IdentityOperator(pl.Space((12, 14, 16))), torch.rand(12, 14, 16)))
    assert sum("middle slice" in ax.get_title() for ax in volume.show(reference=torch.rand(12, 14, 16)).get_axes()) == 9


def test_what_does_not_fit_is_refused():
    A, b, _ = scan()
    E, counts, _ = emission()
    bare = pl.MatrixOperator(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    nan = b.clone()
    nan[0, 0, 0] = float("nan")
    for call, kind, words in (
            (lambda: pl.Reconstruction(torch.eye(3), torch.ones(3)), TypeError, "LinearOperator"), (lambda: pl.Reconstruction(A, b[:, :5]), ValueError, "trailing axes"),
            (lambda: pl.Reconstruction(A, nan), ValueError, "NaN"), (lambda: pl.Reconstruction(A, b.abs()), TypeError, "real data"),
            (lambda: pl.Reconstruction(E, counts + 0j), TypeError, "complex data"), (lambda: pl.Reconstruction(A, b, "poisson"), TypeError, "counts and images are real"),
            (lambda: pl.Reconstruction(E, counts - 5, "poisson"), ValueError, "below 0"),
            (lambda: pl.Reconstruction(bare, torch.ones(2), "poisson"), ValueError, "1 data have counts"),
            (lambda: pl.Reconstruction(E, counts.int(), "poisson"), TypeError, r"\.float\(\)"), (lambda: pl.Reconstruction(E, counts, "laplace"), ValueError, "choose 'gaussian'"),
            (lambda: pl.Reconstruction(E, counts, constraint="real"), ValueError, "real anyway"), (lambda: pl.Reconstruction(E, counts, constraint="box"), ValueError, "indicator"),
            (lambda: pl.Reconstruction(E, counts, regulariser=0.1), TypeError, "Functional"),
            (lambda: pl.Reconstruction(E, counts, start=torch.ones(3)), ValueError, "start of shape"),
            (lambda: pl.Reconstruction(E, counts, regulariser=pl.TotalVariation((5, 5))), ValueError, "image has the shape"),
            (lambda: pl.Reconstruction(E, counts, standard_deviation=0.0), ValueError, "> 0"),
            (lambda: pl.Reconstruction(E, counts, "poisson", standard_deviation=1.0), ValueError, "belongs"),
            (lambda: pl.SPDHG(subsets=3).solve(pl.Composite(pl.L2NormSquared((3,)))), TypeError, "use Reconstruction"), (lambda: pl.SPDHG(subsets=0), ValueError, "integer >= 1")):
        with pytest.raises(kind, match=words):
            call()
