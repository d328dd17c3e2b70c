"""Conjugate gradients, MLEM and OSEM, each by its theorem; the weight rules by what they promise."""

import problems
import pytest
import scipy.optimize
import torch

import paralift as pl

T = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- conjugate gradients
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_conjugate_gradients_solve_the_normal_equations(dtype):
    """Batched, with a quadratic regulariser through an operator and one of the image itself, against a dense solve; the recorded objective is the problem's."""
    g = generator()
    M, b = torch.randn(30, 12, dtype=dtype, generator=g), torch.randn(3, 30, dtype=dtype, generator=g)
    D = pl.MatrixOperator(torch.diff(torch.eye(12, dtype=dtype), dim=0))
    problem = pl.Reconstruction(pl.MatrixOperator(M), b, regulariser=0.3 * pl.L2NormSquared() @ D + 0.2 * pl.L2NormSquared())
    result = pl.ConjugateGradient(60, tolerance=1e-11).solve(problem)
    H = M.mH @ M + 0.6 * D.matrix.mH @ D.matrix + 0.4 * torch.eye(12, dtype=dtype)
    exact = torch.linalg.solve(H, (M.mH @ b.mT)).mT
    assert result.status is pl.Status.CONVERGED and (result.solution - exact).abs().max() < 1e-11
    assert abs(result.objective - float(problem.value(result.x))) < 1e-12 * float(problem.value(problem.start()))
    history = result.history["objective"]
    assert all(after <= before * (1 + 1e-12) for before, after in zip(history, history[1:]))


def test_conjugate_gradients_keep_their_rate():
    """|x_k - x*|_H <= 2 q^k |x_0 - x*|_H; as many steps as H has distinct eigenvalues suffice; the exact inverse as preconditioner needs one."""
    Q = torch.linalg.qr(torch.randn(40, 40, dtype=T, generator=generator()))[0]
    values = torch.logspace(0, 2, 40, dtype=T)
    A = values.sqrt()[:, None] * Q
    b = torch.randn(40, dtype=T, generator=generator(1))
    best, H = torch.linalg.solve(A, b), A.T @ A
    distance, rows, problem = (lambda x: float((x - best) @ H @ (x - best)) ** 0.5), [], pl.Reconstruction(pl.MatrixOperator(A), b)
    pl.ConjugateGradient(30).solve(problem, callback=lambda r: rows.append(distance(r.x["x"])))
    q = (100**0.5 - 1) / (100**0.5 + 1)
    assert all(d <= 2 * q ** (k + 1) * distance(torch.zeros(40, dtype=T)) for k, d in enumerate(rows))
    assert pl.ConjugateGradient(1, preconditioner=pl.MatrixOperator(torch.linalg.inv(H))).solve(problem).residual < 1e-8
    three = pl.MatrixOperator(torch.tensor([1.0, 2.0, 5.0], dtype=T).repeat(10)[:, None] * torch.linalg.qr(torch.randn(30, 30, dtype=T, generator=generator()))[0])
    assert pl.ConjugateGradient(3).solve(pl.Reconstruction(three, b[:30])).residual < 1e-9


def test_conjugate_gradients_refuse_what_is_not_quadratic():
    problem = pl.Reconstruction(pl.MatrixOperator(torch.eye(4)), torch.ones(4), regulariser=pl.L1Norm())
    with pytest.raises(TypeError, match="not quadratic; use FISTA"):
        pl.ConjugateGradient().solve(problem)
    with pytest.raises(TypeError, match="needs an Operator, or None"):
        pl.ConjugateGradient(preconditioner=3)


# ---- MLEM, OSEM
def counts(background, views=12, n=10):
    A = pl.RayTransform((n, n), torch.pi * torch.arange(views, dtype=T) / views, bins=15)
    truth = torch.zeros(n, n, dtype=T)
    truth[2:7, 3:8], truth[6:9, 2:5] = 6.0, 2.0
    A.background = None if background is None else torch.full(A.range.shape, background, dtype=T)
    b = torch.poisson(A(truth) + (background or 0.0), generator=generator())
    return A, torch.where(A(torch.ones_like(truth)) + (background or 0.0) > 1e-9, b, 0)


@pytest.mark.parametrize("background", [None, 0.7])
def test_mlem_falls_at_its_rate_to_the_optimum(background):
    """F never rises; the iteration is the textbook's; for r = 0, F_k - F* <= KL(s x*, s x_0) / k; L-BFGS-B of scipy knows F*."""
    A, b = counts(background)
    problem, r = pl.Reconstruction(A, b, "poisson"), background or 0.0
    result = pl.MLEM(400).solve(problem)
    history = result.history["objective"]
    assert all(after <= before + 1e-10 for before, after in zip(history, history[1:])) and len(history) == 400
    x = problem.start()["x"]
    seen = A.adjoint(torch.ones_like(b))
    for _ in range(3):
        x = x * A.adjoint(torch.where(b > 0, b / (A(x) + r), 0)) / seen
    assert torch.allclose(pl.MLEM(3).solve(problem).solution, x, rtol=1e-12)

    value = lambda v: float(problem.value({"x": torch.as_tensor(v).reshape(10, 10)}))
    slope = lambda v: problem.prox_form().gradient({"x": torch.as_tensor(v).reshape(10, 10)})["x"].reshape(-1).numpy()
    found = scipy.optimize.minimize(value, problem.start()["x"].reshape(-1).numpy(), jac=slope, method="L-BFGS-B", bounds=[(1e-12, None)] * 100,
                                    options={"maxiter": 3000, "ftol": 0, "gtol": 1e-10})
    assert pl.MLEM(6000).solve(problem, record_every=6000).objective == pytest.approx(found.fun, rel=1e-5)
    if background is None:
        first, best = problem.start()["x"], torch.as_tensor(found.x).reshape(10, 10)
        first = first * b.sum() / (seen * first).sum()
        bound = float((seen * (torch.special.xlogy(best, best / first) - best + first)).sum())
        assert all(v - found.fun <= bound / k + 1e-6 for k, v in enumerate(history, 1))


def test_osem_is_mlem_on_subsets_and_faster_at_first():
    A, b = counts(0.7)
    problem = pl.Reconstruction(A, b, "poisson")
    assert torch.equal(pl.OSEM(5, subsets=1).solve(problem).solution, pl.MLEM(5).solve(problem).solution)
    four = pl.OSEM(5, subsets=4).solve(problem)
    assert four.objective < pl.MLEM(12).solve(problem).objective < pl.MLEM(5).solve(problem).objective
    x = problem.start()["x"]
    for j in range(4):
        rows = A.rows(slice(j, None, 4))
        part = b[j::4]
        x = x * rows.adjoint(torch.where(part > 0, part / (rows(x) + 0.7), 0)) / rows.adjoint(torch.ones_like(part)).clamp(min=1e-9)
    assert torch.allclose(pl.OSEM(1, subsets=4).solve(problem).solution, x, rtol=1e-10)


def test_voxels_that_nothing_sees_become_zero():
    A = torch.rand(6, 4, dtype=T, generator=generator()) + 0.1
    A[:, 2] = 0
    result = pl.MLEM(20).solve(pl.Reconstruction(pl.MatrixOperator(A), torch.ones(6, dtype=T), "poisson"))
    assert result.solution[2] == 0 and (result.solution[[0, 1, 3]] >= 0).all() and torch.isfinite(result.solution).all()


def test_mlem_takes_a_composite_and_refuses_the_rest():
    problem, best = problems.poisson()[0]["smooth"], problems.poisson()[1]
    assert pl.MLEM(3000).solve(problem, record_every=100).objective < 1.001 * best
    A, b = counts(None)
    for given, words in ((pl.Reconstruction(A, b), "needs counts"), (pl.Reconstruction(A, b, "poisson", pl.TotalVariation()), "use PDHG"),
                         (pl.Composite(pl.KullbackLeibler(b) @ A, start=-torch.ones(10, 10, dtype=T)), "start > 0")):
        with pytest.raises((TypeError, ValueError), match=words):
            pl.MLEM().solve(given)
    with pytest.raises(TypeError, match="gives no such subsets"):
        pl.OSEM(subsets=3).solve(problem)
    with pytest.raises(ValueError, match="integer >= 1"):
        pl.OSEM(subsets=0)


# ---- weights
def denoising(level=0.3, n=16):
    x = torch.zeros(n, n, dtype=T)
    x[3:10, 4:12] = 1
    return pl.Reconstruction(pl.IdentityOperator(pl.Space((n, n), T)), x + level * torch.randn(n, n, dtype=T, generator=generator()), regulariser=pl.TotalVariation()), x


def test_discrepancy_is_met():
    problem, truth = denoising()
    weight, result, table = pl.discrepancy_weight(problem, 0.3, pl.FISTA(3), start=1e-2, tolerance=0.01)
    misfit = float((result.solution - problem.data).square().sum())
    assert abs(misfit / (0.09 * 256) - 1) < 0.01 and table["weight"][-1] == weight and table["target"][-1] == pytest.approx(0.09 * 256)
    order = sorted(range(len(table["weight"])), key=table["weight"].__getitem__)
    assert all(table["discrepancy"][i] <= table["discrepancy"][j] * (1 + 1e-3) for i, j in zip(order, order[1:]))
    assert (result.solution - truth).norm() < 0.6 * (problem.data - truth).norm()
    whitened = pl.Reconstruction(problem.operator, problem.data, regulariser=pl.TotalVariation(), standard_deviation=torch.full((16, 16), 0.3, dtype=T))
    assert pl.discrepancy_weight(whitened, solver=pl.FISTA(3), start=3.0, tolerance=0.01).weight == pytest.approx(weight / 0.09, rel=0.1)


def test_poisson_discrepancy_and_quasi_optimality():
    A, b = counts(5.0)
    problem = pl.Reconstruction(A, b, "poisson", 0.1 * pl.TotalVariation())
    image = pl.discrepancy_weight(problem, solver=pl.PDHG(60), tolerance=0.02).result.solution
    assert abs(2 * float(problem._f(A(image))) / b.numel() - 1) < 0.02
    problem, _ = denoising()
    grid = [0.02 * 2**k for k in range(8)]
    weight, result, table = pl.quasi_optimality_weight(problem, grid, pl.FISTA(8))
    assert table["weight"] == pytest.approx(grid) and table["change"].index(min(table["change"])) == grid.index(weight)
    near = [pl.FISTA(8).solve(problem.reweighted(a)).solution for a in (weight, 2 * weight)]
    assert torch.allclose(near[0], result.solution, atol=2e-2) and float((near[1] - near[0]).norm()) == pytest.approx(min(table["change"]), rel=0.1)


def test_discrepancy_gives_up_where_it_levels_off(monkeypatch):
    """Inconsistent data: the misfit falls to that of least squares, far above the target, and no further weights are tried."""
    from paralift.solvers import weights

    m, tried, solve = torch.randn(30, 3, dtype=T, generator=generator()), [], weights._solve
    monkeypatch.setattr(weights, "_solve", lambda *pair: tried.append(1) or solve(*pair))
    problem = pl.Reconstruction(pl.MatrixOperator(m), torch.randn(30, dtype=T, generator=generator()), regulariser=pl.L1Norm())
    with pytest.raises(ValueError, match="cannot be fitted so closely"):
        pl.discrepancy_weight(problem, 0.1, pl.FISTA(200), start=100.0)
    assert 5 < len(tried) < 16


def test_weights_say_what_is_missing():
    problem, _ = denoising()
    for call, words in ((lambda: pl.discrepancy_weight(problem), "standard deviation"), (lambda: pl.discrepancy_weight(problem, -1.0), "positive"),
                        (lambda: pl.quasi_optimality_weight(problem, [1, 2, 5]), "constant ratio"),
                        (lambda: pl.discrepancy_weight(problem, 50.0, pl.FISTA(2), max_solves=4), "noise level too high")):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match="with a regulariser"):
        pl.discrepancy_weight(pl.Reconstruction(problem.operator, problem.data), 0.3)
