"""Proximal gradient descent, plain and accelerated."""

from math import isfinite

import torch

from .solver import Solver

__all__ = ["PGD"]


class PGD(Solver):
    """u+ = prox_{tau G}(y - tau grad F(y)) on all blocks at once, min F + G.

    Parameters
    ----------
    step : "auto" (1/L where the problem is convex and L known, backtracking otherwise), "backtracking", or a positive number.
    acceleration : None; "nesterov" (y = u + (t-1)/t+ (u - u_old), FISTA); "heavy_ball" (momentum 0.9 on the increment).
    restart : adaptive restart of Nesterov's momentum by the gradient test.

    Converges for step <= 1/L (F convex with an L-Lipschitz gradient): E(u_k) - E* = O(1/k), with Nesterov O(1/k^2).
    With bounded backtracking (at most 60 halvings) F needs to be differentiable only.
    Sources: Beck & Teboulle, SIAM J. Imaging Sci. 2(1), 2009; O'Donoghue & Candes, Found. Comput. Math. 15, 2015.
    """

    needs = (("smooth", "its smooth part has no gradient."), ("has_prox", "its nonsmooth part has no prox."))

    def __init__(self, max_iterations=1000, step="auto", acceleration=None, restart=True, tolerance=0.0, max_seconds=float("inf")):
        super().__init__(max_iterations, tolerance, max_seconds)
        if not (step in ("auto", "backtracking") or isinstance(step, (int, float)) and step > 0):
            raise ValueError(f"PGD got step={step!r}; it needs 'auto', 'backtracking' or a positive number.")
        if acceleration not in (None, "nesterov", "heavy_ball"):
            raise ValueError(f"PGD got acceleration={acceleration!r}; choose None, 'nesterov' or 'heavy_ball'.")
        self.step_rule, self.acceleration, self.restart = step, acceleration, restart

    def start(self, problem):
        point = problem.start()
        bounds = {} if isinstance(self.step_rule, (int, float)) else problem.lipschitz(point)
        known = bool(bounds) and all(isfinite(b) for b in bounds.values())
        search = self.step_rule == "backtracking" or self.step_rule == "auto" and not (problem.convex and known)
        if isinstance(self.step_rule, (int, float)):
            steps = {k: float(self.step_rule) for k in point}
        else:
            steps = {k: 1 / max(bounds[k], 1e-12) if isfinite(bounds.get(k, 1.0)) else 1.0 for k in point if k in bounds}
        return {"point": point, "previous": point, "t": 1.0, "steps": steps, "scale": 1.0, "search": search}

    def step(self, problem, state):
        u, old, t, steps = state["point"], state["previous"], state["t"], state["steps"]
        t_new = 0.5 * (1 + (1 + 4 * t * t) ** 0.5)
        weight = {None: 0.0, "nesterov": (t - 1) / t_new, "heavy_ball": 0.9}[self.acceleration]
        y = u if weight == 0 or self.acceleration == "heavy_ball" else {k: torch.lerp(old[k], u[k], 1 + weight) if k in steps else u[k] for k in u}
        lin = problem.linearise(y)
        scale = state["scale"] * (1.3 if state["search"] else 1.0)
        for _ in range(60):
            tau = {k: scale * s for k, s in steps.items()}
            forward = {k: torch.sub(y[k], lin.gradient[k], alpha=tau[k]) for k in steps}
            if self.acceleration == "heavy_ball":
                forward = {k: v + weight * (u[k] - old[k]) for k, v in forward.items()}
            new = {**y, **problem.prox(forward, tau)}
            if not state["search"]:
                break
            d = {k: new[k] - y[k] for k in steps}
            model = lin.value + problem.inner({k: lin.gradient[k] for k in d}, d) + sum(0.5 / tau[k] * v.square().sum() for k, v in d.items() if not v.is_complex())
            model = model + sum(0.5 / tau[k] * (v * v.conj()).real.sum() for k, v in d.items() if v.is_complex())
            here = problem.smooth_value(new)
            if here <= model + 1e-12 * abs(model) + 10 * torch.finfo(here.dtype).eps * abs(lin.value):
                break
            scale *= 0.5
        residual = sum(float((new[k] - y[k]).abs().square().sum()) / tau[k] ** 2 for k in steps) ** 0.5
        if self.acceleration == "nesterov" and self.restart:
            turned = sum(float(torch.sum((y[k] - new[k]) * (new[k] - u[k]).conj()).real) / tau[k] for k in steps) > 0
            t_new = 1.0 if turned else t_new
        state = {**state, "point": new, "previous": u, "t": t_new, "scale": scale}
        return state, {"objective": float(problem.value(new)), "residual": residual, **problem.metrics(new)}
