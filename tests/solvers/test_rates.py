"""Measured rates and bounds against the theorems: the constant, the factor, and what the limit is."""

import math
from functools import cache

import numpy as np
import pytest
import scipy.optimize
import torch
from problems import T, instance

import paralift as pl

dot = lambda a, b: float(torch.sum(a * b))
square = lambda a: float(a.square().sum())


def rate(values, floor=1e-13):
    """The factor a step, fitted to the logarithms of the second half of the values above floor * the first."""
    kept = [v for v in values if v > floor * values[0]]
    kept = kept[len(kept) // 2:]
    assert len(kept) >= 5, "too few values to fit a rate to"
    return math.exp(np.polyfit(range(len(kept)), np.log(kept), 1)[0])


def watch(solver, problem, see):
    """see(result) after every step, the start excluded."""
    values = []
    solver.solve(problem, callback=lambda r: values.append(see(r)))
    return values


@cache
def solution(name, form="smooth", tolerance=1e-13):
    """The point where FISTA ends (that it is the optimum is checked in test_optima.py)."""
    return pl.FISTA(6000, tolerance=tolerance).solve(instance(name, form)[0], record_every=20).x["x"]


def strongly_convex():
    """(lasso with mu |.|^2/2 <= F <= L |.|^2/2 in curvature, mu, L, its solution)."""
    problem = instance("lasso", "smooth")[0]
    values = torch.linalg.eigvalsh(problem.smooth_part.op.matrix.T @ problem.smooth_part.op.matrix)
    return problem, float(values[0]), float(values[-1]), solution("lasso")


# ---- proximal gradient
@pytest.mark.parametrize("choice", ["1/L", "2/(L + mu)"])
def test_pgd_contracts(choice):
    """|u_{k+1} - u*| <= max(|1 - tau mu|, |1 - tau L|) |u_k - u*|: a gradient step contracts by this factor, a prox does not expand."""
    problem, mu, L, best = strongly_convex()
    tau = 1 / L if choice == "1/L" else 2 / (L + mu)
    theorem = max(abs(1 - tau * mu), abs(1 - tau * L))
    distances = watch(pl.PGD(60, step=tau), problem, lambda r: math.sqrt(square(r.x["x"] - best)))
    assert all(b <= theorem * a * (1 + 1e-9) for a, b in zip([math.sqrt(square(best)), *distances], distances)) and rate(distances) <= theorem


@pytest.mark.parametrize("solver,a", [(pl.PGD(400), None), (pl.BCD(200), None), (pl.FISTA(200, restart=None), 3.0), (pl.FISTA(200, a=2.5, restart=None), 2.5)])
def test_convex_bounds(solver, a):
    """E_k - E* <= |u_0 - u*|^2 / (2 tau k) (PGD; BCD on a single block is PGD), a^2 |u_0 - u*|^2 / (2 tau (k + a - 1)^2) (FISTA), on the dual of TV denoising and on
    Nesterov's quadratic, which is hard for first-order methods: no plain gradient method keeps FISTA's bound there."""
    n = 60
    Q = torch.diag(torch.full((n,), 2.0, dtype=torch.float64)) - torch.diag(torch.ones(n - 1, dtype=torch.float64), 1) - torch.diag(torch.ones(n - 1, dtype=torch.float64), -1)
    hard = pl.Composite(pl.QuadraticForm(Q, -torch.eye(n, dtype=torch.float64)[0]))
    cases = [(*instance("tv", "dual"), solution("tv", "dual")), (hard, -0.5 * (1 - 1 / (n + 1)), 1 - torch.arange(1, n + 1, dtype=torch.float64) / (n + 1))]
    for problem, best, u in cases:
        scale = square(u) * problem.lipschitz(None)["x"] / 2
        for k, gap in enumerate(watch(solver, problem, lambda r: r.objective - best), 1):
            assert gap <= scale * (1 / k if a is None else (a / (k + a - 1)) ** 2) + 1e-9
    assert a is None or watch(pl.PGD(200), hard, lambda r: r.objective - best)[-1] > scale * (a / (199 + a)) ** 2


@pytest.mark.parametrize("restart", ["gradient", "function"])
def test_restarted_fista_is_not_slower_than_the_best_fixed_restart(restart):
    """E_k - E* <= 9 L |u_0 - u*|^2 / (2 (k + 2)^2) <= 9 (L/mu) (E_0 - E*) / (k + 2)^2, so a restart every 3 e sqrt(L/mu) steps divides E - E* by e^2."""
    g = torch.Generator().manual_seed(0)
    L, mu = 1.0, 1e-3
    Q = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64, generator=g))[0]
    Q = Q @ torch.diag(torch.logspace(math.log10(mu), 0, 40, dtype=torch.float64)) @ Q.T
    problem = pl.Composite(pl.QuadraticForm(0.5 * (Q + Q.T), torch.randn(40, dtype=torch.float64, generator=g)), 0.1 * pl.L1Norm())
    best = pl.FISTA(20000, tolerance=1e-13).solve(problem).objective
    gaps = watch(pl.FISTA(1500, step=1 / L, restart=restart), problem, lambda r: r.objective - best)
    assert rate(gaps, 1e-12) <= math.exp(-2 / (3 * math.e) * math.sqrt(mu / L))


@pytest.mark.parametrize("condition", [1e2, 1e4])
def test_heavy_ball_on_a_quadratic(condition):
    """u_{k+1} = u_k - tau (Q u_k + b) + beta (u_k - u_{k-1}): the factor is the largest root of z^2 - (1 + beta - tau lambda) z + beta over the spectrum."""
    spectrum = torch.logspace(-math.log10(condition), 0, 12, dtype=torch.float64)
    problem = pl.Composite(pl.QuadraticForm(torch.diag(spectrum), spectrum))
    for tau in (1.0, 3.5):
        theorem = max(abs(np.roots([1, -(1.9 - tau * s), 0.9])).max() for s in spectrum.tolist())
        distances = watch(pl.PGD(3000, step=tau, acceleration="heavy_ball"), problem, lambda r: math.sqrt(square(r.x["x"] + 1)))
        assert rate(distances) <= theorem * 1.001


def test_heavy_ball_has_a_lyapunov_function():
    """E(u_k) + delta |u_k - u_{k-1}|^2 falls by gamma |u_k - u_{k-1}|^2 a step, delta = (1 - beta/2)/tau - L/2, gamma = (1 - beta)/tau - L/2, for tau < 2 (1 - beta)/L (iPiano)."""
    problem, _, L, _ = strongly_convex()
    tau, beta = 0.19 / L, 0.9
    delta, gamma, points = (1 - beta / 2) / tau - L / 2, (1 - beta) / tau - L / 2, [problem.start()["x"]]
    values = [float(problem.value(problem.start())), *watch(pl.PGD(300, step=tau, acceleration="heavy_ball"), problem, lambda r: points.append(r.x["x"]) or r.objective)]
    moves = [0.0] + [square(b - a) for a, b in zip(points, points[1:])]
    for k in range(1, len(values)):
        assert values[k] + delta * moves[k] <= values[k - 1] + delta * moves[k - 1] - gamma * moves[k] + 1e-10


class Blocks(pl.Problem):
    """|sum_b A_b u_b - c|^2 / 2 over the blocks u_b, columns of A."""

    convex = True

    def __init__(self, matrix, data, size):
        self.parts, self.data = {f"u{i}": part for i, part in enumerate(matrix.split(size, 1))}, data

    def start(self):
        return {k: a.new_zeros(a.shape[1]) for k, a in self.parts.items()}

    def linearise(self, point, blocks=None):
        r = sum(a @ point[k] for k, a in self.parts.items()) - self.data
        return pl.problems.problem.Linearisation(0.5 * r @ r, {k: self.parts[k].T @ r for k in blocks or self.parts})

    def nonsmooth_value(self, point):
        return self.data.new_zeros(())

    def prox(self, point, steps):
        return point

    def lipschitz(self, point, blocks=None):
        return {k: float(torch.linalg.matrix_norm(self.parts[k], 2)) ** 2 for k in blocks or self.parts}


def test_bcd_on_blocks():
    """Cyclic block gradient steps 1/L_b on p blocks: E - E* falls by 1 - mu / (2 Lmax (1 + p L^2 / Lmin^2)) or more a sweep (Beck & Tetruashvili)."""
    g = torch.Generator().manual_seed(0)
    A, c = torch.randn(30, 12, dtype=torch.float64, generator=g), torch.randn(30, dtype=torch.float64, generator=g)
    problem, values = Blocks(A, c, 3), torch.linalg.eigvalsh(A.T @ A)
    best, bounds = 0.5 * square(A @ torch.linalg.lstsq(A, c[:, None]).solution[:, 0] - c), problem.lipschitz(None).values()
    theorem = 1 - float(values[0]) / (2 * max(bounds) * (1 + 4 * float(values[-1]) ** 2 / min(bounds) ** 2))
    gaps = watch(pl.BCD(100), problem, lambda r: r.objective - best)
    assert rate(gaps, 1e-11) <= theorem and all(b <= theorem * a + 1e-12 for a, b in zip(gaps, gaps[1:]))


def test_pgd_searches_where_bounds_are_of_single_blocks():
    """1/L_b on all blocks at once is no safe step: PGD's "auto" searches there."""
    A = torch.ones(4, 6, dtype=torch.float64) + 0.1 * torch.eye(4, 6, dtype=torch.float64)
    problem = Blocks(A, torch.ones(4, dtype=torch.float64), 1)
    for solver in (pl.PGD(300), pl.FISTA(300), pl.PIAG(2000)):
        assert solver.solve(problem).objective < 1e-3


# ---- primal-dual
@cache
def split_lasso(c=0.0):
    """c |x|^2/2 + 3 |x|_1 + |A x - b|^2/2, the last term as H(K x): (problem, x*, y*, K)."""
    smooth = instance("lasso", "smooth")[0]
    K, b = smooth.smooth_part.op, smooth.smooth_part.data
    extra = 0.5 * c * pl.L2NormSquared() if c else None
    problem = pl.Composite(extra, 3.0 * pl.L1Norm(), 0.5 * pl.L2NormSquared().translated(b) @ K)
    joint = pl.QuadraticForm(K.matrix.T @ K.matrix + c * torch.eye(30, dtype=torch.float64), -b @ K.matrix)
    x = pl.FISTA(3000, tolerance=1e-13).solve(pl.Composite(joint, 3.0 * pl.L1Norm())).x["x"]
    return problem, x, K(x) - b, K


def in_metric(x, y, K, state):
    """|x|^2/tau - 2 <K x, y> + |y|^2/sigma."""
    return square(x) / state["tau"] - 2 * dot(K(x), y) + square(y) / state["sigma"]


@pytest.mark.parametrize("relaxation", [1.0, 1.9])
def test_pdhg_constant_is_linear(relaxation):
    """PDHG is the proximal point method in the metric M, which contracts by q = 1/(1 + m), m = min(gamma tau, delta sigma) / (1 + sqrt(tau sigma) |K|), for G and H*
    strongly convex with gamma, delta; relaxed by r <= 1 + 1/(1 + 2 m), by sqrt((r - 1)^2 + r (1 - (r - 1)(1 + 2 m)) q^2)."""
    problem, x, y, K = split_lasso(5.0)
    ratio = (5.0 / 1.0) ** 0.5
    states = []
    distances = watch(pl.PDHG(120, variant="constant", ratio=ratio, relaxation=relaxation), problem,
                      lambda r: states.append(r.state) or math.sqrt(in_metric(r.state["base"] - x, r.state["base_dual"][0] - y, K, r.state)))
    tau, sigma, r = states[0]["tau"], states[0]["sigma"], relaxation
    m = min(5.0 * tau, sigma) / (1 + math.sqrt(tau * sigma) * float(torch.linalg.matrix_norm(K.matrix, 2)))
    inside = r * (1 - (r - 1) * (1 + 2 * m))
    theorem = math.sqrt((r - 1) ** 2 + max(inside, 0.0) / (1 + m) ** 2)
    assert rate(distances) <= theorem and all(b <= theorem * a * (1 + 1e-9) for a, b in zip(distances[:40], distances[1:40]))


@pytest.mark.parametrize("relaxation", [1.0, 1.9])
def test_pdhg_constant_has_its_ergodic_gap(relaxation):
    """L(mean x, y*) - L(x*, mean y) <= |z_0 - z*|_M^2 / (2 r k) for the means of the steps' results."""
    problem, x, y, K = split_lasso()
    (H, _), G, sums = problem.linear[0], problem.nonsmooth_part, [0.0, 0.0]
    lagrangian = lambda u, v: float(G(u)) + dot(K(u), v) - float(H._conj_value(v))

    def gap(r):
        sums[0], sums[1] = sums[0] + r.x["x"], sums[1] + r.state["dual"][0]
        return lagrangian(sums[0] / r.iterations, y) - lagrangian(x, sums[1] / r.iterations), in_metric(x, y, K, r.state)

    for k, (value, constant) in enumerate(watch(pl.PDHG(300, variant="constant", relaxation=relaxation), problem, gap), 1):
        assert -1e-9 <= value <= constant / (2 * relaxation * k) + 1e-9


@pytest.mark.parametrize("ratio", [0.3, 1.0, 3.0])
def test_pdhg_accelerated_has_its_bound(ratio):
    """|x_k - x*|^2 <= tau_k^2 (|x_0 - x*|^2/tau_0^2 + |y_0 - y*|^2/(tau_0 sigma_0)), tau_k = O(1/(gamma k)); y_0 = -sigma_0 K x_0 gives the dual 0 that we begin with."""
    problem = instance("tv", "split")[0]
    dual, (_, K) = solution("tv", "dual"), problem.linear[0]
    start = problem.start()["x"]
    x, y = start - K._adjoint(dual), dual
    solver = pl.PDHG(1000, variant="accelerated", ratio=ratio)
    first = solver.start(problem)
    constant = square(start - x) / first["tau"] ** 2 + square(-first["sigma"] * K(start) - y) / (first["tau"] * first["sigma"])
    for value, tau in watch(solver, problem, lambda r: (square(r.x["x"] - x), r.state["tau"])):
        assert value <= tau**2 * constant
    assert tau <= 1.1 / solver.max_iterations


def test_admm_has_its_ergodic_gap():
    """(G + H)(means) - E* + <y*, K mean x - mean z> <= (|x_0 - x*|^2_{1/tau - rho K*K} + rho |z_0 - K x*|^2 + |y_0 - y*|^2/rho) / (2 k)."""
    problem, x, y, K = split_lasso()
    (H, _), G, sums = problem.linear[0], problem.nonsmooth_part, [0.0, 0.0]
    best = float(problem.value({"x": x}))
    for rho in (0.1, 1.0):
        solver, sums = pl.ADMM(300, rho=rho, balancing=False), [0.0, 0.0]
        constant = rho * solver.start(problem)["norm2"] * square(x) - rho * square(K(x)) + rho * square(K(x)) + square(y) / rho

        def gap(r):
            sums[0], sums[1] = sums[0] + r.x["x"], sums[1] + r.state["z"][0]
            u, z = sums[0] / r.iterations, sums[1] / r.iterations
            return float(G(u)) + float(H(z)) - best + dot(y, K(u) - z)

        for k, value in enumerate(watch(solver, problem, gap), 1):
            assert -1e-9 <= value <= constant / (2 * k)


@pytest.mark.parametrize("relaxation", [1.0, 1.6])
def test_admm_is_linear(relaxation):
    """Exact x-steps, F mu-strongly convex and L-smooth, K onto: ADMM is Douglas-Rachford on the dual, whose smooth part has constants s = smallest(K)^2/L and
    b = |K|^2/mu; |z + u - (z + u)*| falls by |1 - r/2| + (r/2) max((rho b - 1)/(rho b + 1), (1 - rho s)/(1 + rho s)) a step (Giselsson & Boyd)."""
    g = torch.Generator().manual_seed(0)
    B, M = torch.randn(30, 20, dtype=torch.float64, generator=g), torch.randn(8, 20, dtype=torch.float64, generator=g)
    problem = pl.Composite(pl.QuadraticForm(B.T @ B, torch.randn(20, dtype=torch.float64, generator=g)), None, 2.0 * pl.L1Norm() @ pl.MatrixOperator(M))
    F, singular = problem.smooth_part, torch.linalg.svdvals(M)
    s, b = float(singular[-1]) ** 2 / F.grad_lipschitz, float(singular[0]) ** 2 / F.strong_convexity
    rho = (s * b) ** -0.5
    solver = lambda n: pl.ADMM(n, rho=rho, balancing=False, relaxation=relaxation)
    limit = solver(250).solve(problem).state
    assert limit["exact"]
    distances = watch(solver(80), problem, lambda r: math.sqrt(square(r.state["z"][0] + r.state["u"][0] - limit["z"][0] - limit["u"][0])))
    assert rate(distances, 1e-10) <= abs(1 - relaxation / 2) + relaxation / 2 * max((rho * b - 1) / (rho * b + 1), (1 - rho * s) / (1 + rho * s))


@pytest.mark.parametrize("relaxation", [1.0, 1.5])
@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_douglas_rachford_contracts(factor, relaxation):
    """|s_{k+1} - s*| <= (|1 - r/2| + (r/2) max((1 - tau mu)/(1 + tau mu), (tau L - 1)/(tau L + 1))) |s_k - s*|, s* = x* + tau grad f(x*) (Giselsson & Boyd)."""
    problem, mu, L, x = strongly_convex()
    tau = factor / math.sqrt(mu * L)
    fixed = x + tau * problem.gradient({"x": x})["x"]
    theorem = abs(1 - relaxation / 2) + relaxation / 2 * max((1 - tau * mu) / (1 + tau * mu), (tau * L - 1) / (tau * L + 1))
    distances = watch(pl.DouglasRachford(80, step=tau, relaxation=relaxation), problem, lambda r: math.sqrt(square(r.state["s"] - fixed)))
    assert all(b <= theorem * a + 1e-9 for a, b in zip([math.sqrt(square(fixed)), *distances], distances)) and rate(distances) <= theorem


def test_douglas_rachford_has_its_residual_bound():
    """|x_k - y_k|^2 <= |s_0 - s*|^2 / (r (2 - r) (k + 1)), k = 0, 1, ...: s is averaged with constant r/2."""
    problem = instance("nuclear", "smooth")[0]
    x = solution("nuclear")
    for r, tau in ((1.0, 0.3), (1.5, 1.0), (1.9, 3.0)):
        fixed = x + tau * problem.gradient({"x": x})["x"]
        for k, value in enumerate(watch(pl.DouglasRachford(100, step=tau, relaxation=r), problem, lambda result: (tau * result.residual) ** 2)):
            assert value <= square(fixed) / (r * (2 - r) * (k + 1)) + 1e-12


# ---- other geometries
def test_bregman_pgd_has_its_bound():
    """E_k - E(u) <= D_h(u, u_0) / (tau k) for every u, tau = 1/L relative to h: entropy on the simplex, L = max |Q_ij|; Burg's kernel for Poisson data, L = sum b."""
    problem, best = instance("simplex", "smooth")
    u, start = solution("simplex"), problem.start()["x"]
    L, h = float(problem.smooth_part.matrix.abs().max()), pl.EntropyKernel()
    for k, value in enumerate(watch(pl.BregmanPGD(300, step=1 / L, bound=L), problem, lambda r: r.objective), 1):
        assert value - best <= L * float(h.distance(u, start)) / k
    problem, _ = instance("poisson", "smooth")
    u, start = solution("poisson", tolerance=1e-7) + 0.01, problem.start()["x"]
    L, h, near = float(problem.smooth_part.f.data.sum()), pl.BurgKernel(), float(problem.value({"x": u}))
    for k, value in enumerate(watch(pl.BregmanPGD(300, kernel="burg", step=1 / L, bound=L), problem, lambda r: r.objective), 1):
        assert value - near <= L * float(h.distance(u, start)) / k


def test_bregman_pgd_is_linear_under_relative_strong_convexity():
    """D_h(u*, u_{k+1}) <= (1 - mu/L) D_h(u*, u_k): F = a sum x log x + <x, Q x>/2 + <c, x> on the simplex is a-strongly convex and (a + max |Q_ij|)-smooth relative to
    the entropy."""
    problem = instance("simplex", "smooth")[0]
    Q, a, h = problem.smooth_part.matrix, 0.5, pl.EntropyKernel()
    problem = pl.Composite(a * pl.NegativeEntropy() + problem.smooth_part, pl.IndicatorSimplex(), start=problem.start()["x"])
    L = a + float(Q.abs().max())
    u = pl.BregmanPGD(2000, step=1 / L, bound=L).solve(problem).x["x"]
    g = problem.gradient({"x": u})["x"]
    assert g.max() - g.min() < 1e-10                       # inside the simplex the gradient is constant at the solution
    distances = [float(h.distance(u, problem.start()["x"])), *watch(pl.BregmanPGD(60, step=1 / L, bound=L), problem, lambda r: float(h.distance(u, r.x["x"])))]
    theorem = 1 - a / L
    assert all(b <= theorem * a + 1e-13 for a, b in zip(distances, distances[1:])) and rate(distances, 1e-11) <= theorem


def least_regular():
    """min 0.4 |x|_1 + |x|^2/2 s.t. A x = b: (A, b, x*) by scipy on the dual, polished on the support, certified by the optimality conditions."""
    rng = np.random.default_rng(1)
    A, lam = rng.standard_normal((12, 30)), 0.4
    b = A @ np.where(rng.random(30) < 0.3, rng.standard_normal(30), 0)
    shrink = lambda v: np.sign(v) * np.maximum(np.abs(v) - lam, 0)
    y = scipy.optimize.minimize(lambda y: (0.5 * np.sum(shrink(A.T @ y) ** 2) - b @ y, A @ shrink(A.T @ y) - b), np.zeros(12), jac=True, method="L-BFGS-B",
                                options={"ftol": 0, "gtol": 1e-12, "maxiter": 10000}).x
    on, sign = np.abs(A.T @ y) > lam, np.sign(A.T @ y)
    y = np.linalg.lstsq(A[:, on] @ A[:, on].T, b + lam * A[:, on] @ sign[on], rcond=None)[0]
    x = shrink(A.T @ y)
    assert np.abs(A @ x - b).max() < 1e-10 and (np.sign(x) == np.where(on, sign, 0)).all()
    return T(A), T(b), T(x)


def test_linearized_bregman_finds_the_least_regular_solution():
    """F(u_k) <= (mu J(u) + |u|^2/2) / (tau k) for A u = b; the limit minimises J + |u|^2/(2 mu) there; once support S and signs are found, A u - b falls by
    1 - tau smallest(A_S)^2 or more a step."""
    A, b, x = least_regular()
    problem = pl.Composite(0.5 * pl.L2NormSquared().translated(b) @ pl.MatrixOperator(A), 0.4 * pl.L1Norm())
    tau, signs = 1 / problem.lipschitz(None)["x"], []
    values = watch(pl.LinearizedBregman(4000), problem, lambda r: signs.append(r.x["x"].sign()) or r.objective)
    last = pl.LinearizedBregman(4000).solve(problem).x["x"]
    assert all(v <= (0.4 * float(x.abs().sum()) + square(x) / 2) / (tau * k) for k, v in enumerate(values, 1))
    assert all(after <= before * (1 + 1e-12) + 1e-25 for before, after in zip(values, values[1:]))
    assert torch.allclose(last, x, atol=1e-7)
    found = next(k for k in range(len(signs)) if all(torch.equal(s, x.sign()) for s in signs[k:]))
    smallest = torch.linalg.svdvals(A[:, x != 0])
    smallest = float(smallest[smallest > 1e-9][-1])
    assert rate(values[found:found + 400], 1e-20) <= (1 - tau * smallest**2) ** 2


# ---- minibatches
def least_squares(n=120, d=8):
    g = torch.Generator().manual_seed(2)
    A = torch.randn(n, d, dtype=torch.float64, generator=g)
    b = A @ torch.randn(d, dtype=torch.float64, generator=g) + torch.randn(n, dtype=torch.float64, generator=g)
    return A, b, torch.linalg.lstsq(A, b[:, None]).solution[:, 0], float(torch.linalg.eigvalsh(A.T @ A / n)[0])


def test_sgd_reaches_its_ball_at_its_rate():
    """mean |theta_k - theta*|^2 <= (1 - tau mu)^k |theta_0 - theta*|^2 + 2 tau s^2/mu, tau <= 1/(2 ell), s^2 the minibatch gradients' variance at theta*: 30 orders."""
    A, b, best, mu = least_squares()
    n, batch = len(A), 4
    problem = pl.linear_model(A, b)
    tau = pl.SGD(1, batch_size=batch).start(problem)["step"]
    own = A * (A @ best - b)[:, None]
    variance = float(own.square().sum(1).mean()) * (n - batch) / (batch * (n - 1))
    runs = [watch(pl.SGD(12, batch_size=batch, step=tau, seed=seed), problem, lambda r: square(r.x["weight"][0] - best)) for seed in range(30)]
    for epoch, distances in enumerate(zip(*runs), 1):
        assert np.mean(distances) <= (1 - tau * mu) ** (epoch * n // batch) * square(best) + 2 * tau * variance / mu


@pytest.mark.parametrize("tau", [0.5, 20.0])
def test_an_implicit_step_is_a_proximal_point_step(tau):
    """|theta_{k+1} - theta*| <= |theta_k - theta*| / (1 + tau mu) for every tau: on all samples, with a quadratic loss, two sweeps solve the implicit step exactly."""
    A, b, best, mu = least_squares()
    distances = watch(pl.ISGM(10, batch_size=len(A), sweeps=2, metric="plain", step=tau), pl.linear_model(A, b), lambda r: math.sqrt(square(r.x["weight"][0] - best)))
    assert all(after <= before / (1 + tau * mu) + 1e-12 for before, after in zip([math.sqrt(square(best)), *distances], distances))
