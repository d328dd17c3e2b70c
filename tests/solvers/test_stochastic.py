import cmath
import math

import numpy as np
import pytest
import torch
from problems import network
from torch import nn

import paralift as pl


def data(n=240, d=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(n, d, dtype=torch.float64, generator=g)
    w = torch.zeros(d, dtype=torch.float64)
    w[:5] = torch.randn(5, dtype=torch.float64, generator=g)
    return X, X @ w + 0.3 * torch.randn(n, dtype=torch.float64, generator=g)


def lasso():
    """(problem, optimal value) from scikit-learn's coordinate descent."""
    from sklearn.linear_model import Lasso

    X, y = data()
    problem = pl.linear_model(X, y, regulariser=0.05 * pl.L1Norm())
    w = Lasso(alpha=0.05, fit_intercept=False, tol=1e-14, max_iter=100000).fit(X.numpy(), y.numpy()).coef_
    return problem, float(problem.value({"weight": torch.as_tensor(w)[None]}))


def logistic():
    """(problem, optimal value) from scipy's bound-constrained quasi-Newton on the split w = p - q, polished, certified by the optimality conditions."""
    from scipy.optimize import minimize

    X, y = data()
    y, lam = (y > 0).to(torch.float64), 0.03
    problem = pl.linear_model(X, y, loss="logistic", regulariser=lam * pl.L1Norm())
    A, s = X.numpy(), 2 * y.numpy() - 1

    def f(v):
        w = v[:24] - v[24:]
        m = s * (A @ w)
        g = -(A.T @ (s / (1 + np.exp(m)))) / len(A)
        return np.logaddexp(0, -m).mean() + lam * v.sum(), np.concatenate([g + lam, lam - g])

    v = minimize(f, np.zeros(48), jac=True, bounds=[(0, None)] * 48, method="L-BFGS-B", options={"ftol": 1e-16, "gtol": 1e-12, "maxiter": 20000}).x
    w = torch.as_tensor(v[:24] - v[24:])[None]
    g = problem.gradient({"weight": w})["weight"]
    assert float((w - pl.L1Norm().prox(w - g, lam)).norm()) < 1e-7
    return problem, float(problem.value({"weight": w}))


METHODS = {"SAGA": lambda k: pl.SAGA(k), "SAGA-1": lambda k: pl.SAGA(k, batch_size=1), "SVRG": lambda k: pl.SVRG(k), "SVRG-epoch": lambda k: pl.SVRG(k, refresh="epoch"),
           "Katyusha": lambda k: pl.Katyusha(k, strong_convexity=0.02), "PIAG": lambda k: pl.PIAG(3 * k, shards=4), "PIAG-bold": lambda k: pl.PIAG(3 * k, shards=4, step="bold"),
           "PIAG-momentum": lambda k: pl.PIAG(3 * k, shards=4, momentum=0.5)}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("make", [lasso, logistic])
def test_methods_reach_the_reference_optimum(make, name):
    problem, best = make()
    result = METHODS[name](60 if make is lasso else 400).solve(problem)
    assert abs(result.objective - best) < 1e-8 * abs(best)
    assert abs(float(problem.value(result.x)) - result.objective) < 1e-12


def strongly_convex():
    """Ridge-like least squares with known L, L_max, mu, and its lasso solution by Newton-free long runs of PGD."""
    X, y = data(200, 10, 1)
    problem = pl.linear_model(X, y, regulariser=0.05 * pl.L1Norm())
    mu = float(torch.linalg.eigvalsh(X.T @ X / len(X))[0])
    best = pl.PGD(4000, acceleration="nesterov").solve(problem).x["weight"]
    return problem, mu, best


@pytest.mark.parametrize("name", ["SAGA", "SVRG", "Katyusha"])
def test_measured_rate_is_not_worse_than_the_theorems(name):
    problem, mu, best = strongly_convex()
    n, b, theta = problem.samples, 4, problem.start_theta()
    L, largest = problem.mean_lipschitz(theta)["weight"], problem.sample_lipschitz(theta)["weight"]
    ell, p = pl.solvers.stochastic.expected_smoothness(L, largest, n, b), b / n
    sigma = mu / ell
    t1 = min(math.sqrt(2 * sigma / (3 * p)), 0.5)
    eta = 0.5 / (1.5 * t1)
    theorem = {"SAGA": 1 - 1 / max(4 * ell / mu, n / b + 4 * (n - b) * largest / ((n - 1) * b * mu)), "SVRG": 1 - min(mu / (6 * ell), p / 2),
               "Katyusha": max(1 / (1 + eta * sigma), 1 - t1 / 2, 1 - p * t1 / (1 + t1))}[name]
    solver = {"SAGA": pl.SAGA(14, b), "SVRG": pl.SVRG(14, b), "Katyusha": pl.Katyusha(14, b, strong_convexity=mu)}[name]
    distances = []
    solver.solve(problem, callback=lambda r: distances.append(float((r.x["weight"] - best).square().sum())))
    kept = [v for v in distances if v > 1e-26]
    slope = np.polyfit(range(len(kept)), np.log(kept), 1)[0]
    assert len(kept) >= 4 and slope <= (n / b) * math.log(theorem)


def test_expected_smoothness_bounds_minibatch_gradients():
    X, y = data(12, 6)
    problem = pl.linear_model(X, y)
    theta = problem.start_theta()
    L, largest = problem.mean_lipschitz(theta)["weight"], problem.sample_lipschitz(theta)["weight"]
    assert abs(float(X.square().sum(1).max()) - largest) < 1e-9 and 1 <= L / float(torch.linalg.eigvalsh(X.T @ X / 12)[-1]) < 1.2
    g = torch.Generator().manual_seed(0)
    subsets = [torch.randperm(12, generator=g)[:4] for _ in range(4000)]
    H = torch.stack([X[s].T @ X[s] / 4 for s in subsets])
    d = torch.randn(6, 1, dtype=torch.float64, generator=g)
    ratio = (H @ d).square().sum((1, 2)).mean() / (d.T @ (X.T @ X / 12) @ d)
    assert float(ratio) <= pl.solvers.stochastic.expected_smoothness(L, largest, 12, 4)
    assert pl.solvers.stochastic.expected_smoothness(2.0, 7.0, 12, 1) == 7 and pl.solvers.stochastic.expected_smoothness(2.0, 7.0, 12, 12) == 2


# ---- PIAG
@pytest.mark.parametrize("step", ["adaptive", "bold"])
def test_random_delays_reach_the_synchronous_optimum(step):
    problem, best = lasso()
    result = pl.PIAG(400, shards=10, delays="random", max_delay=50, step=step).solve(problem)
    assert abs(result.objective - best) < 1e-8 * best


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bold_steps_need_at_most_half_the_iterations(seed):
    problem, best = lasso()
    first = lambda step: next(i for i, v in enumerate(pl.PIAG(300, delays="random", step=step, seed=seed).solve(problem).history["objective"]) if v - best < 1e-8 * best)
    assert first("bold") <= 0.5 * first("adaptive")


def quadratic(L):
    return pl.Composite((0.5 * L) * pl.L2NormSquared((1,)), start=torch.ones(1, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:PIAG got step")
@pytest.mark.parametrize("L", [1.0, 4.0])
def test_constant_delay_of_fifty_has_its_known_threshold(L):
    threshold = 2 * math.sin(math.pi / 202)
    last = lambda n, step: max(pl.PIAG(n, delays=50, step=step).solve(quadratic(L), record_every=7).history["objective"][-40:])
    assert last(8000, 0.93 * threshold / L) < 1e-4 * L and last(8000, 1.07 * threshold / L) > 1e4 * L
    for step in ("adaptive", "bold", "fixed"):
        assert last(4000, step) < 1e-10


@pytest.mark.filterwarnings("ignore:PIAG got step=.* its theorem covers steps up to")
@pytest.mark.parametrize("beta,delay", [(0.5, 0), (0.5, 5), (0.9, 1)])
def test_momentum_steps_lie_below_their_threshold(beta, delay):
    """x+ = x - gamma x_{-d} + beta (x - x_{-1}) loses stability at the least w with arg(e^{iw} - beta) + (d - 1/2) w = pi/2, where gamma = |e^{iw} - 1| |e^{iw} - beta|."""
    low, high = 1e-9, math.pi
    for _ in range(100):
        w = 0.5 * (low + high)
        low, high = (w, high) if cmath.phase(cmath.exp(1j * w) - beta) + (delay - 0.5) * w < math.pi / 2 else (low, w)
    threshold = abs(cmath.exp(1j * low) - 1) * abs(cmath.exp(1j * low) - beta)
    assert (1 - beta) / (delay + 1) < threshold
    last = lambda step: max(pl.PIAG(1200, delays=delay, step=step, momentum=beta).solve(quadratic(1.0), record_every=20).history["objective"][-5:])
    assert last(0.85 * threshold) < 1e-3 and last(1.15 * threshold) > 1e3
    for step in ("auto", "fixed", "bold"):
        assert last(step) < 1e-6


def test_momentum_without_delay_is_heavy_ball():
    problem = lasso()[0]
    a, b = pl.PIAG(30, shards=1, step=0.2, momentum=0.9).solve(problem), pl.PGD(30, step=0.2, acceleration="heavy_ball").solve(problem)
    assert torch.allclose(a.x["weight"], b.x["weight"], atol=1e-12)


def test_momentum_on_shards_and_random_delays_reaches_the_optimum():
    problem, best = lasso()
    for kw in ({"delays": "random", "max_delay": 20}, {"delays": 3, "step": "bold"}):
        result = pl.PIAG(500, shards=10, momentum=0.9, **kw).solve(problem)
        assert abs(result.objective - best) < 1e-8 * best


def test_momentum_and_the_return_of_bold_steps_do_not_feign_convergence():
    result = pl.PIAG(4000, step="bold", momentum=0.5, tolerance=1e-10).solve(quadratic(1.0))
    assert result.status is pl.Status.CONVERGED and result.objective < 1e-18


def test_without_delay_and_with_one_shard_piag_is_pgd():
    problem = lasso()[0]
    step = 0.2
    a, b = pl.PIAG(30, shards=1, step=step).solve(problem), pl.PGD(30, step=step).solve(problem)
    assert torch.allclose(a.x["weight"], b.x["weight"], atol=1e-12)
    listed, constant = pl.PIAG(40, delays=[3, 3], step="fixed").solve(problem), pl.PIAG(40, delays=3, step="fixed").solve(problem)
    assert torch.equal(listed.x["weight"], constant.x["weight"])


def test_late_gradients_do_not_feign_convergence():
    result = pl.PIAG(200, delays=50, step="bold", tolerance=1e-6).solve(quadratic(1.0))
    assert result.status is pl.Status.MAX_ITERATIONS


# ---- tables
def test_tables_hold_residuals_and_inputs_only():
    X, y = data()
    classes = (y > 0).long() + (y > 1).long()
    for problem, numbers in ((pl.linear_model(X, classes, loss="cross_entropy"), 240 * 3), (network(), 300 * (32 + (32 + 16) + (16 + 10)))):
        assert problem.table_numbers() == numbers and f"{numbers:,} numbers" in repr(problem)
        for solver in (pl.SAGA(1), pl.PIAG(1)):
            assert sum(v.numel() for v in solver.solve(problem).state["table"].values()) == numbers
        assert not any(k in pl.SVRG(1).solve(problem).state for k in ("table",))


def test_the_tables_mean_is_the_gradient():
    for problem in (lasso()[0], network()):
        theta = problem.start_theta()
        for solver in (pl.SAGA(3), pl.PIAG(3)):
            state = solver.solve(problem).state
            table = state["table"]
            factors = {s.index: (table[f"r{s.index}"], table.get(f"x{s.index}")) for s in problem.stages}
            mean, kept = problem.expand(factors), state.get("mean", state.get("aggregate"))
            assert all(torch.allclose(mean[k], kept[k], atol=1e-6) for k in mean)
        full, own = problem.explicit_gradient(theta)[1], problem.expand(problem.factors(theta))
        assert all(torch.allclose(full[k], own[k], atol=1e-6) for k in full)


def test_convolutions_have_tables_and_batch_normalisation_has_none():
    torch.manual_seed(0)
    (x, y), _ = pl.data.digits()
    conv = pl.LiftedTraining(nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)), x[:100], y[:100])
    theta = conv.start_theta()
    full, own = conv.explicit_gradient(theta)[1], conv.expand(conv.factors(theta))
    assert all(torch.allclose(full[k], own[k], atol=1e-5) for k in full)
    assert pl.SAGA(8, step=0.05).solve(conv).objective < 2.0
    norm = pl.LiftedTraining(nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10)), x[:100], y[:100])
    for solver in (pl.SAGA(1), pl.PIAG(1)):
        with pytest.raises(TypeError, match="SVRG, which needs no table"):
            solver.solve(norm)
    assert pl.SVRG(8, batch_size=20, step=0.05).solve(norm).objective < 2.3


# ---- networks, classical models
@pytest.mark.parametrize("solver", [pl.SGD(12, metric="adam", step=5e-3), pl.SGD(12, metric="momentum", step=0.05), pl.SGD(15, step=0.3, schedule="linear"), pl.SAGA(15, step=0.2),
                                    pl.SVRG(15, step=0.2), pl.PIAG(100, shards=20, delays=3, step=0.05)], ids=lambda s: type(s).__name__ + getattr(s, "metric", ""))
def test_networks_train(solver):
    assert solver.solve(network(1000)).history["accuracy"][-1] > 0.8


def test_sgd_falls_to_its_ball_and_falling_steps_go_further():
    problem, best = logistic()
    constant, falling = pl.SGD(100).solve(problem), pl.SGD(100, schedule="sqrt").solve(problem)
    gap = lambda r: float(problem.value(r.x)) / best - 1
    assert gap(falling) < 0.5 * gap(constant) < 0.02
    sparse = pl.SGD(30, metric="adam", step=0.02).solve(problem)
    assert gap(sparse) < 0.1


def test_linear_model_is_what_scikit_learn_calls_it():
    X, y = data()
    problem = pl.linear_model(X.numpy(), y.numpy(), regulariser=0.05 * pl.L1Norm(), bias=True)
    from sklearn.linear_model import Lasso

    fit = Lasso(alpha=0.05, tol=1e-12).fit(X.numpy(), y.numpy())
    assert problem.convex
    for solver in (pl.PGD(2000), pl.SAGA(200)):
        x = solver.solve(problem).x
        assert np.allclose(x["weight"].numpy()[0], fit.coef_, atol=1e-6) and abs(float(x["bias"]) - fit.intercept_) < 1e-6
    assert not network().convex


def test_passes_count_gradients():
    problem = lasso()[0]
    assert pl.SGD(3).solve(problem).data_passes == 3
    assert pl.SAGA(3).solve(problem).data_passes == 4 and pl.PIAG(3).solve(problem).data_passes == 4
    assert pl.SVRG(3, refresh="epoch").solve(problem).data_passes == 9


def test_tolerance_stops():
    problem, best = lasso()
    for solver in (pl.SAGA(200, tolerance=1e-8), pl.SVRG(200, tolerance=1e-8), pl.PIAG(600, tolerance=1e-8)):
        result = solver.solve(problem)
        assert result.status is pl.Status.CONVERGED and result.objective / best - 1 < 1e-10


# ---- bad input
def test_sentences():
    composite = quadratic(1.0)
    for solver in (pl.SAGA(), pl.SVRG(), pl.SGD(), pl.Katyusha(strong_convexity=1.0)):
        with pytest.raises(TypeError, match="no samples.*PGD.*PIAG"):
            solver.solve(composite)
    for call, words in ((lambda: pl.SAGA(batch_size=0), "integer >= 1"), (lambda: pl.SAGA(step=-1.0), "'lipschitz' or a positive number"), (lambda: pl.SAGA(step="fast"), "'auto'"),
                        (lambda: pl.SVRG(refresh="never"), "'random' or 'epoch'"), (lambda: pl.Katyusha(), "SAGA, SVRG"),
                        (lambda: pl.Katyusha(3), "strong_convexity=mu"), (lambda: pl.Katyusha(strong_convexity=0.0), "positive"),
                        (lambda: pl.PIAG(delays=-1), "a sequence"), (lambda: pl.PIAG(delays=[1, 2.5]), "a sequence"), (lambda: pl.PIAG(shards=0), "integer >= 1"),
                        (lambda: pl.PIAG(step="large"), "'bold'"), (lambda: pl.PIAG(momentum=1.0), r"\[0, 1\)"), (lambda: pl.SGD(metric="newton"), "'momentum' or 'plain'"),
                        (lambda: pl.SGD(schedule="cosine"), "'linear'")):
        with pytest.raises(ValueError, match=words):
            call()
    X, y = data()
    with pytest.raises(ValueError, match="0 and 1"):
        pl.linear_model(X, y, loss="logistic")
    with pytest.raises(ValueError, match="samples, features"):
        pl.linear_model(X[0], y)
    with pytest.raises(ValueError, match="240 inputs and 10 targets"):
        pl.linear_model(X, y[:10])
    with pytest.raises(TypeError, match="cross entropy needs integer"):
        pl.linear_model(X, y, loss="cross_entropy")
    with pytest.raises(TypeError, match="Lipschitz bound"):
        pl.SAGA().solve(pl.linear_model(X.abs(), y.abs(), loss="kullback_leibler"))
    with pytest.warns(UserWarning, match="theorem covers"):
        pl.SAGA(1, step=1.0).solve(lasso()[0])
