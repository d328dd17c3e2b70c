"""The methods beside each other on five problems: a lasso, logistic regression with an l1 norm (digits), TV denoising, Poisson deconvolution, a lifted network (digits).

`python benchmarks/choose_a_solver.py [--quick] [--figure doc/choose_a_solver.png]` prints the tables of doc/choose_a_solver.md and draws the curves over data passes and seconds.
A new method is one line in METHODS: made for a time limit in seconds, and the forms it takes.
"""

import argparse
import platform
import time
from math import inf

import torch

import paralift as pl

LIMIT, TARGET = 10**7, 1e-6
# forms: "smooth" F + G; "box" the same with bounds; "positive" the same on x > 0; "split" G + H(K x); "quadratic" F + G, both with a prox; "curved" H(K x) + |x - b|^2/2;
# "blocks" G + H(K x) with ten groups of rows; "sum" a finite sum; "network" a lifted network, all samples at once; "batches" a network by minibatches
METHODS = {
    "PGD": (lambda s: pl.PGD(LIMIT, max_seconds=s), "smooth network"),
    "PGD, backtracking": (lambda s: pl.PGD(LIMIT, step="backtracking", max_seconds=s), "smooth"),
    "PGD, Barzilai-Borwein": (lambda s: pl.PGD(LIMIT, step="barzilai_borwein", max_seconds=s), "smooth network"),
    "PGD, heavy ball": (lambda s: pl.PGD(LIMIT, acceleration="heavy_ball", max_seconds=s), "smooth network"),
    "FISTA": (lambda s: pl.FISTA(LIMIT, max_seconds=s), "smooth network"),
    "FISTA, greedy": (lambda s: pl.FISTA(LIMIT, restart="greedy", max_seconds=s), "smooth"),
    "FISTA, no restart": (lambda s: pl.FISTA(LIMIT, restart=None, max_seconds=s), "smooth"),
    "BCD": (lambda s: pl.BCD(LIMIT, max_seconds=s), "smooth network"),
    "BCD, inertia 0.5": (lambda s: pl.BCD(LIMIT, inertia=0.5, max_seconds=s), "smooth network"),
    "BCD, groups of 50": (lambda s: pl.BCD(LIMIT, batch_size=50, max_seconds=s), "network"),
    "BregmanPGD, entropy": (lambda s: pl.BregmanPGD(LIMIT, max_seconds=s), "positive"),
    "LBFGS": (lambda s: pl.LBFGS(LIMIT, inner=20, max_seconds=s), "box"),
    "DouglasRachford": (lambda s: pl.DouglasRachford(LIMIT, max_seconds=s), "quadratic"),
    "PDHG": (lambda s: pl.PDHG(LIMIT, max_seconds=s), "split"),
    "PDHG, constant": (lambda s: pl.PDHG(LIMIT, variant="constant", max_seconds=s), "split"),
    "PDHG, accelerated": (lambda s: pl.PDHG(LIMIT, variant="accelerated", max_seconds=s), "curved"),
    "SPDHG, 10 subsets": (lambda s: pl.SPDHG(LIMIT, max_seconds=s), "blocks"),
    "ADMM": (lambda s: pl.ADMM(LIMIT, max_seconds=s), "split"),
    "SAGA": (lambda s: pl.SAGA(LIMIT, max_seconds=s), "sum"),
    "SVRG": (lambda s: pl.SVRG(LIMIT, max_seconds=s), "sum"),
    "Katyusha": (lambda s: pl.Katyusha(LIMIT, strong_convexity=1e-4, max_seconds=s), "sum"),
    "PIAG, 10 shards": (lambda s: pl.PIAG(LIMIT, max_seconds=s), "sum"),
    "PIAG, bold": (lambda s: pl.PIAG(LIMIT, step="bold", max_seconds=s), "sum"),
    "SGD": (lambda s: pl.SGD(LIMIT, schedule="sqrt", max_seconds=s), "sum"),
    "SGD, step 0.1": (lambda s: pl.SGD(LIMIT, step=0.1, max_seconds=s), "batches"),
    "SAGA, step 0.1": (lambda s: pl.SAGA(LIMIT, batch_size=32, step=0.1, max_seconds=s), "batches"),
    "SVRG, step 0.1": (lambda s: pl.SVRG(LIMIT, batch_size=32, step=0.1, max_seconds=s), "batches"),
    "PIAG, 40 shards, step 0.1": (lambda s: pl.PIAG(LIMIT, shards=40, step=0.1, max_seconds=s), "batches"),
    "ISGM": (lambda s: pl.ISGM(LIMIT, batch_size=32, max_seconds=s), "batches"),
    "ISGM, plain, tau 0.1": (lambda s: pl.ISGM(LIMIT, batch_size=32, metric="plain", step=0.1, max_seconds=s), "batches"),
    "ISGM, 3 sweeps, tau 1": (lambda s: pl.ISGM(LIMIT, batch_size=32, metric="plain", sweeps=3, step=1.0, max_seconds=s), "batches"),
    "ISGM, 3 sweeps, tau 100": (lambda s: pl.ISGM(LIMIT, batch_size=32, metric="plain", sweeps=3, step=100.0, max_seconds=s), "batches"),
}


class Products:
    """Counts the products with an operator and its adjoint; a pass is one of each."""

    def __init__(self, op):
        self.count = 0
        op._call, op._adjoint = self._counted(op._call), self._counted(op._adjoint)

    def _counted(self, product):
        def call(x):
            self.count += 1
            return product(x)
        return call


def regression(matrix, f, targets, loss, alpha):
    """{form: (problem, counted operator or None, E(point))} of f(A x) + alpha |x|_1, f a sum over rows."""
    def smooth():
        op = pl.MatrixOperator(matrix)
        counter, problem = Products(op), pl.Composite(f @ op, alpha * pl.L1Norm())
        return problem, counter, problem.value

    def split():
        op = pl.MatrixOperator(matrix)
        counter, problem = Products(op), pl.Composite(None, alpha * pl.L1Norm(), f @ op)
        return problem, counter, problem.value

    def blocks():
        problem = pl.Composite(None, alpha * pl.L1Norm(), pl.subsets(f @ pl.MatrixOperator(matrix), 10))
        return problem, None, problem.value

    def finite_sum():
        n, problem = len(matrix), pl.linear_model(matrix, targets, loss=loss, regulariser=alpha / len(matrix) * pl.L1Norm())
        return problem, None, lambda point: n * problem.value({"weight": point["weight"]})

    return {"smooth": smooth, "split": split, "blocks": blocks, "sum": finite_sum}


def lasso(quick):
    """Columns scaled from 1 down to 0.1, a twentieth of them in the truth."""
    m, n = (100, 200) if quick else (200, 600)
    g = torch.Generator().manual_seed(0)
    A = torch.randn(m, n, dtype=torch.float64, generator=g) * torch.logspace(0, -1, n, dtype=torch.float64)
    truth = torch.zeros(n, dtype=torch.float64)
    truth[torch.randperm(n, generator=g)[:n // 20]] = 1
    b = A @ truth + 0.01 * torch.randn(m, dtype=torch.float64, generator=g)
    f = 0.5 * pl.L2NormSquared().translated(b)
    forms = regression(A, f, b, "squared_error", 0.1)
    return {**forms, "quadratic": forms["smooth"]}


def logistic(quick):
    """Odd digits against even ones, standardised."""
    (x, y), _ = pl.data.digits()
    x, y = x[:300 if quick else 1200].double(), y[:300 if quick else 1200]
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-2)
    odd = (y % 2).double()
    return regression(x, pl.LogisticLoss(2 * odd - 1), odd, "logistic", 1.0)


def denoising(quick):
    """|x - b|^2/2 + 0.1 TV(x), a square on noise; as "smooth" its dual, from which x = b - D* p."""
    n = 32 if quick else 64
    b = 0.1 * torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b[n // 4:n // 2, n // 3:3 * n // 4] += 1
    F, a, space = 0.5 * pl.L2NormSquared().translated(b), 0.1, pl.Space((n, n), torch.float64)
    primal = pl.Composite(F, None, a * pl.GroupL1Norm() @ pl.Gradient(space), start=b)

    def split():
        op = pl.Gradient(space)
        return pl.Composite(F, None, a * pl.GroupL1Norm() @ op, start=b), Products(op), primal.value

    def dual():
        op = pl.Gradient(space)
        counter = Products(op)
        return pl.Composite(F @ op.adjoint, (a * pl.GroupL1Norm(space=(2, n, n))).convex_conj), counter, lambda p: primal.value({"x": b - primal.linear[0][1]._adjoint(p["x"])})

    return {"smooth": dual, "split": split, "curved": split}


def poisson(quick):
    """Kullback-Leibler divergence of counts from a blurred signal, x >= 0."""
    n = 60 if quick else 200
    m, g = 3 * n // 2, torch.Generator().manual_seed(0)
    grid, centres = torch.linspace(0, 1, m, dtype=torch.float64)[:, None], torch.linspace(0, 1, n, dtype=torch.float64)[None]
    A = torch.exp(-((grid - centres) * n) ** 2 / 2) + 0.002
    truth = torch.where(torch.rand(n, generator=g) < 0.3, 40 * torch.rand(n, generator=g), torch.tensor(2.0)).double()
    counts = torch.poisson(A @ truth, generator=g) + 1
    start, f = torch.full((n,), float(counts.mean() / A.sum(1).mean()), dtype=torch.float64), pl.KullbackLeibler(counts)

    def smooth():
        op = pl.MatrixOperator(A)
        counter, problem = Products(op), pl.Composite(f @ op, pl.IndicatorNonnegative(), start=start)
        return problem, counter, problem.value

    def split():
        op = pl.MatrixOperator(A)
        counter, problem = Products(op), pl.Composite(None, pl.IndicatorNonnegative(), f @ op, start=start)
        return problem, counter, problem.value

    def blocks():
        problem = pl.Composite(None, pl.IndicatorNonnegative(), pl.subsets(f @ pl.MatrixOperator(A), 10), start=start)
        return problem, None, problem.value

    return {"smooth": smooth, "box": smooth, "positive": smooth, "split": split, "blocks": blocks}


def network(quick):
    """Test error (%) of the forward network, 64-128-64-10 ReLU on 1348 digits."""
    torch.manual_seed(0)
    (x, y), (xt, yt) = pl.data.digits()
    layers = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))

    def make():
        problem = pl.LiftedTraining(layers, x, y)
        return problem, None, lambda theta: 100 * float((problem.predict(theta, xt).argmax(1) != yt).double().mean())

    return {"network": make, "batches": make}


PROBLEMS = {"lasso": (lasso, ("smooth", pl.FISTA, 1e-11)), "logistic, digits": (logistic, ("smooth", pl.FISTA, 1e-10)), "TV denoising": (denoising, ("smooth", pl.FISTA, 1e-11)),
            "Poisson deconvolution": (poisson, ("box", pl.LBFGS, 1e-11))}


def curve(make, form, limit, best=None):
    """[(passes, seconds, relative gap or error)]; neither counts what the measuring takes. It stops at a gap of 1e-8."""
    problem, counter, measure = form()
    rows, away, measured, began = [], 0.0, 0, time.perf_counter()

    def watch(result):
        nonlocal away, measured
        now = time.perf_counter()
        passes, before = result.data_passes if counter is None else (counter.count - measured) / 2, 0 if counter is None else counter.count
        value = float(measure(result.x))
        rows.append((passes, now - began - away, value if best is None else (value - best) / abs(best)))
        measured += 0 if counter is None else counter.count - before
        away += time.perf_counter() - now
        if best is not None and rows[-1][2] <= 1e-8 or now - began - away > limit:
            raise StopIteration

    solver = make(10 * limit)
    solver.solve(problem, callback=watch, record_every=1 if counter is None or isinstance(solver, pl.LBFGS) else 5, progress=False)
    return rows


def reach(rows, level):
    """(passes, seconds) at which the level is first reached, (inf, inf) where it is not."""
    return next(((p, s) for p, s, v in rows if v <= level), (inf, inf))


def draw(curves, path):
    """One column a problem; above over data passes, below over seconds."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from PIL import Image

    names = list(dict.fromkeys(name for lines in curves.values() for name in lines))
    kinds, style = {}, {}                                # a colour a class, a dash a variant
    for name in names:
        variants = kinds.setdefault(name.split(",")[0], [])
        variants.append(name)
        k = list(kinds).index(name.split(",")[0])
        style[name] = {"color": colormaps["tab20"]((2 * k) % 20 + k // 10), "linestyle": ("-", "--", ":", "-.")[(len(variants) - 1) % 4], "linewidth": 1.3, "label": name}
    figure = Figure(figsize=(17, 7.2), layout="constrained")
    axes = figure.subplots(2, len(curves), sharey="col")
    for column, (problem, lines) in enumerate(curves.items()):
        for row, unit in enumerate(("data passes", "seconds")):
            axis = axes[row][column]
            for name, rows in lines.items():
                kept = rows if len(rows) < 200 else [rows[round(len(rows) ** (i / 199)) - 1] for i in range(200)]
                axis.plot([max(r[row], 1e-3) for r in kept], [max(r[2], 1e-10) for r in kept], **style[name])
            axis.set(xscale="log", yscale="log", xlabel=unit, title=problem if row == 0 else None)
            if column == 0 or problem == list(curves)[-1]:
                axis.set_ylabel("test error (%)" if column else "relative gap")
            axis.grid(alpha=0.3)
    found = {}
    for axis in axes.flat:
        found.update(dict(zip(*reversed(axis.get_legend_handles_labels()))))
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=8, fontsize=8)
    figure.savefig(path, dpi=75)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)
    print(f"\nfigure: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller problems, shorter limits (under a minute)")
    parser.add_argument("--figure", help="file for the curves, for instance doc/choose_a_solver.png")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    limit, budget = (0.4, 0.6) if arguments.quick else (10.0, 10.0)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, one thread{', quick' if arguments.quick else ''}\n")

    curves = {}
    for name, (make, (form, method, tolerance)) in PROBLEMS.items():
        forms = make(arguments.quick)
        problem, _, value = forms[form]()
        best = float(value(method(10**6, tolerance=tolerance, max_seconds=6 * limit).solve(problem, record_every=1 if method is pl.LBFGS else 50, progress=False).x))
        curves[name] = {}
        for title, (solver, takes) in METHODS.items():
            for taken in takes.split():
                if taken in forms:
                    curves[name][title] = curve(solver, forms[taken], limit, best)
    print(f"Data passes and seconds to a relative gap of {TARGET:g}, at most {limit:g} s; in brackets the gap where that was not enough\n")
    print("| method | " + " | ".join(f"{name}: passes | s" for name in curves) + " |\n|---|" + "---|---|" * len(curves))
    for title in METHODS:
        cells = []
        for lines in curves.values():
            passes, seconds = reach(lines.get(title, []), TARGET)
            cells += [f"{passes:.0f}", f"{seconds:.3f}"] if passes < inf else [f"({min(r[2] for r in lines[title]):.0e})", "-"] if title in lines else ["", ""]
        if any(cells):
            print(f"| {title} | " + " | ".join(cells) + " |", flush=True)

    forms, marks, errors = network(arguments.quick), [budget / 10, budget / 3, budget], {}
    print("\nNetwork on digits, 64-128-64-10 ReLU, 1348 samples: test accuracy (%) after so many seconds, and passes made\n")
    print("| method | " + " | ".join(f"{m:.2g} s" for m in marks) + " | passes |\n|---|" + "---|" * (len(marks) + 1))
    for title, (solver, takes) in METHODS.items():
        for taken in takes.split():
            if taken in forms:
                rows = errors[title] = curve(solver, forms[taken], budget)
                cells = [f"{100 - a[-1]:.1f}" if (a := [v for _, s, v in rows if s <= m]) else "-" for m in marks]
                print(f"| {title} | " + " | ".join(cells) + f" | {rows[-1][0]:.0f} |", flush=True)
    if arguments.figure:
        draw({**curves, "network, digits": errors}, arguments.figure)


if __name__ == "__main__":
    main()
