"""Source conditions: published figures, certificates against plain formulas, every form, many images, bad input."""

import math

import numpy as np
import pytest
import torch

import paralift as pl
from paralift.problems.certificate import project_subdifferential

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
                               pl.L1Norm() + 0.5 * pl.L2NormSquared(), pl.L1Norm() @ pl.HadamardTransform(pl.Space((3, 4), torch.float64), 1)], ids=repr)
def test_projection_onto_the_subdifferential(f):
    """p in df(z) (f(y) >= f(z) + <p, y - z>), and no other subgradient is nearer to q."""
    g = torch.Generator().manual_seed(0)
    z, q = torch.randn(3, 4, dtype=torch.float64, generator=g), 2 * torch.randn(3, 4, dtype=torch.float64, generator=g)
    z[:, 1], z[0, 2] = 0, 1
    f = f.on(pl.Space((3, 4), torch.float64))
    p = project_subdifferential(f, z, q)
    for scale in (1e-3, 1.0, 10.0):
        y = z + scale * torch.randn(50, 3, 4, dtype=torch.float64, generator=g)
        assert (f(y) >= f(z) + (p * (y - z)).sum((1, 2)) - 1e-12).all()
        other = project_subdifferential(f, z, y).expand_as(y)                         # more of df(z)
        assert ((q - p) * (other - p)).sum((1, 2)).max() < 1e-12
    assert project_subdifferential(pl.NuclearNorm(), z, q) is None


def test_nothing_is_printed_that_was_not_computed():
    problem = pl.SourceCondition(pl.IdentityOperator(pl.Space((4, 4), torch.float64)), pl.NuclearNorm(), images(4, 4))
    found = pl.PGD(20).solve(problem, progress=False).solution
    assert found.distance is None and "not computed" in repr(found) and "lower bound" in repr(found)


NAN = torch.full((4, 4), math.nan, dtype=torch.float64)
K = pl.IdentityOperator(pl.Space((4, 4), torch.float64))


class NoAdjoint(pl.LinearOperator):
    def _call(self, x):
        return x


@pytest.mark.parametrize("arguments,error,text", [
    ((torch.eye(4), pl.L1Norm(), images(4, 4)), TypeError, "LinearOperator with an adjoint"),
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
