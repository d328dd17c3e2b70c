"""Proximal gradient descent, plain and accelerated."""

from typing import Literal

import torch

from ..arguments import Count, Extended
from .fista import FISTA
from .solver import NO_GRADIENT, NO_PROX, Solver
from .steps import BarzilaiBorwein, StepRule, forward_backward, residual, start_steps, step_rule
from .stopping import Tolerance

__all__ = ["PGD"]


class PGD(Solver):
    """u+ = prox_{tau G}(u - tau grad F(u)) on all blocks at once, min F + G.

    Parameters
    ----------
    step : "auto" (1/L where the problem is convex and L known, backtracking otherwise), "backtracking", "lipschitz", "barzilai_borwein", a number
        < 2/L, or a step rule.
    acceleration : None; "nesterov" (FISTA with a = 3); "heavy_ball" (adds 0.9 (u - u_old) before the prox).
    restart : of Nesterov's momentum, by the gradient test.

    residual: |u - u+| / tau. Converges for step < 2/L (F convex with an L-Lipschitz gradient); E(u_k) - E* <= |u_0 - u*|^2 / (2 tau k) for step <= 1/L; where F is
    mu-strongly convex |u_k - u*| falls by max(|1 - tau mu|, |1 - tau L|) or more a step. With bounded backtracking (at most 60 halvings) F needs to be differentiable only.
    Heavy ball is proved for quadratic F at step < 3.8/L (the factor is the largest root of z^2 - (1.9 - tau lambda) z + 0.9 over the spectrum), and to a critical point
    for every F at step < 0.2/L.
    Sources: Beck & Teboulle, SIAM J. Imaging Sci. 2(1), 2009; strongly convex: Taylor, Hendrickx & Glineur, J. Optim. Theory Appl. 178, 2018; heavy ball: Polyak, USSR
    Comput. Math. Math. Phys. 4(5), 1964; Ochs, Chen, Brox & Pock, SIAM J. Imaging Sci. 7(2), 2014.
    """

    needs = (NO_GRADIENT, NO_PROX)
    shared = "blocks"

    def __init__(self, max_iterations: Count = 1000, step: float | str | StepRule = "auto", acceleration: Literal["nesterov", "heavy_ball"] | None = None, restart: bool = True,
                 tolerance: float | Tolerance = 0.0, max_seconds: Extended = float("inf")):
        super().__init__(max_iterations, tolerance, max_seconds)
        bound = {None: 2.0, "nesterov": 1.0, "heavy_ball": 3.8}[acceleration]
        self.step_size, self.acceleration, self.restart = step_rule(step, "PGD", bound, acceleration is None), acceleration, restart
        self._fista = FISTA(step=self.step_size, restart="gradient" if restart else None) if acceleration == "nesterov" else None

    def start(self, problem):
        if self._fista is not None:
            return self._fista.start(problem)
        point = problem.start()
        state = {"point": point, "previous": point, **start_steps(self.step_size, problem, point)}
        return {**state, "gradient": None, "recent": []} if isinstance(self.step_size, BarzilaiBorwein) else state

    def step(self, problem, state):
        if self._fista is not None:
            return self._fista.step(problem, state)
        if "recent" in state:
            return self._barzilai_borwein(problem, state)
        u, old = state["point"], state["previous"]
        push = {k: 0.9 * (u[k] - old[k]) for k in state["steps"]} if self.acceleration == "heavy_ball" else None
        new, tau, scale = forward_backward(problem, u, self.step_size, state, push)
        state = {**state, "point": new, "previous": u, "scale": scale}
        return state, lambda: {"objective": problem.value(new), "residual": residual(problem, new, u, tau), **problem.metrics(new)}

    def _barzilai_borwein(self, problem, state):
        u, old, rule = state["point"], state["previous"], self.step_size
        lin = problem.linearise(u)
        recent = state["recent"] or [float(lin.value + problem.nonsmooth_value(u))]
        names, tau = list(state["steps"]), dict(state["steps"])
        if state["gradient"] is not None:
            s, y = {k: u[k] - old[k] for k in names}, {k: lin.gradient[k] - state["gradient"][k] for k in names}
            ss, sy = float(problem.inner(s, s)), float(problem.inner(s, y))
            tau = dict.fromkeys(names, min(max(ss / sy, 1e-12), 1e12)) if sy > 0 else tau
        top = max(recent)
        for _ in range(rule.limit):
            new = {**u, **problem.prox({k: torch.sub(u[k], lin.gradient[k], alpha=tau[k]) for k in names}, tau)}
            d = {k: new[k] - u[k] for k in names}
            value = float(problem.value(new))
            enough = sum(float(problem.inner({k: v}, {k: v})) * 5e-5 / tau[k] for k, v in d.items())
            if value <= top - enough + 1e-14 * abs(top):
                break
            tau = {k: rule.shrink * t for k, t in tau.items()}
        state = {**state, "point": new, "previous": u, "gradient": {k: lin.gradient[k] for k in names}, "recent": (recent + [value])[-rule.memory:], "steps": tau}
        return state, lambda: {"objective": value, "residual": residual(problem, new, u, tau), **problem.metrics(new)}
