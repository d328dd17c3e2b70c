"""Block coordinate descent: PALM and iPALM sweeps over the blocks."""

import warnings
from math import isfinite

import torch

from .solver import NO_GRADIENT, NO_PROX, Solver
from .steps import check_step

__all__ = ["BCD"]


class BCD(Solver):
    """For every group of blocks b, the others as they are now, with y_b = u_b + beta (u_b - u_b of the sweep before):
    u_b <- prox_{tau_b G_b}(y_b - tau_b grad_b F(y_b)), or u_b <- y_b - M_b^{-1} grad_b F(y_b) with the problem's majoriser M_b of the block's Hessian.

    Parameters
    ----------
    step : "auto" (M_b where there is one, as for the one-layer regression of a linear layer; else 1/L_b, the bound at the current point, halved at most 40 times until F
        lies below its quadratic model), "palm" (the same without M_b), "lipschitz" (1/L_b as it is), or a number: "auto" with that factor on M_b^{-1} and 1/L_b.
    order : "cyclic" (the problem's sweep order), "random" (a fresh order in every sweep, from `seed`), "red_black" (the problem's colours: all parameters, then every
        other layer's x; blocks of one colour do not couple, so they may be updated at once, by many workers, with the same result).
    inertia : beta, 0 (PALM) to 0.707 (iPALM).

    With beta = 0 every sweep lowers E; limit points are critical where E is semialgebraic (Bolte, Sabach & Teboulle, Math. Program. 146, 2014; in a variable
    metric: Chouzenoux, Pesquet & Repetti, J. Global Optim. 66, 2016). On p blocks, E smooth and mu-strongly convex, a sweep lowers E - E* by
    1 - mu / (2 Lmax (1 + p L^2/Lmin^2)) or more (Beck & Tetruashvili, SIAM J. Optim. 23(4), 2013). With beta < 1/sqrt(2), G_b convex and tau_b <= 1/L_b,
    E(u_k) + sum_b |u_b - u_b of the sweep before|^2 / (2 tau_b) falls while the bounds do not grow (doc/methods/bcd.md); iPALM: Pock & Sabach, SIAM J. Imaging Sci. 9(4), 2016.
    """

    needs = (NO_GRADIENT, NO_PROX)

    def __init__(self, max_iterations=100, step="auto", order="cyclic", inertia=0.0, seed=0, tolerance=0.0, max_seconds=float("inf")):
        super().__init__(max_iterations, tolerance, max_seconds)
        self.step_size = check_step(step, "BCD", ("auto", "palm", "lipschitz"))
        if order not in ("cyclic", "random", "red_black"):
            raise ValueError(f"BCD got order={order!r}; choose 'cyclic', 'random' or 'red_black'.")
        if not isinstance(inertia, (int, float)) or not 0 <= inertia < 0.5**0.5:
            raise ValueError(f"BCD got inertia={inertia!r}; it needs a number in [0, 0.707), below 1/sqrt(2), up to which descent is proved.")
        self.factor, self.order, self.inertia, self.seed = (1.0 if isinstance(step, str) else step), order, inertia, seed
        self.majorise, self.search = step not in ("palm", "lipschitz"), step != "lipschitz"
        if self.factor > 1:
            warnings.warn(f"BCD got step={step:g}, which is above 1, the largest factor on 1/L_b that is proved to descend; use step='auto'.", stacklevel=2)

    def start(self, problem):
        point = problem.start()
        return {"point": point, "previous": point if self.inertia else {}, "sweep": 0}

    def _groups(self, problem, sweep):
        if self.order == "red_black":
            return [group for colour in problem.colours() for group in colour]
        groups = problem.sweep_order()
        if self.order == "random":
            order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + sweep))
            groups = [groups[i] for i in order.tolist()]
        return groups

    def step(self, problem, state):
        before = state["point"]
        point, residual = dict(before), 0.0
        for group in self._groups(problem, state["sweep"]):
            y = {k: torch.lerp(state["previous"][k], point[k], 1 + self.inertia) if self.inertia else point[k] for k in group}
            at = {**point, **y}
            lin, solve = problem.linearise(at, group), problem.majoriser(at, group) if self.majorise else None
            if solve is not None:
                change = solve(lin.gradient)
                residual += float(sum(torch.sum(lin.gradient[k] ** 2) for k in group))
                point.update({k: torch.sub(y[k], change[k], alpha=self.factor) for k in group})
                continue
            bounds = problem.lipschitz(at, group)
            tau = {k: self.factor / max(float(bounds[k]), 1e-12) if isfinite(bounds[k]) else 1.0 for k in group}
            for _ in range(40):
                new = problem.prox({k: torch.sub(y[k], lin.gradient[k], alpha=tau[k]) for k in group}, tau)
                d = {k: new[k] - y[k] for k in group}
                size = {k: float(v.abs().square().sum()) for k, v in d.items()}
                if not self.search:
                    break
                model = lin.value + problem.inner(lin.gradient, d) + sum(0.5 / tau[k] * size[k] for k in group)
                if problem.smooth_value({**at, **new}, group) <= model + 10 * torch.finfo(model.dtype).eps * abs(lin.value):
                    break
                tau = {k: 0.5 * v for k, v in tau.items()}
            residual += sum(size[k] / tau[k] ** 2 for k in group)
            point.update(new)
        new = {"point": point, "previous": before if self.inertia else {}, "sweep": state["sweep"] + 1}
        return new, {"objective": float(problem.value(point)), "residual": residual**0.5, **problem.metrics(point)}
