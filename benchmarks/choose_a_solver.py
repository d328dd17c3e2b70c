"""The methods beside each other: a lasso (iterations and seconds to a relative gap of 1e-8) and a network on the digits (accuracy after a given time).

`python benchmarks/choose_a_solver.py [--quick] [--output DIR]` prints the tables of doc/choose_a_solver.md; with --output it also saves a figure.
A new method is one line in METHODS.
"""

import argparse
import time
from math import inf
from pathlib import Path

import torch

import paralift as pl

LIMIT = 10**6
# name: (the solver, made afresh for a time limit in seconds; the tasks it is run on)
METHODS = {
    "PGD": (lambda s: pl.PGD(LIMIT, max_seconds=s), "lasso digits"),
    "PGD nesterov": (lambda s: pl.PGD(LIMIT, acceleration="nesterov", max_seconds=s), "lasso digits"),
    "PGD heavy_ball": (lambda s: pl.PGD(LIMIT, acceleration="heavy_ball", max_seconds=s), "lasso digits"),
    "BCD": (lambda s: pl.BCD(LIMIT, max_seconds=s), "lasso digits"),
    "ISGM, 1 sweep, adam": (lambda s: pl.ISGM(LIMIT, batch_size=32, max_seconds=s), "digits"),
    "ISGM, 1 sweep, plain, tau 0.1": (lambda s: pl.ISGM(LIMIT, batch_size=32, metric="plain", step=0.1, max_seconds=s), "digits"),
    "ISGM, 3 sweeps, plain, tau 1": (lambda s: pl.ISGM(LIMIT, batch_size=32, metric="plain", sweeps=3, step=1.0, max_seconds=s), "digits"),
    "ISGM, 3 sweeps, plain, tau 100": (lambda s: pl.ISGM(LIMIT, batch_size=32, metric="plain", sweeps=3, step=100.0, max_seconds=s), "digits"),
}


def lasso(rows, columns, decay, weight):
    """min |A x - b|^2/2 + weight |x|_1, A Gaussian with columns scaled from 1 down to `decay`."""
    g = torch.Generator().manual_seed(0)
    A = torch.randn(rows, columns, dtype=torch.float64, generator=g) * torch.logspace(0, torch.log10(torch.tensor(decay)).item(), columns, dtype=torch.float64)
    truth = torch.zeros(columns, dtype=torch.float64)
    truth[torch.randperm(columns, generator=g)[:columns // 20]] = 1
    b = A @ truth + 0.01 * torch.randn(rows, dtype=torch.float64, generator=g)
    return pl.Composite(0.5 * pl.L2NormSquared().translated(b) @ pl.MatrixOperator(A), weight * pl.L1Norm())


def run_lasso(make, instance, best, limit):
    """(iterations, seconds, gaps, times) until E - E* <= 1e-8 E*; the clock includes the estimate of the Lipschitz constant. inf where the limit comes first."""
    problem, gaps, times = lasso(*instance), [], []
    began = time.perf_counter()

    def watch(result):
        gaps.append((result.objective - best) / best)
        times.append(time.perf_counter() - began)
        if gaps[-1] <= 1e-8:
            raise StopIteration

    make(limit).solve(problem, callback=watch)
    done = gaps[-1] <= 1e-8
    return len(gaps) if done else inf, times[-1] if done else inf, gaps, times


def run_digits(make, budget):
    """(times, accuracies of the forward network, passes); accuracies are computed after the run, so they cost no time."""
    torch.manual_seed(0)
    (x, y), (xt, yt) = pl.data.digits()
    network = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    problem = pl.LiftedTraining(network, x, y)
    names, kept = [name for name, _ in network.named_parameters()], []
    began = time.perf_counter()

    def keep(result):
        now = time.perf_counter() - began
        if not kept or now - kept[-1][0] > budget / 100:
            kept.append((now, {name: result.x[name] for name in names}))

    result = make(budget).solve(problem, callback=keep)
    kept.append((min(budget, time.perf_counter() - began), result.x))
    score = lambda theta: 100 * float((problem.predict(theta, xt).argmax(1) == yt).double().mean())
    return [t for t, _ in kept], [score(theta) for _, theta in kept], result.data_passes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller lassos and a shorter budget (under 30 s)")
    parser.add_argument("--output", help="folder for the figure choose_a_solver.png")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = (100, 300) if arguments.quick else (200, 600)
    instances = {"lasso, well scaled": (*size, 1.0, 1.0), "lasso, badly scaled": (*size, 0.03, 0.01)}
    limit, budget = (2.0, 1.5) if arguments.quick else (20.0, 10.0)
    curves = {}

    print(f"lasso {size[0]} x {size[1]}: to a relative gap of 1e-8 (limit {limit:g} s)\n")
    print("| method | " + " | ".join(f"{name}: iterations | seconds" for name in instances) + " |\n|---|" + "---|---|" * len(instances))
    best = {}
    for name, instance in instances.items():
        best[name] = pl.PGD(100000, acceleration="nesterov", tolerance=1e-11, max_seconds=2 * limit).solve(lasso(*instance)).objective
    for method, (make, tasks) in METHODS.items():
        if "lasso" in tasks:
            cells = []
            for name, instance in instances.items():
                iterations, seconds, gaps, times = run_lasso(make, instance, best[name], limit)
                cells += [f"{iterations}", f"{seconds:.3f}"] if iterations < inf else ["-", f"> {limit:g} ({gaps[-1]:.0e})"]
                curves.setdefault(name, {})[method] = (times, [max(g, 1e-16) for g in gaps])
            print(f"| {method} | " + " | ".join(cells) + " |", flush=True)

    marks = [budget / 10, budget / 3, budget]
    print("\ndigits, 64-128-64-10 ReLU, 1348 samples: test accuracy (%) after so many seconds\n")
    print("| method | " + " | ".join(f"{m:.2g} s" for m in marks) + f" | passes in {budget:g} s |\n|---|" + "---|" * (len(marks) + 1))
    for method, (make, tasks) in METHODS.items():
        if "digits" in tasks:
            times, accuracies, passes = run_digits(make, budget)
            cells = [f"{a[-1]:.1f}" if (a := [a for t, a in zip(times, accuracies) if t <= m]) else "-" for m in marks]
            print(f"| {method} | " + " | ".join(cells) + f" | {passes:g} |", flush=True)
            curves.setdefault("digits", {})[method] = (times, accuracies)

    if arguments.output:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(13, 4), layout="constrained")
        for axis, (task, lines) in zip(figure.subplots(1, len(curves)), curves.items()):
            for method, (times, values) in lines.items():
                axis.plot(times, values, label=method)
            axis.set(title=task, xlabel="seconds", ylabel="test accuracy (%)" if task == "digits" else "relative gap")
            axis.set_yscale("linear" if task == "digits" else "log")
            axis.set_xscale("log")
            axis.grid(alpha=0.3)
            axis.legend(fontsize=7, loc="lower right" if task == "digits" else "lower left")
        path = Path(arguments.output)
        path.mkdir(parents=True, exist_ok=True)
        figure.savefig(path / "choose_a_solver.png", dpi=120)
        print(f"\nfigure: {path / 'choose_a_solver.png'}")


if __name__ == "__main__":
    main()
