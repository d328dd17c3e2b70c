"""Linearised Bregman iteration: the inverse scale space, in steps."""

from math import inf, isfinite

import torch

from ..arguments import Count, Extended
from ..notices import warn
from .solver import NO_GRADIENT, NO_PROX, Solver
from .steps import check_step
from .stopping import Tolerance

__all__ = ["LinearizedBregman"]


class LinearizedBregman(Solver):
    """v+ = v - tau grad F(u) / mu,  u+ = prox_{mu J}(mu v+): mirror descent on F with the elastic net J + |.|^2 / (2 mu).

    The problem's smooth part is F, its nonsmooth part J. It does not minimise F + J: from u = 0 the path runs from the coarsest to the finest scale, F falls to its
    minimum, and of all minimisers of a convex F the limit is the one of least J(u) + |u|^2 / (2 mu). On noisy data stop early, by
    `tolerance=Tolerance(objective=delta**2 / 2)` (the discrepancy principle).

    Parameters
    ----------
    step : tau; "auto" is 1/L. The bound is 2/L.
    mu : the larger, the closer the limit is to a minimiser of J alone; 1 by default.

    residual: |grad F(u)|. Each step lowers F, and D(u*, u_k) for consistent data, for tau <= 1/L; F(u_k) - min F <= (mu J(u*) + |u*|^2/2) / (tau k). For
    F = |A u - b|^2/2 and J = lambda |u|_1, A u_k - b falls by 1 - tau (smallest singular value > 0 of A_S)^2 a step once the support S and the signs are found.
    Sources: Yin, Osher, Goldfarb & Darbon, SIAM J. Imaging Sci. 1(1), 2008; Cai, Osher & Shen, SIAM J. Imaging Sci. 2(1), 2009; training: Bungert, Roith,
    Tenbrinck & Burger, J. Mach. Learn. Res. 23(192), 2022.
    """

    needs = (NO_GRADIENT, NO_PROX)

    def __init__(self, max_iterations: Count = 1000, step: float | str = "auto", mu: float = 1.0, tolerance: float | Tolerance = 0.0, max_seconds: Extended = inf):
        super().__init__(max_iterations, tolerance, max_seconds)
        if not 0 < mu < inf:
            raise ValueError(f"LinearizedBregman got mu={mu}; it needs a positive number.")
        self.step_size, self.mu = check_step(step, "LinearizedBregman"), mu

    def start(self, problem):
        point = {k: torch.zeros_like(v) for k, v in problem.start().items()} if problem.convex else problem.start()
        bounds = problem.lipschitz(point)
        if self.step_size == "auto":
            if not all(map(isfinite, bounds.values())):
                raise ValueError("LinearizedBregman got step='auto' for a gradient without a finite Lipschitz bound; pass a number, or use BregmanPGD or PGD, which need none.")
            steps = {k: 1 / max(b, 1e-12) for k, b in bounds.items()}
        else:
            steps = dict.fromkeys(bounds, float(self.step_size))
            if max(bounds.values()) < inf and self.step_size * max(bounds.values()) > 2:
                warn(f"the step {self.step_size:g} is above the bound 2/L = {2 / max(bounds.values()):.4g} of the theorem; use step='auto'.")
        return {"point": point, "v": {k: point[k] / self.mu for k in steps}, "steps": steps}

    def step(self, problem, state):
        u, steps = state["point"], state["steps"]
        gradient = problem.gradient(u)
        v = {k: torch.sub(state["v"][k], gradient[k], alpha=t / self.mu) for k, t in steps.items()}
        new = {**u, **problem.prox({k: self.mu * w for k, w in v.items()}, dict.fromkeys(v, self.mu))}
        return {**state, "point": new, "v": v}, lambda: self._record(problem, new)

    def _record(self, problem, new):
        lin = problem.linearise(new)
        return {"objective": lin.value, "nonsmooth": problem.nonsmooth_value(new), "residual": problem.norm(lin.gradient), **problem.metrics(new)}
