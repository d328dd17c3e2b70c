"""FISTA: proximal gradient steps from extrapolated points."""

from typing import Literal

import torch

from ..arguments import Count, Extended
from .solver import NO_GRADIENT, NO_PROX, Solver
from .steps import StepRule, attempt, forward_backward, residual, start_steps, step_rule, weighted_inner
from .stopping import Tolerance

__all__ = ["FISTA"]


class FISTA(Solver):
    """y = u_k + (t_k - 1)/t_{k+1} (u_k - u_{k-1}),  u_{k+1} = prox_{tau G}(y - tau grad F(y)),  t_{k+1} = sqrt(tau_k/tau_{k+1}) t_k + 1/a, min F + G.

    Parameters
    ----------
    step : "auto" (searched where F = f(A .), which costs no product and no L; else 1/L where L is known and E convex, searched otherwise), "backtracking",
        "lipschitz", a number <= 1/L, or a step rule. A search multiplies tau by `grow` and cuts it until D_F(u_{k+1}, y) <= |u_{k+1} - y|^2 / (2 tau).
    a : of Chambolle & Dossal, > 2: with a fixed step t_k = 1 + (k - 1)/a, the iterates converge too, and E(u_k) - E* = o(1/k^2).
    restart : "gradient" (t_1 = 1 again once <y - u_{k+1}, u_{k+1} - u_k> > 0), "function" (once E rises; it evaluates E every step), "greedy", or None.
        "greedy" extrapolates with weight 1, takes 1.3/L, and lowers the step towards 1/L where the iterates move away.

    residual: |y - u_{k+1}| / tau. Convex E and steps <= 1/L or searched: E(u_k) - E* <= |u_0 - u*|^2 / (2 tau_k t_k^2), hence O(1/k^2), as
    tau_{k+1} t_{k+1} (t_{k+1} - 1) <= tau_k t_k^2. Where E is mu-strongly convex a restart every 3 e sqrt(L/mu) steps (a = 3) divides E - E* by e^2;
    the tests above find such a period without mu, by observation, not by proof.
    Sources: Beck & Teboulle, SIAM J. Imaging Sci. 2(1), 2009; Chambolle & Dossal, J. Optim. Theory Appl. 166, 2015; O'Donoghue & Candes,
    Found. Comput. Math. 15, 2015; growing steps: Scheinberg, Goldfarb & Bai, Found. Comput. Math. 14, 2014; greedy: Liang, Luo & Schoenlieb, SIAM J. Sci. Comput. 44(3), 2022.
    """

    needs = (NO_GRADIENT, NO_PROX)
    shared = "blocks"

    def __init__(self, max_iterations: Count = 1000, step: float | str | StepRule = "auto", a: float = 3.0, restart: Literal["gradient", "function", "greedy"] | None = "gradient",
                 tolerance: float | Tolerance = 0.0, max_seconds: Extended = float("inf")):
        super().__init__(max_iterations, tolerance, max_seconds)
        if not a > 2:
            raise ValueError(f"FISTA got a={a}; the theorem needs a > 2.")
        self.step_size, self.a, self.restart = step_rule(step, type(self).__name__, 1.4 if restart == "greedy" else 1.0), a, restart

    def start(self, problem):
        point = problem.start()
        steps = start_steps(self.step_size, problem, point, free=self.restart != "greedy")
        if self.restart == "greedy" and not steps["search"]:
            steps["scale"] = 1.3
        return {"point": point, "previous": point, "t": 0.0, "first": 0.0, **steps}

    def step(self, problem, state):
        u, old, t, steps, search = state["point"], state["previous"], state["t"], state["steps"], state["search"]
        greedy = self.restart == "greedy"
        scale = state["scale"] * self.step_size.grow if search else state["scale"]
        y = lin = None
        for _ in range(self.step_size.limit if search else 1):
            later = (state["scale"] / scale) ** 0.5 * t + 1 / self.a if t else 1.0
            weight = 0.0 if not t else 1.0 if greedy else (t - 1) / later
            if weight or y is None:
                y = problem.extrapolate(old, u, weight, steps) if weight else u
                lin = problem.linearise(y) if search else None
                if weight and lin is not None and not torch.isfinite(lin.value):       # y has left the domain of F: go on from u, without momentum
                    y, weight, t, later = u, 0.0, 0.0, 1.0
                    lin = problem.linearise(y)
            if search:
                new, tau, fits, seen = attempt(problem, y, lin, {b: scale * s for b, s in steps.items()})
                if fits:
                    scale = scale if seen else min(scale, state["scale"])
                    break
                scale *= self.step_size.shrink
            else:
                new, tau, _ = forward_backward(problem, y, self.step_size, {**state, "steps": {b: scale * s for b, s in steps.items()}})
        first, turned = state["first"], False
        if self.restart == "function":
            turned = weight and bool(problem.value(new) > problem.value(u))
        elif self.restart is not None:
            moved = {b: new[b] - u[b] for b in steps}
            turned = weight and bool(weighted_inner(problem, {b: y[b] - new[b] for b in steps}, moved, tau) > 0)
            if greedy and not search:
                size = float(problem.norm(moved))
                first = first or size
                scale = max(0.96 * scale, 1.0) if size > first else scale
        state = {**state, "point": new, "previous": new if turned else u, "t": 0.0 if turned else later, "scale": scale, "first": first}
        return state, lambda: {"objective": problem.value(new), "residual": residual(problem, new, y, tau), **problem.metrics(new)}
