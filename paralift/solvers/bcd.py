"""Block coordinate descent: PALM sweeps over the blocks."""

import torch

from .solver import Solver

__all__ = ["BCD"]


class BCD(Solver):
    """For every group of blocks in the problem's sweep order: u_b <- prox_{tau_b G_b}(u_b - tau_b grad_b F(u)), the others as they are now.

    Parameters
    ----------
    step : factor on 1/L_b, the bound of the block at the current point; at most 1 descends.
    backtracking : halve a group's step until F falls below its quadratic model (at most 40 times).

    Every sweep lowers E; limit points are critical where E is semialgebraic (Bolte, Sabach & Teboulle, Math. Program. 146, 2014).
    """

    needs = (("smooth", "its smooth part has no gradient."), ("has_prox", "its nonsmooth part has no prox."))

    def __init__(self, max_iterations=100, step=1.0, backtracking=True, tolerance=0.0, max_seconds=float("inf")):
        super().__init__(max_iterations, tolerance, max_seconds)
        if not step > 0:
            raise ValueError(f"BCD got step={step}; it needs a positive number (1 is the bound's own step).")
        self.step_factor, self.backtracking = step, backtracking

    def start(self, problem):
        return {"point": problem.start()}

    def step(self, problem, state):
        point = dict(state["point"])
        residual = 0.0
        for group in problem.sweep_order():
            lin = problem.linearise(point, group)
            bounds = problem.lipschitz(point, group)
            tau = {k: self.step_factor / max(float(bounds[k]), 1e-12) for k in group}
            for _ in range(40):
                new = problem.prox({k: point[k] - tau[k] * lin.gradient[k] for k in group}, tau)
                if not self.backtracking:
                    break
                d = {k: new[k] - point[k] for k in group}
                model = lin.value + sum(torch.sum(lin.gradient[k] * v) + 0.5 / tau[k] * v.square().sum() for k, v in d.items())
                if problem.smooth_value({**point, **new}) <= model + 10 * torch.finfo(model.dtype).eps * abs(lin.value):
                    break
                tau = {k: 0.5 * v for k, v in tau.items()}
            residual += sum(float((new[k] - point[k]).square().sum()) / tau[k] ** 2 for k in group)
            point.update(new)
        return {"point": point}, {"objective": float(problem.value(point)), "residual": residual**0.5, **problem.metrics(point)}
