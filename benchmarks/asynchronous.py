"""Time to a target objective of gradients from workers: with a barrier at every update, and without (`PIAG(asynchronous=True)`).

Sparse logistic regression; worker 0 holds the parameters, the others the samples. A gradient takes a given time on every worker (arithmetic and a sleep, so that the cores of
the machine do not decide): the same everywhere; ten times as long on one worker; ten times as long for one gradient in ten, at random. Methods take turns in every round. Both
are one method with the same messages: with max_delay=0 and the step h/L it is synchronous proximal gradient. Beside them the adaptive rule, and FISTA (accelerated, synchronous,
over as many workers with samples). Prints medians and ratios.
"""

import argparse
import random
import statistics
import time

import torch

import paralift as pl
from paralift.problems.finite_sum import FiniteSum
from paralift.problems.lifted import LiftedProblem


def sparse_logistic(n, d):
    g = torch.Generator().manual_seed(0)
    X = torch.randn(n, d, dtype=torch.float64, generator=g) * torch.logspace(0, -0.7, d, dtype=torch.float64)
    y = X[:, ::5].sum(1) + torch.randn(n, dtype=torch.float64, generator=g)
    return pl.linear_model(X, (y > 0).long(), loss="logistic", regulariser=2e-3 * pl.L1Norm())


def take_time(seconds):
    """A gradient of a worker's samples takes at least seconds(its place among those that hold samples)."""
    def slowed(method, first):
        def call(self, *arguments, **named):
            end = time.perf_counter() + seconds(torch.distributed.get_rank() - first)
            found = method(self, *arguments, **named)
            time.sleep(max(0.0, end - time.perf_counter()))
            return found
        return call

    FiniteSum.factors, LiftedProblem.stage_terms = slowed(FACTORS, 1), slowed(TERMS, 0)


FACTORS, TERMS = FiniteSum.factors, LiftedProblem.stage_terms


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--milliseconds", type=float, default=5.0, help="of a gradient of one worker's samples")
    parser.add_argument("--target", type=float, default=1e-3, help="relative distance to the least objective")
    given = parser.parse_args()
    torch.set_num_threads(1)
    problem, rounds, one = (sparse_logistic(300, 20), 1, 1e-3) if given.quick else (sparse_logistic(3000, 100), given.rounds, given.milliseconds / 1000)
    best = pl.FISTA(5000, tolerance=1e-11).solve(problem).objective
    target = pl.Tolerance(objective=(1 + given.target) * best)
    dice = random.Random(0)
    scenarios = {"equal speeds": lambda w: one, "one worker ten times slower": lambda w: 10 * one if w == 2 else one,
                 "one gradient in ten ten times slower": lambda w: 10 * one if dice.random() < 0.1 else one}
    methods = {"synchronous": lambda: pl.PIAG(20000, asynchronous=True, step="fixed", max_delay=0, tolerance=target).solve(problem, workers=4),
               "asynchronous": lambda: pl.PIAG(20000, asynchronous=True, tolerance=target).solve(problem, workers=4),
               "adaptive": lambda: pl.PIAG(20000, asynchronous=True, step="adaptive", max_seconds=60, tolerance=target).solve(problem, workers=4),
               "FISTA": lambda: pl.FISTA(20000, tolerance=target).solve(problem, workers=pl.Workers(data=3))}
    print(f"3 workers with {problem.samples} samples, {given.target:g} above the optimum, {1000 * one:g} ms a gradient, median of {rounds} rounds: seconds (largest delay)")
    print(f"{'':<38}" + "".join(f"{name:>20}" for name in methods) + f"{'asynchronous / synchronous':>30}")
    for name, seconds in scenarios.items():
        take_time(seconds)
        found = {method: [] for method in methods}
        for _ in range(rounds):
            for method, solve in methods.items():
                result = solve()
                found[method].append((result.seconds if result.status is pl.Status.CONVERGED else float("inf"), int(max(result.history.get("delay", [0])))))
        median = {method: statistics.median(s for s, _ in runs) for method, runs in found.items()}
        ratio = statistics.median(a / b for (a, _), (b, _) in zip(found["asynchronous"], found["synchronous"]))
        print(f"{name:<38}" + "".join(f"{f'{median[m]:.2f} ({max(d for _, d in found[m])})':>20}" for m in methods) + f"{ratio:>30.2f}", flush=True)


if __name__ == "__main__":
    main()
