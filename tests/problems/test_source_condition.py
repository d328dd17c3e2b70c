"""Source conditions: published figures, certificates against plain formulas, every form, many images, bad input."""

import math

import numpy as np
import pytest
import torch

import paralift as pl
from paralift.problems.certificate import certain_subgradient, nearest_subgradient

torch.set_num_threads(1)


def images(*shape, seed=0):
    """Piecewise constant: flat regions, where the subdifferential of total variation is large."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape[:-2], shape[-2] // 4, shape[-1] // 4, dtype=torch.float64, generator=g).repeat_interleave(4, -1).repeat_interleave(4, -2)


def test_lasso_of_the_paper():
    """Polynomial regression, degree 25, 50 of 1000 points, seed 13, as in the authors' notebook: 5555 accelerated steps of 1.99 / |Phi|^2 to 1e-12."""
    state = np.random.RandomState(13)
    assert np.linalg.norm(0.1 * state.randn(1000, 1)) == pytest.approx(3.1145297482659386, rel=1e-14)
    Phi = torch.tensor(np.vander(np.linspace(0, 1, 1000), 26, increasing=True)[state.permutation(1000)[:50]])
    w = torch.zeros(26, dtype=torch.float64)
    w[[0, 2, 5]] = torch.tensor([-1.0, 5.0, -3.0], dtype=torch.float64)
    problem = pl.SourceCondition(pl.MatrixOperator(Phi), pl.L1Norm(), w)
    with pytest.warns(UserWarning, match="above the bound"):
        result = pl.FISTA(8000, step=1.99 / float(torch.linalg.matrix_norm(Phi, 2)) ** 2, restart=None, tolerance=1e-12).solve(problem, progress=False)
    found = result.solution
    assert abs(result.iterations - 5555) <= 10                              # the last bits of the matrix product decide when 1e-12 is met
    assert float(found.norm) == pytest.approx(15.327457817190666, rel=1e-9) and float(found.weight(0.1)) == pytest.approx(0.006524239126454746, rel=1e-9)
    assert float(found.distance) < 1e-10
    p = Phi.T @ found.element
    assert p.abs().max() < 1 + 1e-10 and torch.allclose(p[[0, 2, 5]], w[[0, 2, 5]].sign(), atol=1e-10)
    again = pl.FISTA(20000, tolerance=1e-10).solve(problem.reconstruction(problem.range_data(found.element, 0.01), 0.01), progress=False)
    assert (again.x["x"] - w).abs().max() < 1e-4                            # range data give the weights back


def test_shepp_logan_of_the_paper():
    """|v| = 101.7771 for total variation and all of k-space."""
    data = pytest.importorskip("skimage.data")
    u = torch.tensor(data.shepp_logan_phantom())
    problem = pl.SourceCondition(pl.FourierTransform(pl.Space(u.shape, torch.float64)), pl.TotalVariation(), u)
    found = pl.FISTA(150).solve(problem, progress=False, record_every=150).solution
    assert float(found.norm) == pytest.approx(101.7771, rel=1e-4) and float(found.distance) < 1e-3
    assert float(problem.functional(u)) == pytest.approx(float((problem.operator.adjoint(found.element) * u).sum()), rel=1e-6)        # J(u) = <K* v, u>


def palm(u, K, Kt, steps):
    """The authors' iteration, plainly: |v| after so many steps of 1 in v and 1/9 in q."""
    x, y = np.zeros((2, *u.shape)), None
    D = lambda u: np.stack([np.diff(u, axis=0, append=u[-1:]), np.diff(u, axis=1, append=u[:, -1:])])

    def adjoint(p):
        a, b = p[0].copy(), p[1].copy()
        a[-1], b[:, -1] = 0, 0
        return -np.diff(a, axis=0, prepend=0) - np.diff(b, axis=1, prepend=0)

    z = D(u)
    v = 0 * K(u)
    for _ in range(steps):
        v = v - K(Kt(v) - adjoint(x))
        y = x + z
        x = x - (D(adjoint(x) - Kt(v)) + y / 1 - y / np.maximum(np.sqrt((y * y).sum(0)), 1) - z) / 9
    return v, x


@pytest.mark.parametrize("symmetric", [True, False])
def test_steps_are_those_of_palm(symmetric):
    u = images(16, 16)
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4:12 + symmetric, 5:11 + symmetric] = True
    problem = pl.SourceCondition(pl.FourierTransform(pl.Space((16, 16), torch.float64), mask), pl.TotalVariation(), u)
    assert problem.reduced == symmetric and problem.convex
    M = mask.numpy()
    F, Ft = lambda x: M * np.fft.fftshift(np.fft.fft2(x, norm="ortho")), lambda v: np.fft.ifft2(np.fft.ifftshift(M * v), norm="ortho").real
    if symmetric:                                                           # v_40 belongs to the q before
        point = pl.PGD(39, step=1 / 9).solve(problem, progress=False).x
        assert np.allclose(problem.element(point).numpy(), palm(u.numpy(), F, Ft, 40)[0], atol=1e-12)
    else:
        A = problem.analysis[0]
        problem._norms = {"v": 1.0, "q": 9.0}
        point = pl.BCD(40, step="lipschitz").solve(problem, progress=False).x
        v, q = palm(u.numpy(), F, Ft, 40)
        assert np.allclose(problem.element(point).numpy(), v, atol=1e-12) and np.allclose(point["q"].numpy(), q, atol=1e-12) and A.d == 2


@pytest.mark.parametrize("functional", [
    pl.TotalVariation(), pl.TotalVariation(isotropic=False), 0.3 * pl.TotalVariation() + 0.2 * pl.L1Norm(), pl.L1Norm(), pl.Huber(0.5)], ids=repr)
@pytest.mark.parametrize("kind", ["matrix", "fourier"])
def test_gradients_and_zero_value(functional, kind):
    u = images(2, 8, 8)
    space = pl.Space((8, 8), torch.float64)
    K = pl.FourierTransform(space) if kind == "fourier" else pl.Convolution(torch.rand(3, 3, dtype=torch.float64), space)
    problem = pl.SourceCondition(K, functional, u)
    if kind == "matrix":
        pl.testing.check_problem(problem)
    result = pl.FISTA(600, tolerance=1e-9).solve(problem, progress=False)
    assert result.objective > -1e-9
    if kind == "fourier":
        assert result.objective < 1e-9 and (result.solution.distance < 1e-4).all() and result.solution.norm.shape == (2,)
        one = pl.FISTA(600, tolerance=1e-9).solve(pl.SourceCondition(K, functional, u[1]), progress=False).solution
        assert float(one.norm) == pytest.approx(float(result.solution.norm[1]), rel=1e-3)


def test_primal_dual_gives_a_certificate():
    u, g = images(8, 8), torch.Generator().manual_seed(3)
    problem = pl.SourceCondition(pl.FourierTransform(pl.Space((8, 8), torch.float64)), pl.TotalVariation(), u)
    result = pl.PDHG(4000, tolerance=1e-10).solve(problem.primal_dual(), progress=False)
    found = problem.from_dual(result)
    assert (result.x["x"] - u).abs().max() < 1e-8 and float(found.distance) < 1e-7
    again = pl.PDHG(4000, tolerance=1e-9).solve(problem.reconstruction(problem.range_data(found.element, 0.5), 0.5), progress=False)
    assert (again.x["x"] - u).abs().max() < 1e-6
    noise = torch.randn(8, 8, dtype=torch.complex128, generator=g)
    delta = 0.1
    noise = problem.operator(problem.operator.adjoint(noise))
    noise = delta * noise / noise.abs().square().sum().sqrt()
    alpha = float(found.weight(delta))
    x = pl.PDHG(3000, tolerance=1e-9).solve(problem.reconstruction(problem.operator(u) + noise, alpha), progress=False).x["x"]
    p = problem.operator.adjoint(found.element)
    assert 0 <= float(problem.functional(x) - problem.functional(u) - (p * (x - u)).sum()) <= float(found.rate(delta))


@pytest.mark.parametrize("f", [pl.L1Norm(), 0.7 * pl.L1Norm(), pl.GroupL1Norm(), pl.Huber(0.3), pl.L1Norm().translated(torch.ones(3, 4, dtype=torch.float64)),
                               pl.L1Norm() + 0.5 * pl.L2NormSquared(), pl.L1Norm() @ pl.HadamardTransform(pl.Space((3, 4), torch.float64), 1), pl.L2Norm(),
                               pl.WeightedL1Norm(torch.rand(3, 4, dtype=torch.float64)), pl.IndicatorNonnegative(), 2.0 * pl.IndicatorBox(-0.3, 0.4)], ids=repr)
def test_projection_onto_the_subdifferential(f):
    """p in df(z) (f(y) >= f(z) + <p, y - z>), and no other subgradient is nearer to q."""
    g = torch.Generator().manual_seed(0)
    z, q = torch.randn(3, 4, dtype=torch.float64, generator=g), 2 * torch.randn(3, 4, dtype=torch.float64, generator=g)
    z[:, 1], z[0, 2] = 0, 1
    f = f.on(pl.Space((3, 4), torch.float64))
    z = f.prox(z, 1.0) if f(z) == torch.inf else z
    p, gap = nearest_subgradient(f, z, q)
    assert gap < 1e-14
    for scale in (1e-3, 1.0, 10.0):
        y = z + scale * torch.randn(50, 3, 4, dtype=torch.float64, generator=g)
        assert (f(y) >= f(z) + (p * (y - z)).sum((1, 2)) - 1e-12).all()
        other = nearest_subgradient(f, z, y)[0].expand_as(y)                          # more of df(z)
        assert ((q - p) * (other - p)).sum((1, 2)).max() < 1e-12


@pytest.mark.parametrize("f", [pl.NuclearNorm(), pl.SupNorm(), pl.IndicatorL2Ball(3.0), pl.L1Norm()], ids=repr)
def test_certain_subgradients(f):
    """f(y) >= f(z) + <p, y - z> - gap for any q that it is made from, and gap 0 at a subgradient."""
    g = torch.Generator().manual_seed(0)
    z, q = torch.randn(3, 4, dtype=torch.float64, generator=g), 2 * torch.randn(3, 4, dtype=torch.float64, generator=g)
    f = f.on(pl.Space((3, 4), torch.float64))
    z = f.prox(z, 1.0)
    p, gap = certain_subgradient(f, z, q)
    for scale in (1e-3, 1.0, 10.0):
        y = f.prox(z + scale * torch.randn(50, 3, 4, dtype=torch.float64, generator=g), 1e-9)
        assert (f(y) >= f(z) + (p * (y - z)).sum((1, 2)) - gap - 1e-12).all()
    u = f.prox(z + q, 1.0)
    assert certain_subgradient(f, u, z + q - u)[1] < 1e-12 < gap


def test_entries_below_the_tolerance_show_in_the_gap():
    f, z = pl.L1Norm().on(pl.Space(3, torch.float64)), torch.tensor([1.0, 1e-6, 0.0], dtype=torch.float64)
    q = torch.tensor([1.0, -0.5, 0.5], dtype=torch.float64)
    for tolerance, gap, p in ((1e-12, 0.0, [1.0, 1.0, 0.5]), (1e-5, 1.5e-6, [1.0, -0.5, 0.5])):
        found = nearest_subgradient(f, z, q, tolerance)
        assert found[0].tolist() == p and float(found[1]) == pytest.approx(gap, abs=1e-15)


# ---- source elements known in closed form: from q = 0 the methods find 0 where the subdifferential is free
G, SPACE = torch.Generator().manual_seed(5), pl.Space((8, 8), torch.float64)
SCALE = torch.rand(8, 8, dtype=torch.float64, generator=G) + 0.5
SPARSE = torch.randn(8, 8, dtype=torch.float64, generator=G) * (torch.rand(8, 8, generator=G) < 0.3)
RAMP = torch.arange(8.0, dtype=torch.float64).reshape(8, 1) + 2 * torch.arange(8.0, dtype=torch.float64)


def edges(u):
    """D* z/|z|, z the gradient of u."""
    D = pl.Gradient(SPACE)
    z = D(u)
    size = z.square().sum(0, keepdim=True).sqrt()
    return D.adjoint(torch.where(size > 0, z / size.clamp(min=1e-300), 0))


def closed():
    """(K, J, u, v)."""
    G = torch.Generator().manual_seed(6)
    rows = torch.ones(8, 1, dtype=torch.float64) * (torch.arange(8) % 3 == 0).reshape(8, 1) * torch.randn(8, 8, dtype=torch.float64, generator=G)
    low = torch.linalg.svd(torch.randn(8, 8, dtype=torch.float64, generator=G))
    slope = pl.Gradient(SPACE).adjoint(torch.ones(2, 8, 8, dtype=torch.float64))                       # every difference of RAMP is positive: the one subgradient
    kernel = torch.tensor([[0.0, 0.1, 0.0], [0.05, 0.6, 0.15], [0.0, 0.1, 0.0]], dtype=torch.float64)
    blur = pl.Convolution(kernel, SPACE)
    deblurred = torch.fft.ifft2(torch.fft.fft2(slope) / torch.fft.fft2(blur(torch.eye(64, dtype=torch.float64)[0].reshape(8, 8))).conj()).real
    M = torch.randn(12, 64, dtype=torch.float64, generator=G)
    return {"l1, weights": (pl.DiagonalOperator(SCALE), pl.L1Norm(), SPARSE, SPARSE.sign() / SCALE),
            "weighted l1": (pl.DiagonalOperator(SCALE), pl.WeightedL1Norm(2 * SCALE), SPARSE, 2 * SPARSE.sign()),
            "l1 and x >= 0": (pl.DiagonalOperator(SCALE), pl.L1Norm() + pl.IndicatorNonnegative(), SPARSE.abs(), SPARSE.abs().sign() / SCALE),
            "group l1": (pl.DiagonalOperator(SCALE), pl.GroupL1Norm(1), rows, torch.nan_to_num(rows / rows.norm(dim=1, keepdim=True)) / SCALE),
            "nuclear norm": (pl.IdentityOperator(SPACE), pl.NuclearNorm(), low.U[:, :2] @ low.Vh[:2], low.U[:, :2] @ low.Vh[:2]),
            "total variation": (pl.HadamardTransform(SPACE), pl.TotalVariation(), images(8, 8), pl.HadamardTransform(SPACE)(edges(images(8, 8)))),
            "deblurring": (blur, pl.TotalVariation(isotropic=False), RAMP, deblurred),
            "quadratic": (pl.MatrixOperator(M), 0.5 * pl.L2NormSquared(), M.T @ torch.ones(12, dtype=torch.float64), torch.ones(12, dtype=torch.float64))}


def solve(problem, steps=600, tolerance=1e-10):
    method = pl.FISTA(steps, tolerance=tolerance) if len(problem.start()) == 1 else pl.BCD(steps, step="lipschitz", inertia=0.7, tolerance=tolerance)
    return method.solve(problem, progress=False, record_every=20).solution


@pytest.mark.parametrize("name", list(closed()))
def test_closed_forms(name):
    K, J, u, v = closed()[name]
    problem = pl.SourceCondition(K, J, u)
    found = solve(problem)
    assert torch.allclose(found.element, v, atol=1e-8), (found.element - v).abs().max()
    assert float(found.distance) < 1e-8 and float(found.gap) < 1e-8 and float(found.norm) == pytest.approx(float(v.norm()), rel=1e-8)


def below(J, u, p, gap, feasible=lambda y: y):
    """Whether J(y) >= J(u) + <p, y - u> - gap for many y."""
    g = torch.Generator().manual_seed(1)
    y = feasible(torch.cat([u + s * torch.randn(5, *u.shape, dtype=u.dtype, generator=g) for s in (1e-3, 0.1, 1.0)]))
    return bool((J(y) >= J(u) + (p * (y - u)).sum((1, 2)) - gap - 1e-9).all())


def test_haar_wavelets():
    """One coefficient, one sign: |v| is the root of how many are not 0."""
    pytest.importorskip("pywt")
    u, W = images(8, 8), pl.Wavelet(SPACE, "haar", 3)
    found = solve(pl.SourceCondition(pl.FourierTransform(SPACE), pl.L1Norm() @ W, u))
    assert float(found.norm) == pytest.approx(float((W(u).abs() > 1e-12).sum()) ** 0.5, rel=1e-8) and float(found.gap) < 1e-12 and float(found.distance) < 1e-8


def test_nonnegative_images():
    """Total variation with x >= 0, half of k-space: J(y) >= J(u) + <K* v, y - u> up to what the certificate says, for y >= 0."""
    u = images(8, 8).clamp(min=0)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:7, 2:7] = mask[4] = True
    J, found = (pl.TotalVariation() + pl.IndicatorNonnegative()).on(SPACE), {}
    for name, f in (("both", J), ("tv", pl.TotalVariation())):
        problem = pl.SourceCondition(pl.FourierTransform(SPACE, mask), f.on(SPACE), u)
        found[name] = pl.FISTA(600, tolerance=1e-9).solve(problem, progress=False, record_every=50).solution
    p = sum(A.adjoint(q) for A, q in zip((pl.Gradient(SPACE), pl.IdentityOperator(SPACE)), found["both"].subgradient))
    assert below(J, u, p, float(found["both"].gap), lambda y: y.clamp(min=0)) and (found["both"].subgradient[1] <= 0).all()
    assert float(found["both"].distance) < 1e-3 and float(found["tv"].distance) > 0.1                  # only the larger subdifferential has a source element
    assert float(found["both"].distance) == pytest.approx(float((pl.FourierTransform(SPACE, mask).adjoint(found["both"].element) - p).norm()), abs=1e-12)


def test_radon():
    """An ill-conditioned operator, so the distance falls slowly; what it says holds: |J(u) - <K* v, u>| <= distance |u|, J(y) >= J(u) + <K* v, y - u> - distance |y - u|."""
    K, u, J = pl.RayTransform((8, 8), torch.linspace(0, math.pi, 31)[:-1], dtype=torch.float64), images(8, 8), pl.TotalVariation()
    found = pl.FISTA(400).solve(pl.SourceCondition(K, J, u), progress=False, record_every=50).solution
    p, distance = K.adjoint(found.element), float(found.distance)
    assert 0 < distance < 1 and abs(float(J(u)) - float((p * u).sum())) <= distance * float(u.norm())
    y = u + torch.randn(50, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 0, 50, dtype=torch.float64).reshape(-1, 1, 1)
    assert (J(y) >= J(u) + (p * (y - u)).sum((1, 2)) - distance * (y - u).square().sum((1, 2)).sqrt()).all()


# ---- TGV, which minimises over a field of its own
KINK = (torch.arange(12.0, dtype=torch.float64) - 5).clamp(min=0).reshape(12, 1).expand(12, 12).contiguous()
TGV, LARGE = pl.TotalGeneralisedVariation((0.5, 1.0), tolerance=1e-7), pl.Space((12, 12), torch.float64)


@pytest.mark.parametrize("masked", [False, True])
def test_total_generalised_variation(masked):
    """A kink: w = D u, so TGV(u) is alpha_0 times the kink's length; p is below TGV by its gap, <p, u> = TGV(u) up to it."""
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[1:, 4:9] = True                                                       # symmetric about the zero frequency
    K = pl.FourierTransform(LARGE, mask if masked else None)
    assert float(TGV(KINK)) == pytest.approx(0.5 * 12, rel=1e-6)
    problem = pl.SourceCondition(K, TGV, KINK)
    assert problem.reduced
    found = solve(problem)
    p = K.adjoint(found.element)
    assert float(found.distance) < 1e-7 and float(found.gap) < 1e-6 and found.element.shape == (12, 12)
    assert float((p * KINK).sum()) == pytest.approx(6.0, abs=1e-5) and below(TGV, KINK, p, float(found.gap) + 1e-5)
    if not masked:
        again = pl.PDHG(400).solve(problem.reconstruction(problem.range_data(found.element, 0.1), 0.1), progress=False, record_every=100)
        assert (again.solution - KINK).abs().max() < 1e-2                      # range data give the image back


def test_sums_of_several_hidden_unknowns():
    other = (0.3 * pl.TotalGeneralisedVariation((1.0, 1.0), tolerance=1e-6)).translated(torch.ones(12, 12, dtype=torch.float64))
    J = 0.5 * TGV + 0.2 * pl.TotalVariation() + other
    problem = pl.SourceCondition(pl.FourierTransform(LARGE), J, KINK)
    pl.testing.check_problem(problem)
    found = solve(problem)
    assert len(found.subgradient) == 5 and float(found.distance) < 1e-4 and float(found.gap) < 1e-3
    assert float((problem.operator.adjoint(found.element) * KINK).sum()) == pytest.approx(float(J(KINK)), abs=1e-2)


def test_nothing_is_printed_that_was_not_computed():
    class Unknown(pl.Functional):
        """The l1 norm, by its value and prox only."""

        def _value(self, x):
            return x.abs().sum((-2, -1))

        def _prox(self, x, sigma):
            return x - x.clamp(-sigma, sigma)

    problem = pl.SourceCondition(pl.IdentityOperator(pl.Space((4, 4), torch.float64)), Unknown(), images(4, 4))
    found = pl.PGD(20).solve(problem, progress=False).solution
    assert found.distance is None and found.gap is None and "not computed" in repr(found) and "lower bound" in repr(found)


NAN = torch.full((4, 4), math.nan, dtype=torch.float64)
K = pl.IdentityOperator(pl.Space((4, 4), torch.float64))


class NoAdjoint(pl.LinearOperator):
    def _call(self, x):
        return x


@pytest.mark.parametrize("arguments,error,text", [
    ((torch.eye(4), pl.L1Norm(), images(4, 4)), TypeError, "needs a LinearOperator"),
    ((NoAdjoint(K.domain, K.domain), pl.L1Norm(), images(4, 4)), TypeError, "LinearOperator with an adjoint"),
    ((K, "tv", images(4, 4)), TypeError, "needs a Functional"),
    ((K, pl.L1Norm() @ pl.from_module(torch.nn.Tanh(), K.domain), images(4, 4)), TypeError, "not convex|not linear"),
    ((K, pl.MoreauEnvelope(pl.L1Norm()) + pl.L1Norm(), NAN), ValueError, "NaN"),
    ((K, pl.L1Norm(), images(8, 8)), ValueError, "trailing axes"),
    ((K, pl.L1Norm(), images(4, 4).float()), TypeError, "convert one"),
    ((K, pl.IndicatorNonnegative(), -images(4, 4).abs()), ValueError, "is infinite"),
])
def test_bad_input(arguments, error, text):
    with pytest.raises(error, match=text):
        pl.SourceCondition(*arguments)
    with pytest.raises(ValueError, match="start with"):
        pl.SourceCondition(K, pl.TotalVariation(), images(4, 4), start={"q": images(4, 4)})
