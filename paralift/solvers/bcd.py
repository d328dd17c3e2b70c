"""Block coordinate descent: PALM sweeps over the blocks."""

import warnings
from math import isfinite

import torch

from .solver import NO_GRADIENT, NO_PROX, Solver

__all__ = ["BCD"]


class BCD(Solver):
    """For every group of blocks in the problem's sweep order: u_b <- prox_{tau_b G_b}(u_b - tau_b grad_b F(u)), the others as they are now;
    u_b <- u_b - M_b^{-1} grad_b F(u) where the problem has a majoriser M_b of the block's Hessian (the one-layer regression of a linear layer).

    Parameters
    ----------
    step : factor on 1/L_b, the bound of the block at the current point; at most 1 descends.
    backtracking : halve a group's step until F falls below its quadratic model (at most 40 times).

    Every sweep lowers E; limit points are critical where E is semialgebraic (Bolte, Sabach & Teboulle, Math. Program. 146, 2014; in a variable
    metric: Chouzenoux, Pesquet & Repetti, J. Global Optim. 66, 2016). On p blocks, E smooth and mu-strongly convex, a sweep lowers E - E* by
    1 - mu / (2 Lmax (1 + p L^2/Lmin^2)) or more (Beck & Tetruashvili, SIAM J. Optim. 23(4), 2013).
    """

    needs = (NO_GRADIENT, NO_PROX)

    def __init__(self, max_iterations=100, step=1.0, backtracking=True, tolerance=0.0, max_seconds=float("inf")):
        super().__init__(max_iterations, tolerance, max_seconds)
        if not step > 0:
            raise ValueError(f"BCD got step={step}; it needs a positive number (1 is the bound's own step).")
        self.step_factor, self.backtracking = step, backtracking
        if step > 1:
            warnings.warn(f"BCD got step={step:g}, which is above 1, the largest factor on 1/L_b that is proved to descend; use step=1.", stacklevel=2)

    def start(self, problem):
        return {"point": problem.start()}

    def step(self, problem, state):
        point = dict(state["point"])
        residual = 0.0
        for group in problem.sweep_order():
            lin, solve = problem.linearise(point, group), problem.majoriser(point, group)
            if solve is not None:
                change = solve(lin.gradient)
                residual += float(sum(torch.sum(lin.gradient[k] ** 2) for k in group))
                point.update({k: torch.sub(point[k], change[k], alpha=self.step_factor) for k in group})
                continue
            bounds = problem.lipschitz(point, group)
            tau = {k: self.step_factor / max(float(bounds[k]), 1e-12) if isfinite(bounds[k]) else 1.0 for k in group}
            for _ in range(40):
                new = problem.prox({k: torch.sub(point[k], lin.gradient[k], alpha=tau[k]) for k in group}, tau)
                d = {k: new[k] - point[k] for k in group}
                size = {k: float(v.abs().square().sum()) for k, v in d.items()}
                if not self.backtracking:
                    break
                model = lin.value + problem.inner(lin.gradient, d) + sum(0.5 / tau[k] * size[k] for k in group)
                if problem.smooth_value({**point, **new}, group) <= model + 10 * torch.finfo(model.dtype).eps * abs(lin.value):
                    break
                tau = {k: 0.5 * v for k, v in tau.items()}
            residual += sum(size[k] / tau[k] ** 2 for k in group)
            point.update(new)
        return {"point": point}, {"objective": float(problem.value(point)), "residual": residual**0.5, **problem.metrics(point)}
