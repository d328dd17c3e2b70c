"""The weight of a regulariser by rule: the discrepancy principle and quasi-optimality."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, log
from typing import Any

import torch

from ..arguments import Count, checked
from ..problems.reconstruction import Reconstruction
from .fista import FISTA
from .pdhg import PDHG
from .result import Result
from .solver import Solver
from .stopping import Tolerance

__all__ = ["ChosenWeight", "discrepancy_weight", "quasi_optimality_weight"]


@dataclass
class ChosenWeight:
    """`weight, result, table = discrepancy_weight(...)`: the weight, the reconstruction with it, and {column: list} over all weights tried, in their order."""

    weight: float
    result: Result
    table: dict

    def __iter__(self) -> Iterator[Any]:
        return iter((self.weight, self.result, self.table))


@checked
def discrepancy_weight(problem: Reconstruction, noise_level: float | None = None, solver: Solver | None = None, safety: float = 1.0, samples: Count | None = None,
                       start: float = 1.0, tolerance: float = 0.02, max_solves: Count = 30) -> ChosenWeight:
    """The weight a of a * R with |A x_a - b|^2 = safety^2 m s^2 (Gaussian noise) or 2 KL(b, A x_a + r) = safety m (Poisson): Morozov's principle.

    Parameters
    ----------
    problem : Reconstruction with "gaussian" or "poisson" data; its regulariser is multiplied by a.
    noise_level : s, standard deviation of a datum (complex data: root of E|noise|^2 of one complex number). Not for "poisson" or where the problem has a standard_deviation.
    solver : by default PDHG for "poisson", FISTA for "gaussian"; every weight starts from the image of the nearest one tried.
    safety : a little above 1 guards against too low a noise level.
    samples : m; by default the number of data that are not exactly 0 for "gaussian" (unmeasured k-space is 0), of all data for "poisson".
    start : first weight tried; then by factors of 4 until the discrepancy is bracketed, then by secants in log a.
    tolerance : relative, on the discrepancy.

    Returns a ChosenWeight; its table has "weight", "discrepancy", "target". The discrepancy grows with a; ValueError where no weight meets the target: the data cannot be fitted
    so closely, or R cannot hold the image back so far.
    Sources: Morozov, Sov. Math. Dokl. 7, 1966; Poisson: Bertero, Boccacci, Talenti, Zanella & Zanni, Inverse Probl. 26, 2010.
    """
    _check(problem, "discrepancy_weight", solver, start)
    poisson = problem.fidelity == "poisson"
    if problem.fidelity not in ("gaussian", "poisson"):
        raise ValueError(f"discrepancy_weight got a problem with fidelity={problem.fidelity!r}; the principle is stated for 'gaussian' and 'poisson'.")
    whitened = problem.standard_deviation is not None
    if (noise_level is None) != (poisson or whitened):
        raise ValueError(f"discrepancy_weight got noise_level={noise_level!r}; it needs the standard deviation of a datum for 'gaussian', unless the problem has one, and "
                         "none for 'poisson'.")
    if noise_level is not None and not 0 < noise_level < inf:
        raise ValueError(f"discrepancy_weight got noise_level={noise_level!r}; it needs a positive number.")
    solver = solver or _default(problem)
    m = samples if samples is not None else problem.data.numel() if poisson else int(problem.data.count_nonzero())
    target = safety * m if poisson else safety**2 * m * (1.0 if whitened else noise_level**2)  # type: ignore[operator]
    table, results = {"weight": [], "discrepancy": [], "target": []}, {}

    def misfit(a):
        image = results[min(results, key=lambda b: abs(log(b / a)))].solution if results else None
        results[a] = _solve(solver, problem.reweighted(a, image))
        value = 2 * float(problem.misfit(results[a].solution))
        for name, v in zip(table, (a, value, target)):
            table[name].append(v)
        return log(value / target) if value > 0 else -inf

    a, height = float(start), misfit(float(start))
    below, above, falls = None, None, []
    for _ in range(max_solves - 1):
        if abs(exp(height) - 1) <= tolerance:
            return ChosenWeight(a, results[a], table)
        if height < 0:
            below = (log(a), height)
        else:
            above = (log(a), height)
        if below and above:
            (l, p), (u, q) = below, above
            t = -p / (q - p) if isfinite(p) else 0.5
            a = exp(l + (u - l) * min(max(t, 0.05), 0.95))
            if u - l < 1e-6:
                break
        else:
            a *= 4.0 if below else 0.25
        if not 1e-15 < a / start < 1e15:
            break
        before, height = height, misfit(a)
        falls.append(before - height)
        if not below and height > tolerance and falls[-3:] == sorted(falls[-3:], reverse=True) and len(falls) > 2 and 0 < falls[-1] < 1e-3:      # it levels off above the target
            break
    why = ("the data cannot be fitted so closely: is the noise level too low, or has the solver too few iterations?" if not below else
           "the regulariser cannot hold the image back so far: is the noise level too high?" if not above else "give the solver more iterations, or raise tolerance.")
    raise ValueError(f"no weight meets the discrepancy: at {table['weight'][-1]:.3g} it is {table['discrepancy'][-1]:.4g} against the target {target:.4g}; {why}")


@checked
def quasi_optimality_weight(problem: Reconstruction, weights: Sequence[float] | None = None, solver: Solver | None = None) -> ChosenWeight:
    """The weight a_i of a geometric grid that makes |x_{a_{i+1}} - x_{a_i}| smallest; no noise level is asked for.

    Parameters
    ----------
    problem : Reconstruction; its regulariser is multiplied by a.
    weights : the grid, positive, with a constant ratio; by default 10^(-2), 10^(-1.75), ..., 10^2.
    solver : as in `discrepancy_weight`; every weight starts from the image of the one before, largest first.

    Returns a ChosenWeight; its table has "weight" and "change" (the last weight, with nothing after it, inf). Where the minimum is at an end of the grid, extend the grid.
    Meant for ill-posed A: where A is well conditioned the change vanishes with the weight, so the smallest weight wins.
    For noise that is known use `discrepancy_weight`: no rule without a noise level converges for every noise (Bakushinskii's veto).
    Sources: Tikhonov, Glasko & Kriksin, Sov. Math. Dokl. 20, 1979; Bauer & Kindermann, Inverse Probl. 24, 2008.
    """
    _check(problem, "quasi_optimality_weight", solver, 1.0)
    grid = [10 ** (k / 4) for k in range(-8, 9)] if weights is None else sorted(float(a) for a in weights)
    if len(grid) < 3 or not grid[0] > 0 or any(abs(log(c / b) - log(b / a)) > 1e-3 * log(b / a) + 1e-9 for a, b, c in zip(grid, grid[1:], grid[2:])) or grid[0] == grid[1]:
        raise ValueError(f"quasi_optimality_weight got weights={weights!r}; it needs at least 3 positive numbers with a constant ratio, such as numpy.geomspace(1e-3, 1e-1, 9).")
    solver, results, image = solver or _default(problem), [], None
    for a in reversed(grid):
        results.insert(0, _solve(solver, problem.reweighted(a, image)))
        image = results[0].solution
    change = [float(torch.linalg.vector_norm(b.solution - a.solution)) for a, b in zip(results, results[1:])]
    best = min(range(len(change)), key=change.__getitem__)
    return ChosenWeight(grid[best], results[best], {"weight": grid, "change": [*change, inf]})


def _check(problem, who, solver, start):
    if not isinstance(problem, Reconstruction) or problem.regulariser is None:
        raise TypeError(f"{who} got {problem!r}; it needs a Reconstruction with a regulariser.")
    if solver is not None and not isinstance(solver, Solver):
        raise TypeError(f"{who} got solver={solver!r}; it needs a Solver, such as PDHG(300).")
    if not 0 < start < inf:
        raise ValueError(f"{who} got start={start!r}; it needs a positive weight.")


def _default(problem):
    return PDHG(300) if problem.fidelity == "poisson" else FISTA(200, tolerance=Tolerance(change=1e-6))


def _solve(solver, problem):
    return solver.solve(problem, progress=False, record_every=10)
