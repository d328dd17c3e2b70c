"""What the methods' speed rests on: products counted, images of extrapolated points, searched steps and their bounds, the prox of the nuclear norm."""

import math

import pytest
import torch
from problems import instance

import paralift as pl

D = torch.float64


class Counting(pl.MatrixOperator):
    """A matrix that counts its products."""

    def __init__(self, matrix):
        super().__init__(matrix)
        self.forward = self.backward = 0

    def _call(self, x):
        self.forward += 1
        return super()._call(x)

    def _adjoint(self, y):
        self.backward += 1
        return super()._adjoint(y)


def data(rows=40, columns=120, seed=0):
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(rows, columns, dtype=D, generator=g)
    return A, A[:, :5].sum(1) + 0.1 * torch.randn(rows, dtype=D, generator=g)


def lasso(op, b):
    return pl.Composite(0.5 * pl.L2NormSquared().translated(b) @ op, 4.0 * pl.L1Norm())


def logistic(op, b):
    return pl.Composite(pl.LogisticLoss(b.sign()) @ op, 1.0 * pl.L1Norm())


@pytest.mark.parametrize("make", [lasso, logistic])
def test_fista_takes_two_products_an_iteration_and_records_for_none(make):
    A, b = data()
    op, scales = Counting(A), [1.0]
    pl.FISTA(50).solve(make(op, b), callback=lambda r: scales.append(r.state["scale"]))
    failed = sum(round(math.log(1.1 * before / after, 2)) for before, after in zip(scales, scales[1:]))           # every failure halves the step
    assert 0 < failed < 15
    assert op.backward <= 50 + failed + 1 and op.forward <= 50 + failed + 3         # and the first step's


@pytest.mark.parametrize("make", [lasso, logistic])
def test_extrapolated_images_are_those_of_the_operator(make):
    A, b = data()
    problem = make(pl.MatrixOperator(A), b)
    F, fresh = problem.smooth_part, make(pl.MatrixOperator(A), b).smooth_part
    g = torch.Generator().manual_seed(1)
    u, v = torch.randn(2, 120, dtype=D, generator=g)
    w = problem.extrapolate({"x": u}, {"x": v}, 0.7, ["x"])["x"]
    assert torch.allclose(w, v + 0.7 * (v - u), atol=1e-12)
    for point in (u, v, w):
        assert torch.allclose(F.image(point), fresh._map(point), atol=1e-11)
        assert torch.allclose(F(point), fresh(point.clone()), rtol=1e-12)
    v.add_(1.0)                                                                       # a kept image does not outlive its point
    assert torch.allclose(F.gradient(v), fresh.gradient(v.clone()), atol=1e-11)


def test_the_excess_of_least_squares_is_its_bregman_distance():
    A, b = data()
    problem = lasso(pl.MatrixOperator(A), b)
    g = torch.Generator().manual_seed(1)
    u, v = torch.randn(2, 120, dtype=D, generator=g)
    lin, d = problem.linearise({"x": u}), {"x": v - u}
    own = float(problem.excess({"x": v}, {"x": u}, lin, d)[0])
    assert abs(own - float(0.5 * (A @ (v - u)).square().sum())) < 1e-10 * own
    general, rounding = pl.Problem.excess(problem, {"x": v}, {"x": u}, lin, d)
    assert abs(own - float(general)) < 1e-10 * own and float(rounding) < 1e-10 * own


def test_steps_stop_growing_where_rounding_hides_the_test():
    A, b = data()
    problem = logistic(pl.MatrixOperator(A), b)
    bound = problem.lipschitz(None)["x"]
    result = pl.FISTA(3000).solve(problem)
    assert result.state["scale"] * result.state["steps"]["x"] < 1e6 / bound and result.residual < 1e-6


@pytest.mark.parametrize("a", [3.0, 6.0])
def test_searched_fista_keeps_its_theorems_bound(a):
    """E_k - E* <= |x_0 - x*|^2 / (2 tau_k t_k^2), with the steps that the search took; t_k as large as fixed steps 1/(2 L) would make it, at least."""
    A, b = data()
    problem = lasso(pl.MatrixOperator(A), b)
    best = pl.FISTA(4000, tolerance=1e-12).solve(problem)
    L, first, seen = float(torch.linalg.matrix_norm(A, 2)) ** 2, next(iter(pl.FISTA().start(problem)["steps"].values())), []
    pl.FISTA(150, restart=None, a=a).solve(problem, callback=lambda r: seen.append((r.objective, r.state["scale"] * first, r.state["t"])))
    size = float(best.x["x"].square().sum())
    for k, (value, tau, t) in enumerate(seen):
        assert value - best.objective <= size / (2 * tau * t * t) * (1 + 1e-9) + 1e-9
        assert tau >= 0.5 / L and tau * t * t >= (1 + k / a) ** 2 * 0.5 / L * (1 - 1e-9)


def test_searched_fista_needs_no_bound_on_the_gradient():
    """Poisson data: grad F has no Lipschitz constant, the search does without."""
    g = torch.Generator().manual_seed(0)
    A, b = torch.rand(30, 10, dtype=D, generator=g), torch.rand(30, dtype=D, generator=g) + 1
    problem = pl.Composite(pl.KullbackLeibler(b) @ pl.MatrixOperator(A), pl.IndicatorNonnegative(), start=torch.ones(10, dtype=D))
    result = pl.FISTA(3000, tolerance=1e-9).solve(problem)
    assert result.status is pl.Status.CONVERGED


# ---- nuclear norm
@pytest.mark.parametrize("dtype", [torch.float32, D, torch.complex128])
@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (3, 8, 12)])
@pytest.mark.parametrize("sigma", [3.0, 1e-2, 1e-5, 1e-9, 100.0])
def test_the_nuclear_prox_thresholds_singular_values(dtype, shape, sigma):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, dtype=dtype, generator=g) * torch.logspace(0, -5, shape[-1], dtype=D).to(dtype)
    U, s, Vh = torch.linalg.svd(x.to(torch.complex128), full_matrices=False)
    exact = (U * (s - sigma).clamp(min=0).unsqueeze(-2)) @ Vh
    assert float((pl.NuclearNorm().prox(x, sigma) - exact).abs().max()) <= (1e-10 if dtype != torch.float32 else 1e-5) * float(s.max())


# ---- SAGA's search
def scaled(n=400):
    """Logistic regression whose inputs differ in size by 100."""
    g = torch.Generator().manual_seed(0)
    X = torch.randn(n, 20, dtype=D, generator=g) * torch.logspace(0, -2, 20, dtype=D)
    y = (X @ torch.logspace(0, 2, 20, dtype=D) + torch.randn(n, dtype=D, generator=g) > 0).to(D)
    return X, pl.linear_model(X, y, loss="logistic", regulariser=1e-3 * pl.L1Norm(), bias=True)


def test_searched_saga_needs_at_most_a_fifth_of_the_passes_where_inputs_differ_in_size():
    _, problem = scaled()
    best = pl.FISTA(20000, tolerance=1e-10).solve(problem, record_every=50).objective

    def passes(step):
        return pl.SAGA(1000, step=step, tolerance=pl.Tolerance(objective=best * (1 + 1e-4))).solve(problem).iterations

    assert passes("auto") <= 0.2 * passes("lipschitz")


def test_saga_searches_below_the_true_smoothness():
    """ell never passes 1.5 times the largest smoothness, in the metric, of a minibatch of that size."""
    X, problem = scaled()
    largest = []
    result = pl.SAGA(20, batch_size=4).solve(problem, callback=lambda r: largest.append(r.state["ell"]))
    m = torch.cat([result.state["metric"]["weight"].flatten(), torch.ones(1, dtype=D)])
    rows = torch.cat([X, torch.ones(len(X), 1, dtype=D)], 1)
    assert 0 < max(largest) <= 1.5 * 0.25 * float((rows.square() / m).sum(1).max())
    assert isinstance(pl.SAGA(1, step="lipschitz").solve(problem).state["steps"]["weight"], float)


def test_searched_saga_resumes_exactly(tmp_path):
    _, problem = scaled()
    whole, half = pl.SAGA(6).solve(problem), pl.SAGA(3).solve(problem, checkpoint=tmp_path / "half")
    for start in (half, tmp_path / "half"):
        again = pl.SAGA(6).solve(problem, resume=start)
        assert again.history["objective"] == whole.history["objective"] and all(torch.equal(again.x[k], whole.x[k]) for k in whole.x)


def test_searched_fista_resumes_exactly(tmp_path):
    A, b = data()
    for make in (lasso, logistic):
        problem = make(pl.MatrixOperator(A), b)
        whole, half = pl.FISTA(60).solve(problem), pl.FISTA(31).solve(problem, checkpoint=tmp_path / "half")
        for start in (half, tmp_path / "half"):
            again = pl.FISTA(60).solve(make(pl.MatrixOperator(A), b), resume=start)
            assert again.history["objective"] == whole.history["objective"] and torch.equal(again.x["x"], whole.x["x"])


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 1.0, 1e2])
@pytest.mark.parametrize("name", ["poisson", "logistic", "nonnegative"])
def test_pdhg_finds_the_units_of_the_data(name, scale):
    """K times a number, x over it: the same optimum, reached in about as many iterations (thousands where residuals in two units were compared)."""
    problem, best = instance(name, "split")
    (H, K), = problem.linear

    def reached(result):
        if result.objective - best <= 1e-6 * best:
            raise StopIteration

    scaled = pl.Composite(None, scale * problem.nonsmooth_part, H @ (scale * K), start=problem.start()["x"] / scale)
    assert pl.PDHG(120).solve(scaled, callback=reached).status is pl.Status.CALLBACK
