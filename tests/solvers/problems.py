"""Seven problems with optima obtained without our solvers: scikit-learn, scipy, or a duality gap evaluated in numpy.

Each function returns {form: problem} and E*, with a relative error below 1e-9. The forms are one problem, split differently: "smooth" F + G with a gradient and a prox,
"split" and "three" with a term H(K x), "dual" the dual problem as F + G (`instance` gives its own optimal value).
"""

from functools import cache

import numpy as np
import scipy.optimize
import torch

import paralift as pl

DEVICE = "cpu"
T = lambda a: torch.as_tensor(np.asarray(a, dtype=np.float64), device=DEVICE)


@cache
def lasso():
    from sklearn.linear_model import Lasso

    rng = np.random.default_rng(0)
    A, b = rng.standard_normal((60, 30)), rng.standard_normal(60)
    w = Lasso(alpha=3.0 / 60, fit_intercept=False, tol=1e-14, max_iter=100000).fit(A, b).coef_
    f = 0.5 * pl.L2NormSquared().translated(T(b))
    op = pl.MatrixOperator(T(A))
    return {"smooth": pl.Composite(f @ op, 3.0 * pl.L1Norm()), "split": pl.Composite(None, 3.0 * pl.L1Norm(), f @ op),
            "three": pl.Composite(f @ op, None, 3.0 * pl.L1Norm() @ pl.IdentityOperator(op.domain))}, 0.5 * np.sum((A @ w - b) ** 2) + 3 * np.abs(w).sum()


@cache
def logistic():
    rng = np.random.default_rng(1)
    A = rng.standard_normal((80, 20))
    labels, alpha = np.sign(A[:, 0] - A[:, 1] + 0.5 * rng.standard_normal(80)), 1.5

    def value(v):                                    # w = p - q, p, q >= 0
        z = A @ (v[:20] - v[20:])
        g = A.T @ (-labels / (1 + np.exp(labels * z)))
        return np.logaddexp(0, -labels * z).sum() + alpha * v.sum(), np.concatenate([g, -g]) + alpha

    found = scipy.optimize.minimize(value, np.zeros(40), jac=True, method="L-BFGS-B", bounds=[(0, None)] * 40, options={"ftol": 0, "gtol": 1e-12, "maxiter": 5000})
    f, op = pl.LogisticLoss(T(labels)), pl.MatrixOperator(T(A))
    return {"smooth": pl.Composite(f @ op, alpha * pl.L1Norm()), "split": pl.Composite(None, alpha * pl.L1Norm(), f @ op)}, found.fun


@cache
def nonnegative():
    rng = np.random.default_rng(2)
    A, b = rng.standard_normal((60, 30)), rng.standard_normal(60)
    best = 0.5 * scipy.optimize.nnls(A, b)[1] ** 2
    f, op = 0.5 * pl.L2NormSquared().translated(T(b)), pl.MatrixOperator(T(A))
    return {"smooth": pl.Composite(f @ op, pl.IndicatorNonnegative()), "split": pl.Composite(None, pl.IndicatorNonnegative(), f @ op)}, best


def _tv_numpy(x):
    return np.sqrt(np.diff(x, axis=0, append=x[-1:]) ** 2 + np.diff(x, axis=1, append=x[:, -1:]) ** 2)


@cache
def tv():
    """min |x - b|^2/2 + a TV(x), and its dual, min |b - D* p|^2/2 over |p| <= a, the value of which is |b|^2/2 - E*: by projected accelerated gradient in numpy
    until the gap is below 1e-10 E."""
    rng = np.random.default_rng(3)
    n, a = 10, 0.2
    b = 0.1 * rng.standard_normal((n, n))
    b[3:8, 4:10] += 1
    b[6:11, 2:6] += 0.5

    def adjoint(p):
        q0, q1 = p[0].copy(), p[1].copy()
        q0[-1] = q1[:, -1] = 0
        return np.concatenate([-q0[:1], q0[:-1] - q0[1:]]) + np.concatenate([-q1[:, :1], q1[:, :-1] - q1[:, 1:]], 1)

    p = q = np.zeros((2, n, n))
    t, primal, dual = 1, 1.0, 0.0
    for k in range(60000):
        x = b - adjoint(q)
        new = q + np.stack([np.diff(x, axis=0, append=x[-1:]), np.diff(x, axis=1, append=x[:, -1:])]) / 8
        new /= np.maximum(np.sqrt((new**2).sum(0)) / a, 1)
        if np.sum((q - new) * (new - p)) > 0:
            t = 1
        t_new = 0.5 * (1 + np.sqrt(1 + 4 * t * t))
        q, p, t = new + (t - 1) / t_new * (new - p), new, t_new
        if k % 100 == 99:
            x = b - adjoint(p)
            primal, dual = 0.5 * np.sum((x - b) ** 2) + a * _tv_numpy(x).sum(), 0.5 * np.sum(b**2) - 0.5 * np.sum(x**2)
            if primal - dual < 1e-10 * primal:
                break
    assert primal - dual < 1e-10 * primal
    D = pl.Gradient(pl.Space((n, n), torch.float64, DEVICE))
    F = 0.5 * pl.L2NormSquared().translated(T(b))
    return {"split": pl.Composite(F, None, a * pl.GroupL1Norm() @ D, start=T(b)),
            "smooth": pl.Composite(F, a * pl.TotalVariation(tolerance=1e-11, max_iterations=20000), start=T(b)),
            "dual": pl.Composite(F @ D.adjoint, (a * pl.GroupL1Norm(space=(2, n, n))).convex_conj)}, 0.5 * (primal + dual)


@cache
def nuclear():
    """min |P(X - M)|^2/2 + a |X|_*: FISTA in numpy, certified by the dual point y = P(M - X) scaled to spectral norm a."""
    rng = np.random.default_rng(4)
    M = rng.standard_normal((30, 3)) @ rng.standard_normal((3, 20))
    mask, a = (rng.random((30, 20)) < 0.6).astype(float), 2.0
    X = Y = np.zeros((30, 20))
    t = 1
    for k in range(20000):
        U, s, V = np.linalg.svd(Y - mask * (Y - M), full_matrices=False)
        new = (U * np.maximum(s - a, 0)) @ V
        if np.sum((Y - new) * (new - X)) > 0:
            t = 1
        t_new = 0.5 * (1 + np.sqrt(1 + 4 * t * t))
        Y, X, t = new + (t - 1) / t_new * (new - X), new, t_new
        if k % 20 == 19:
            y = mask * (M - X)
            y *= min(1, a / np.linalg.norm(y, 2))
            primal = 0.5 * np.sum((mask * (X - M)) ** 2) + a * np.linalg.norm(X, "nuc")
            dual = np.sum(y * mask * M) - 0.5 * np.sum(y**2)
            if primal - dual < 1e-9 * primal:
                break
    f, op = 0.5 * pl.L2NormSquared().translated(T(mask * M)), pl.DiagonalOperator(T(mask))
    return {"smooth": pl.Composite(f @ op, a * pl.NuclearNorm()), "split": pl.Composite(None, a * pl.NuclearNorm(), f @ op)}, primal


@cache
def poisson():
    """min KL(b, A x) over x >= 0, a blur of 40 unknowns to 60 counts: scipy's L-BFGS-B and Newton on its support, certified by y = 1 - b/(A x), lifted until A* y >= 0."""
    rng = np.random.default_rng(5)
    grid, centres = np.linspace(0, 1, 60)[:, None], np.linspace(0, 1, 40)[None]
    A = np.exp(-((grid - centres) ** 2) / (2 * 0.012**2)) + 0.002
    truth = np.where(rng.random(40) < 0.3, 40 * rng.random(40), 2.0)
    b = rng.poisson(A @ truth).astype(float) + 1.0

    def value(x):
        z = A @ x
        return np.sum(z - b + b * np.log(b / z)), A.T @ (1 - b / z)

    x = np.full(40, b.mean() / A.sum(1).mean())
    for _ in range(5):
        x = scipy.optimize.minimize(value, x, jac=True, method="L-BFGS-B", bounds=[(0, None)] * 40, options={"ftol": 0, "gtol": 1e-13, "maxiter": 5000, "maxcor": 40}).x
    free = x > 1e-6                                  # Newton on the support
    x[~free] = 0
    for _ in range(20):
        z, B = A @ x, A[:, free]
        x[free] -= np.linalg.solve(B.T @ ((b / z**2)[:, None] * B), B.T @ (1 - b / z))
    assert x.min() >= 0
    y = 1 - b / (A @ x)
    y = y + max(0, -(A.T @ y / A.sum(0)).min())
    dual = np.sum(b * np.log(1 - y))
    assert value(x)[0] - dual < 1e-9 * value(x)[0], (value(x)[0], dual)
    start = T(np.full(40, b.mean() / A.sum(1).mean()))
    f, op = pl.KullbackLeibler(T(b)), pl.MatrixOperator(T(A))
    return {"smooth": pl.Composite(f @ op, pl.IndicatorNonnegative(), start=start), "split": pl.Composite(None, pl.IndicatorNonnegative(), f @ op, start=start)}, value(x)[0]


@cache
def simplex():
    """min <x, Q x>/2 + <c, x> on the simplex: scipy's SLSQP, certified by the Frank-Wolfe gap <g, x> - min g."""
    rng = np.random.default_rng(6)
    B = rng.standard_normal((40, 30))
    Q, c = B.T @ B / 40 + 0.1 * np.eye(30), 0.3 * rng.standard_normal(30)
    found = scipy.optimize.minimize(lambda x: 0.5 * x @ Q @ x + c @ x, np.full(30, 1 / 30), jac=lambda x: Q @ x + c, method="SLSQP", bounds=[(0, None)] * 30,
                                    constraints={"type": "eq", "fun": lambda x: x.sum() - 1, "jac": lambda x: np.ones(30)}, options={"ftol": 1e-16, "maxiter": 1000})
    x = np.maximum(found.x, 0)
    active = x > 1e-7                                # the optimality system on the support
    k = active.sum()
    system = np.block([[Q[np.ix_(active, active)], np.ones((k, 1))], [np.ones((1, k)), np.zeros((1, 1))]])
    x = np.zeros(30)
    x[active] = np.linalg.solve(system, np.append(-c[active], 1))[:k]
    g = Q @ x + c
    best = 0.5 * x @ Q @ x + c @ x
    assert x.min() >= 0 and g @ x - g.min() < 1e-12 * abs(best)
    F, start = pl.QuadraticForm(T(Q), T(c)), T(np.full(30, 1 / 30))
    return {"smooth": pl.Composite(F, pl.IndicatorSimplex(), start=start),
            "three": pl.Composite(F, pl.IndicatorSimplex(), pl.ZeroFunctional() @ pl.IdentityOperator(pl.Space(30, torch.float64, DEVICE)), start=start)}, best


PROBLEMS = {"lasso": lasso, "logistic": logistic, "nonnegative": nonnegative, "tv": tv, "nuclear": nuclear, "poisson": poisson, "simplex": simplex}


def network(samples=300, **kw):
    """A lifted network on some of the digits."""
    torch.manual_seed(0)
    (x, y), test = pl.data.digits()
    net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
    return pl.LiftedTraining(net, x[:samples], y[:samples], validation=test, **kw)


def instance(name, form):
    """(problem, its optimal value)."""
    forms, best = PROBLEMS[name]()
    return forms[form], best if form != "dual" else float(forms[form].value(forms[form].start())) - best
