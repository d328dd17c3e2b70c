"""The problems of `solvers.py`, and how PARALIFT and its peers solve them: each method is run(iterations, watch) -> x, from data in memory to the solution."""

import importlib.util
import time
import warnings

import numpy as np
import scipy.sparse.linalg
import torch

import paralift as pl

LIMIT = 1_000_000                # iterations
FOUND = set()


def installed(*names):
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    for name in missing:
        if name not in FOUND:
            print(f"{name} is not installed: skipped")
    FOUND.update(names)
    return not missing


class Task:
    """A problem in numpy: `value(x)` in float64, `gap(x)` >= E(x) - E*, `methods()` = {name: run(iterations, watch)}; `watch` is None or is called with x after
    every iteration. A run with `blind` set cannot be watched."""

    target, note = 1e-6, ""

    def solve_long(self):
        raise NotImplementedError

    def certify(self):
        x = self.solve_long()
        self.best, gap = self.value(x), self.gap(x)
        self.certificate = gap / self.best
        if not self.certificate <= 0.1 * self.target:
            raise RuntimeError(f"{self.name}: the reference is certified to {self.certificate:.1e} only; the target {self.target:g} needs a tenth of it.")

    def gain(self, x):
        return self.value(np.asarray(x, dtype=np.float64)) / self.best - 1


def blind(run):
    run.blind = True
    return run


def ours(make, solver, name="x", dtype=None):
    """run(iterations, watch) of our solver(iterations) on make()."""

    def run(iterations, watch=None):
        callback = None if watch is None else lambda result: watch(result.x[name].numpy())
        result = solver(iterations).solve(make(), callback=callback, progress=False, record_every=1 if watch else iterations)
        return result.x[name].numpy()

    return run


# ---- proximal gradient: lasso, matrix completion
def accelerated_peers(A, b, shape, prox, copt_prox):
    """min |A x - b|^2/2 + g(x) by the accelerated proximal gradient methods of the peers, A a pylops operator or matrix."""
    methods = {}
    n = int(np.prod(shape))
    squared_norm = lambda op: float(scipy.sparse.linalg.svds(op, k=1, return_singular_vectors=False, random_state=0)[0]) ** 2
    if installed("pyproximal"):
        import pylops
        import pyproximal

        def pyprox(iterations, watch=None):
            op = pylops.MatrixMult(A) if A.ndim == 2 else pylops.Diagonal(A)
            op.explicit = False                                # else the set-up multiplies A.T @ A, which no gradient step needs
            tau = 1 / squared_norm(A) if A.ndim == 2 else 1 / float(np.abs(A).max()) ** 2
            return pyproximal.optimization.primal.ProximalGradient(
                pyproximal.L2(op, b), prox(pyproximal), np.zeros(n), tau=tau, acceleration="fista", niter=iterations, callback=watch)

        methods["pyproximal ProximalGradient, fista"] = pyprox
    if installed("copt"):
        import copt.penalty

        def cop(iterations, watch=None, step="backtracking"):
            product, adjoint = (lambda x: A @ x, lambda y: A.T @ y) if A.ndim == 2 else (lambda x: A * x, lambda y: A * y)

            def f(x):
                r = product(x) - b
                return 0.5 * float(r @ r), adjoint(r)

            if step == "1/L":
                size = 1 / squared_norm(A) if A.ndim == 2 else 1 / float(np.abs(A).max()) ** 2
                step = lambda _: size
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                calls = iter(range(2 * LIMIT))
                callback = None if watch is None else lambda d: watch(d["x"]) if next(calls) else None       # the first call sees the start
                return copt.minimize_proximal_gradient(f, np.zeros(n), copt_prox(copt), jac=True, tol=0, max_iter=iterations - 1, step=step, accelerated=True, callback=callback).x

        methods["copt minimize_proximal_gradient, accelerated, backtracking"] = cop
        methods["copt minimize_proximal_gradient, accelerated, 1/L"] = lambda iterations, watch=None: cop(iterations, watch, "1/L")
    return methods


class Lasso(Task):
    """|A x - b|^2/2 + a |x|_1, A Gaussian with its columns scaled from 1 to `decay` in random order; a = weight * the smallest with x = 0."""

    def __init__(self, name, rows, columns, decay, weight):
        rng = np.random.default_rng(0)
        self.A = rng.standard_normal((rows, columns)) / rows**0.5 * rng.permutation(np.geomspace(1, decay, columns))
        truth = np.zeros(columns)
        truth[rng.permutation(columns)[:columns // 40]] = rng.standard_normal(columns // 40)
        self.b = self.A @ truth + 0.01 * rng.standard_normal(rows)
        self.a = weight * np.abs(self.A.T @ self.b).max()
        self.name = f"{name} {rows} x {columns}, a = {weight:g} a_max"

    def value(self, x):
        r = self.A @ x - self.b
        return 0.5 * r @ r + self.a * np.abs(x).sum()

    def gap(self, x):
        y = self.b - self.A @ x
        y = y * min(1, self.a / np.abs(self.A.T @ y).max())
        return self.value(x) - (y @ self.b - 0.5 * y @ y)

    def problem(self):
        A, b = torch.from_numpy(self.A), torch.from_numpy(self.b)
        return pl.Composite(0.5 * pl.L2NormSquared().translated(b) @ pl.MatrixOperator(A), self.a * pl.L1Norm())

    def solve_long(self):
        return pl.FISTA(LIMIT, tolerance=pl.Tolerance(gap=1e-4 * self.target)).solve(self.problem(), record_every=50, progress=False).x["x"].numpy()

    def methods(self):
        return {"pl.FISTA": ours(self.problem, pl.FISTA), **accelerated_peers(self.A, self.b, self.A.shape[1], lambda p: p.L1(self.a), lambda c: c.penalty.L1Norm(self.a).prox)}


class Completion(Task):
    """|M (X - B)|^2/2 + a |X|_*, 30 % of the entries of B = rank + noise observed; a = weight * |M B|_2."""

    def __init__(self, rows, columns, rank, weight):
        rng = np.random.default_rng(0)
        self.shape, self.M = (rows, columns), (rng.random((rows, columns)) < 0.3).astype(float)
        self.B = self.M * (rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns)) / rank**0.5 + 0.1 * rng.standard_normal((rows, columns)))
        self.a = weight * np.linalg.norm(self.B, 2)
        self.name = f"matrix completion {rows} x {columns}, rank {rank}, a = {weight:g} a_max"

    def value(self, x):
        X = x.reshape(self.shape)
        return 0.5 * np.sum((self.M * X - self.B) ** 2) + self.a * np.linalg.norm(X, "nuc")

    def gap(self, x):
        y = self.B - self.M * x.reshape(self.shape)
        y = y * min(1, self.a / np.linalg.norm(y, 2))
        return self.value(x) - (np.sum(y * self.B) - 0.5 * np.sum(y * y))

    def problem(self):
        return pl.Composite(0.5 * pl.L2NormSquared().translated(torch.from_numpy(self.B)) @ pl.DiagonalOperator(torch.from_numpy(self.M)), self.a * pl.NuclearNorm())

    def solve_long(self):
        return pl.FISTA(2000, tolerance=pl.Tolerance(gap=1e-3 * self.target)).solve(self.problem(), record_every=10, progress=False).x["x"].numpy()

    def methods(self):
        return {"pl.FISTA": ours(self.problem, pl.FISTA), **accelerated_peers(
            self.M.ravel(), self.B.ravel(), self.shape, lambda p: p.Nuclear(self.shape, self.a), lambda c: c.penalty.TraceNorm(self.a, self.shape).prox)}


# ---- total variation
class Denoising(Task):
    """|x - b|^2/2 + a sum |grad x|, forward differences: discs, boxes and a ramp with noise of deviation 0.1."""

    def __init__(self, size, a):
        rng = np.random.default_rng(0)
        s, t = np.meshgrid(*2 * [np.linspace(0, 1, size)], indexing="ij")
        image = 0.3 * s
        for _ in range(12):
            c, d, r, h = rng.random(), rng.random(), rng.uniform(0.05, 0.2), rng.uniform(-0.5, 0.5)
            image += h * ((s - c) ** 2 + (t - d) ** 2 < r * r if rng.random() < 0.5 else np.maximum(abs(s - c), abs(t - d)) < r)
        self.b, self.a, self.name = image + 0.1 * rng.standard_normal((size, size)), a, f"TV denoising {size} x {size}, a = {a:g}"

    def value(self, x):
        x = x.reshape(self.b.shape)
        self.D = np.stack([np.diff(x, axis=i, append=x[-1:] if i == 0 else x[:, -1:]) for i in (0, 1)])
        return 0.5 * np.sum((x - self.b) ** 2) + self.a * np.sqrt((self.D**2).sum(0)).sum()

    def problem(self):
        b = torch.from_numpy(self.b)
        D = pl.Gradient(pl.Space(tuple(b.shape), b.dtype))
        return pl.Composite(0.5 * pl.L2NormSquared().translated(b), linear=self.a * pl.GroupL1Norm() @ D)

    def solve_long(self):
        problem = self.problem()
        result = pl.PDHG(20000, tolerance=pl.Tolerance(gap=0.05 * self.target)).solve(problem, record_every=200, progress=False)
        self.found = float(problem.gap(result.x, result.state["dual"]))
        return result.x["x"].numpy()

    def gap(self, x):
        return self.found

    def methods(self):
        methods = {"pl.PDHG": ours(self.problem, pl.PDHG)}
        if installed("pyproximal", "pylops"):
            import pylops
            import pyproximal

            def primal_dual(ratio):
                def run(iterations, watch=None):
                    D = pylops.Gradient(self.b.shape, kind="forward", edge=True, dtype="float64")
                    tau, mu = 0.99 / 8**0.5 / ratio, 0.99 / 8**0.5 * ratio
                    return pyproximal.optimization.primaldual.PrimalDual(
                        pyproximal.L2(b=self.b.ravel()), pyproximal.L21(2, self.a), D, self.b.ravel().copy(), tau, mu, niter=iterations, callback=watch)
                return run

            methods.update({f"pyproximal PrimalDual, sqrt(mu/tau) = {r:g}": primal_dual(r) for r in (4.0, 8.0, 16.0)})
        if installed("skimage"):
            from skimage.restoration import denoise_tv_chambolle

            methods["scikit-image denoise_tv_chambolle"] = blind(lambda iterations: denoise_tv_chambolle(self.b, self.a, eps=0, max_num_iter=iterations))
        return methods


# ---- sparse logistic regression
class Logistic(Task):
    """(1/n) sum_i loss(W x_i, y_i) + a |W|_1 on MNIST, float32 for all: digits >= 5 against the rest, or the ten classes. Pixels in [0, 1], no intercept."""

    target = 1e-4

    def __init__(self, classes, samples, a):
        try:
            ((x, y), _), name = pl.data.mnist(), "MNIST"
        except FileNotFoundError:
            ((x, y), _), name = pl.data.digits(), "digits"
        self.x, self.y = x[:samples].contiguous(), (y if classes > 2 else (y >= 5).long())[:samples]
        self.X, self.Y = self.x.numpy(), self.y.numpy()
        self.classes, self.a, self.name = classes, a, f"logistic regression, {name} {len(self.x)} x {self.x.shape[1]}, {classes} classes, a = {a:g}"

    def _loss(self, x):
        """(mean loss, p), p the classes' probabilities at the weights x."""
        z = self.X @ x.reshape(-1, self.X.shape[1]).T.astype(np.float32)
        z = np.concatenate([np.zeros_like(z), z], 1).astype(np.float64) if self.classes == 2 else z.astype(np.float64)
        z -= z.max(1, keepdims=True)
        e = np.exp(z)
        total = e.sum(1, keepdims=True)
        loss = (np.log(total[:, 0]) - z[np.arange(len(z)), self.Y]).mean()
        return loss, e / total

    def value(self, x):
        return self._loss(x)[0] + self.a * np.abs(x).sum()

    def gap(self, x):
        p = self._loss(x)[1]
        one = np.eye(p.shape[1])[self.Y]
        r = (p - one)[:, 1:] if self.classes == 2 else p - one
        s = min(1, self.a / (np.abs(r.T @ self.X.astype(np.float64)).max() / len(r)))
        q = one + s * (p - one)
        return self.value(x) + np.sum(q * np.log(np.maximum(q, 1e-300))) / len(r)

    def problem(self, dtype=torch.float32):
        y, loss = (self.y, "cross_entropy") if self.classes > 2 else (self.y.to(dtype), "logistic")
        return pl.linear_model(self.x.to(dtype), y, loss=loss, regulariser=self.a * pl.L1Norm())

    def solve_long(self):
        problem, result = self.problem(torch.float64), None
        for passes in range(50, 1001, 50):
            result = pl.SAGA(passes, batch_size=64).solve(problem, resume=result, record_every=50, progress=False)
            x = result.x["weight"].numpy()
            if self.gap(x) <= 0.05 * self.target * self.value(x):
                break
        return x

    def methods(self):
        methods = {"pl.SAGA, batch 64": ours(self.problem, lambda passes: pl.SAGA(passes, batch_size=64), "weight")}
        if installed("sklearn"):
            from sklearn.linear_model import LogisticRegression

            def sklearn(passes):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    model = LogisticRegression(solver="saga", l1_ratio=1.0, C=1 / (self.a * len(self.X)), fit_intercept=False, tol=0, max_iter=passes, random_state=0)
                    return model.fit(self.X, self.Y).coef_

            methods["scikit-learn LogisticRegression, saga"] = blind(sklearn)
        if self.classes == 2 and installed("copt", "numba"):
            import copt.penalty

            derivative = copt.penalty.njit(lambda p, y: 1 / (1 + np.exp(-p)) - y)               # copt's own starts threads for every sample

            def cop(passes, watch=None):
                stamps = []

                def callback(d):
                    stamps.append(time.process_time())
                    if watch is not None and len(stamps) > 1:
                        watch(d["x"])

                np.random.seed(0)
                start, labels, step = np.zeros(self.X.shape[1]), self.Y.astype(float), 1 / (3 * 0.25 * float(np.square(self.X).sum(1).max()))
                prox = copt.penalty.L1Norm(self.a).prox_factory(len(start))
                x = copt.minimize_saga(derivative, self.X, labels, start, step, prox=prox, max_iter=passes, tol=0, callback=callback).x
                cop.compilation = (stamps[1] - stamps[0]) - (stamps[-1] - stamps[1]) / (len(stamps) - 2) if len(stamps) > 2 else 0.0
                return x

            methods["copt minimize_saga"] = cop
        return methods
