"""The metrics of minibatch steps: the prox belongs to the step's metric, the optimum does not depend on it, AdaGrad keeps its regret bound."""

from typing import get_args

import pytest
import torch

import paralift as pl
from paralift.solvers.minibatch_metrics import Metric, metric_prox, metric_start, metric_step


def gradients(n, k, seed=0):
    """Gradients of very different sizes, so that steps tau / H lie on both sides of 1."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(k, n, dtype=torch.float64, generator=g) * torch.logspace(-6, 1, n, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["adam", "adagrad"])
def test_the_prox_minimises_the_step_in_the_diagonal_metric(kind):
    """u = argmin <d, u> + |u - theta|_H^2 / (2 tau) + lam |u|_1, with H and d found here from the gradients."""
    n, tau, lam = 60, 0.01, 3e-3
    all_g, theta = gradients(n, 7), torch.linspace(-1, 1, n, dtype=torch.float64)
    u = theta.clone()
    state, L1 = metric_start(kind, {0: u}), pl.L1Norm(n)
    for g in all_g[:-1]:
        metric_step(kind, [0], {0: u}, {0: g}, state, tau)
    theta = u.clone()
    metric_step(kind, [0], {0: u}, {0: all_g[-1]}, state, tau)
    metric_prox(kind, [0], {0: u}, {0: lam * L1}, state, tau)
    if kind == "adagrad":
        H, d = all_g.square().sum(0).sqrt() + 1e-8, all_g[-1]
    else:
        mean, second = torch.zeros(2, n, dtype=torch.float64)
        for g in all_g:
            mean, second = 0.9 * mean + 0.1 * g, 0.999 * second + 0.001 * g * g
        H, d = (second / (1 - 0.999**7)).sqrt() + 1e-8, mean / (1 - 0.9**7)
    slope = d + H * (u - theta) / tau
    assert (slope + lam * u.sign())[u != 0].abs().max() < 1e-5 * lam and slope[u == 0].abs().max() <= lam * (1 + 1e-5)
    assert (u == 0).any() and (u != 0).any() and (H < tau).any() and (H > tau).any()


def test_adagrad_is_torchs():
    theta = torch.ones(40, dtype=torch.float64)
    own, other = theta.clone(), torch.nn.Parameter(theta.clone())
    state, optimizer = metric_start("adagrad", {0: own}), torch.optim.Adagrad([other], lr=0.1, eps=1e-8)
    for g in gradients(40, 9):
        metric_step("adagrad", [0], {0: own}, {0: g}, state, 0.1)
        other.grad = g
        optimizer.step()
    assert torch.allclose(own, other.detach(), atol=1e-14)


@pytest.mark.parametrize("tau", [0.05, 0.5])
def test_adagrad_keeps_its_regret_bound(tau):
    """sum_k f_k(theta_k) + R(theta_k) - f_k(v) - R(v) <= (D^2 / (2 tau) + tau) sum_j |g_{1:K, j}|, D = max_k |v - theta_k|_sup; absolute losses, features of different scale."""
    g = torch.Generator().manual_seed(1)
    A = torch.randn(400, 15, dtype=torch.float64, generator=g) * torch.logspace(-2, 0, 15, dtype=torch.float64)
    v = torch.randn(15, dtype=torch.float64, generator=g) * (torch.arange(15) % 2)
    b, R = A @ v + 0.1 * torch.randn(400, dtype=torch.float64, generator=g), 0.01 * pl.L1Norm(15)
    theta = torch.zeros(15, dtype=torch.float64)
    state, regret, D, squares = metric_start("adagrad", {0: theta}), 0.0, 0.0, 0.0
    for a, t in zip(A, b):
        regret += float((a @ theta - t).abs() + R(theta) - (a @ v - t).abs() - R(v))
        D, gradient = max(D, float((v - theta).abs().max())), a * (a @ theta - t).sign()
        squares = squares + gradient.square()
        metric_step("adagrad", [0], {0: theta}, {0: gradient}, state, tau)
        metric_prox("adagrad", [0], {0: theta}, {0: R}, state, tau)
    assert 0 < regret <= (D * D / (2 * tau) + tau) * float(squares.sqrt().sum())


@pytest.mark.parametrize("scale", [1.0, 1e-4])
@pytest.mark.parametrize("metric", get_args(Metric))
def test_the_optimum_does_not_depend_on_the_metric(metric, scale):
    """scale * (least squares + 0.1 |w|_1), full batch: scikit-learn's minimiser whatever the scale."""
    from sklearn.linear_model import Lasso

    g = torch.Generator().manual_seed(2)
    X = torch.randn(60, 8, dtype=torch.float64, generator=g)
    y = X[:, 0] - 0.5 * X[:, 1] + 0.2 * torch.randn(60, dtype=torch.float64, generator=g)
    w = torch.as_tensor(Lasso(alpha=0.1, fit_intercept=False, tol=1e-14).fit(X.numpy(), y.numpy()).coef_)
    problem = pl.linear_model(X * scale**0.5, y * scale**0.5, regulariser=0.1 * scale * pl.L1Norm())
    step = {"adam": 0.02, "adagrad": 0.3}.get(metric, "auto")
    for solver in (pl.SGD(600, batch_size=60, metric=metric, step=step), pl.ISGM(600, batch_size=60, metric=metric, step=0.03 / scale if step == "auto" else step)):
        found = solver.solve(problem, record_every=600).x["weight"][0]
        assert torch.allclose(found, w, atol=1e-6) and torch.equal(found == 0, w == 0)


def test_functionals_that_are_not_separable_take_the_scalar_prox_and_keep_constraints():
    theta = torch.full((6,), 2.0, dtype=torch.float64)
    ball = pl.IndicatorL2Ball(1.0, space=6)
    assert not ball.separable
    state = metric_start("adam", {0: theta})
    metric_step("adam", [0], {0: theta}, {0: torch.ones_like(theta)}, state, 0.1)
    expected = ball.prox(theta.clone(), 0.1)
    metric_prox("adam", [0], {0: theta}, {0: ball}, state, 0.1)
    assert torch.equal(theta, expected) and abs(float(theta.norm()) - 1) < 1e-12
