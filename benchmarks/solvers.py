"""PARALIFT's solvers beside peers from PyPI: seconds until E - E* <= target * E*, same problem, one thread, alternating rounds.

`python benchmarks/solvers.py [--quick] [task ...]` prints a Markdown table. A reference point, certified by its duality gap, comes first. The number of
iterations that each method needs is then read off a watched run; what is timed is a run of that many iterations, unwatched, from data in memory to the
solution: set-up, Lipschitz constants and step search included, compilation excluded, in seconds of the processor. One numpy function in float64 evaluates E for all. Peers that are not installed are
left out: pyproximal and pylops, copt (with numba), scikit-learn, scikit-image. MNIST comes through PARALIFT_DATA.
"""

import argparse
import importlib.metadata
import importlib.util
import math
import platform
import statistics
import time
import warnings

import numpy as np
import scipy.sparse.linalg
import torch
from threadpoolctl import threadpool_limits

import paralift as pl

LIMIT, PATIENCE = 1_000_000, 30      # iterations; a peer that takes more than 30 times our time is left unfinished
FOUND = set()


class Reached(Exception):
    pass


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


def iterations_needed(task, run, limit):
    """(iterations until the target, whether it was reached within `limit` seconds): counted in a watched run; for blind ones by whole runs, from the slope of
    log gain over log iterations, until 2 % cannot be saved."""
    began = time.process_time()
    if not getattr(run, "blind", False):
        count = 0

        def watch(x):
            nonlocal count
            count += 1
            if task.gain(x) <= task.target:
                raise Reached
            if time.process_time() - began > limit:
                raise TimeoutError

        try:
            run(LIMIT, watch)
        except Reached:
            return count, True
        except TimeoutError:
            pass
        return count, False
    low, high, k = (0, math.inf), None, 4
    for _ in range(30):
        gain = task.gain(run(k))
        if gain <= task.target:
            high = (k, max(gain, 1e-16))
        else:
            low = (k, gain)
        if high is None:
            if time.process_time() - began > limit:
                return k, False
            k *= 2
        elif high[0] - low[0] <= max(1, 0.02 * high[0]):
            break
        elif low[0]:
            slope = math.log(low[1] / high[1]) / math.log(high[0] / low[0])
            guess = low[0] * (low[1] / task.target) ** (1 / slope)
            k = int(min(max(guess, low[0] + 0.02 * (high[0] - low[0]) + 1), high[0] - 1))
        else:
            k = high[0] // 2
    return high[0], True


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
            return pyproximal.optimization.primal.ProximalGradient(pyproximal.L2(op, b), prox(pyproximal), np.zeros(n), tau=tau, acceleration="fista", niter=iterations, callback=watch)

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
        return pl.FISTA(LIMIT, tolerance=pl.Tolerance(gap=0.01 * self.target * min(1, self.value(np.zeros(self.A.shape[1]))) * 0.1)).solve(
            self.problem(), record_every=50, progress=False).x["x"].numpy()

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
                    return pyproximal.optimization.primaldual.PrimalDual(pyproximal.L2(b=self.b.ravel()), pyproximal.L21(2, self.a), D, self.b.ravel().copy(), tau, mu, niter=iterations, callback=watch)
                return run

            methods.update({f"pyproximal PrimalDual, sqrt(mu/tau) = {r:g}": primal_dual(r) for r in (1.0, 4.0, 16.0)})
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
            (x, y), _ = pl.data.mnist()
        except FileNotFoundError:
            (x, y), _ = pl.data.digits()
        self.x, self.y = x[:samples].contiguous(), (y if classes > 2 else (y >= 5).long())[:samples]
        self.X, self.Y = self.x.numpy(), self.y.numpy()
        self.classes, self.a, self.name = classes, a, f"logistic regression, MNIST {len(self.x)} x {self.x.shape[1]}, {classes} classes, a = {a:g}"

    def _residual(self, x):
        """(mean loss, p - e_y, sum of the conjugates' arguments) at the weights x; one column for two classes."""
        z = self.X @ x.reshape(-1, self.X.shape[1]).T.astype(np.float32)
        z = np.concatenate([np.zeros_like(z), z], 1).astype(np.float64) if self.classes == 2 else z.astype(np.float64)
        z -= z.max(1, keepdims=True)
        e = np.exp(z)
        total = e.sum(1, keepdims=True)
        loss = (np.log(total[:, 0]) - z[np.arange(len(z)), self.Y]).mean()
        return loss, e / total

    def value(self, x):
        return self._residual(x)[0] + self.a * np.abs(x).sum()

    def gap(self, x):
        p = self._residual(x)[1]
        one = np.eye(p.shape[1])[self.Y]
        r = (p - one)[:, 1:] if self.classes == 2 else p - one
        s = min(1, self.a / (np.abs(r.T @ self.X.astype(np.float64)).max() / len(r)))
        q = one + s * (p - one)
        return self.value(x) + np.sum(q * np.log(np.maximum(q, 1e-300))) / len(r)

    def problem(self, dtype=torch.float32):
        return pl.linear_model(self.x.to(dtype), self.y if self.classes > 2 else self.y.to(dtype), loss="cross_entropy" if self.classes > 2 else "logistic", regulariser=self.a * pl.L1Norm())

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
                    return LogisticRegression(solver="saga", l1_ratio=1.0, C=1 / (self.a * len(self.X)), fit_intercept=False, tol=0, max_iter=passes, random_state=0).fit(self.X, self.Y).coef_

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
                start, labels = np.zeros(self.X.shape[1]), self.Y.astype(float)
                step = 1 / (3 * 0.25 * float(np.square(self.X).sum(1).max()))
                x = copt.minimize_saga(derivative, self.X, labels, start, step, prox=copt.penalty.L1Norm(self.a).prox_factory(len(start)), max_iter=passes, tol=0, callback=callback).x
                cop.compilation = (stamps[1] - stamps[0]) - (stamps[-1] - stamps[1]) / (len(stamps) - 2) if len(stamps) > 2 else 0.0
                return x

            methods["copt minimize_saga"] = cop
        return methods


# ---- the comparison
def compare(task, rounds):
    """Rows (name, iterations, seconds a round)."""
    task.certify()
    print(f"\n**{task.name}**: E* = {task.best:.8g}, certified to {task.certificate:.0e}; target {task.target:g}; {rounds} rounds\n", flush=True)
    runs, limit = {}, math.inf
    for name, run in task.methods().items():
        runs[name] = run, *iterations_needed(task, run, limit)
        if limit == math.inf:                                  # ours comes first
            began = time.process_time()
            run(runs[name][1])
            limit = max(10.0, PATIENCE * (time.process_time() - began))
    times = {name: [] for name, (_, _, done) in runs.items() if done}
    for i in range(rounds):
        for name in list(times) if i % 2 else reversed(list(times)):
            run, k, _ = runs[name]
            began = time.process_time()
            x = run(k)
            times[name].append(time.process_time() - began - getattr(run, "compilation", 0.0))
            if task.gain(x) > 1.05 * task.target:
                print(f"{name}: {task.gain(x):.2e} after {k} iterations")
    own = next(iter(times))
    print("| method | iterations | seconds: median (range) | ms an iteration | pl / this one: median (range) |\n|---|---|---|---|---|")
    for name, (_, k, done) in runs.items():
        if not done:
            print(f"| {name} | > {k} | - | - | < {1 / PATIENCE:g} |")
            continue
        t, ratios = times[name], [a / b for a, b in zip(times[own], times[name])]
        spread = "-" if name == own else f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"| {name} | {k} | {statistics.median(t):.4g} ({min(t):.4g} to {max(t):.4g}) | {1e3 * statistics.median(t) / k:.3g} | {spread} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small problems, under a minute")
    parser.add_argument("task", nargs="*", help="lasso, ill, completion, tv, binary, classes; all by default")
    arguments = parser.parse_args()
    q = arguments.quick
    tasks = {
        "lasso": lambda: Lasso("lasso", *((100, 400) if q else (500, 2000)), 1.0, 0.1),
        "ill": lambda: Lasso("ill-conditioned lasso", *((100, 400) if q else (500, 2000)), 0.01, 0.01),
        "completion": lambda: Completion(*((60, 40, 4) if q else (300, 200, 10)), 0.05),
        "tv": lambda: Denoising(64 if q else 512, 0.05),
        "binary": lambda: Logistic(2, 2000 if q else 60000, 1e-2 if q else 1e-3),
        "classes": lambda: Logistic(10, 2000 if q else 60000, 1e-2 if q else 1e-3),
    }
    torch.set_num_threads(1)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numpy", "scipy", "pyproximal", "pylops", "copt", "numba", "scikit-learn", "scikit-image")
                if importlib.util.find_spec({"scikit-learn": "sklearn", "scikit-image": "skimage"}.get(name, name))]
    print(f"Python {platform.python_version()}, {', '.join(versions)}; {platform.machine()}, one thread{', quick' if q else ''}")
    with threadpool_limits(1):
        for name in arguments.task or tasks:
            compare(tasks[name](), 3 if q else 5)


if __name__ == "__main__":
    main()
