"""The primal-dual hybrid gradient method."""

from math import ceil, inf, isfinite
from typing import Literal

import torch

from ..arguments import Count, Extended
from ..notices import warn
from .solver import NO_PROX, NOT_CONVEX, Solver
from .stopping import Tolerance

Variant = Literal["adaptive", "accelerated", "constant"]
__all__ = ["PDHG"]


class PDHG(Solver):
    """min F(x) + G(x) + sum_j H_j(K_j x) with prox steps on G and H_j*, a gradient step on F, products with K_j:
    x+ = prox_{tau G}(x - tau (grad F(x) + K* y)),  y+ = prox_{sigma H*}(y + sigma K (x+ + theta (x+ - x))).

    Parameters
    ----------
    step : "auto", or a pair (tau, sigma). "auto" gives every term its own sigma_j, so that all sigma_j |K_j|^2 are equal.
    variant : "adaptive" (tau/sigma follows the distances that x and y go, some 20 times until k = 2048; then it is fixed, and the theorem holds),
        "accelerated" (theta < 1; E strongly convex), "constant" (theta = 1).
    ratio : sigma/tau = ratio^2 to begin with.
    relaxation : in [1, 2): (x, y) moves by this multiple of the step. By default 1.9; 1 with "accelerated" or with a gradient step on F.

    An F of constant curvature c (c/2 |x - m|^2) joins the prox, and gives the strong convexity that "accelerated" needs.
    residual: norm of the primal and dual optimality residuals at (x+, y+). The dual is kept in `result.state["dual"]`, `Tolerance(gap=...)` uses it.
    Converges for 1/tau - sum_j sigma_j |K_j|^2 >= L/2, L the Lipschitz constant of an explicit grad F. "constant" without one is the proximal point method in the metric
    |z|_M^2 = |x|^2/tau - 2 <K x, y> + sum_j |y_j|^2/sigma_j: the means of k steps have a gap of at most |z_0 - z*|_M^2 / (2 r k), r the relaxation; where G and H* are gamma- and
    delta-strongly convex |z_k - z*|_M falls by 1/(1 + m), m = min(gamma tau, delta sigma)/(1 + sqrt(tau sigma) |K|), at r = 1. "accelerated":
    |x_k - x*|^2 <= tau_k^2 (|x_0 - x*|^2/tau_0^2 + |y_0 - y*|^2/(tau_0 sigma_0)), tau_k = O(1/(gamma k)), y_0 the dual before the first half step.
    Sources: Chambolle & Pock, J. Math. Imaging Vis. 40, 2011; Condat, J. Optim. Theory Appl. 158, 2013; Vu, Adv. Comput. Math. 38, 2013; metric: He & Yuan, SIAM J.
    Imaging Sci. 5(1), 2012, with Rockafellar, SIAM J. Control Optim. 14(5), 1976; adaptive: the primal weight of Applegate et al., NeurIPS 2021 (arXiv 2106.04756).
    """

    needs = (NOT_CONVEX, NO_PROX)
    splits = True
    shared = "blocks"

    def __init__(self, max_iterations: Count = 1000, step: str | tuple = "auto", variant: Variant = "adaptive", ratio: float = 1.0, relaxation: float | None = None,
                 tolerance: float | Tolerance = 0.0, max_seconds: Extended = inf):
        super().__init__(max_iterations, tolerance, max_seconds)
        pair = isinstance(step, (tuple, list)) and len(step) == 2 and all(isinstance(s, (int, float)) and 0 < s < inf for s in step)
        if step != "auto" and not pair:
            raise ValueError(f"PDHG got step={step!r}; it needs 'auto' or a pair (tau, sigma) of positive numbers.")
        if not ratio > 0 or not (relaxation is None or 1 <= relaxation < 2):
            raise ValueError(f"PDHG got ratio={ratio}, relaxation={relaxation}; it needs ratio > 0 and 1 <= relaxation < 2.")
        if relaxation is not None and relaxation > 1 and variant == "accelerated":
            raise ValueError("PDHG got relaxation > 1 with variant='accelerated', which is not proved; use variant='constant' or 'adaptive'.")
        self.step_size, self.variant, self.ratio, self.relaxation = step, variant, ratio, relaxation

    def check(self, problem):
        super().check(problem)
        point = problem.start()
        if list(point) != ["x"] or not hasattr(problem, "smooth_part"):
            raise TypeError(f"PDHG cannot solve {type(problem).__name__}: it needs a Composite; use PGD or BCD for problems of several blocks.")
        L = curvatures(problem)[0]
        if not isfinite(L):
            raise ValueError(f"PDHG cannot take gradient steps on {problem.smooth_part!r}: its gradient has no finite Lipschitz bound; pass it as linear=f @ K, or use BregmanPGD.")
        if self.variant == "accelerated" and not modulus(problem) > 0:
            raise ValueError("PDHG got variant='accelerated' for a problem without known strong convexity; use PDHG(variant='adaptive') or ADMM.")
        if self.relaxation is not None and self.relaxation > 1 and L > 0:
            raise ValueError("PDHG got relaxation > 1 with a gradient step on F, which is not proved at the step it takes; use relaxation=1.")

    def start(self, problem):
        x = problem.start()["x"]
        (L, c), norms2 = curvatures(problem), [(1.01 * K.norm()) ** 2 for _, K in problem.linear]
        norm2 = sum(norms2)
        weights = [norm2 / (len(norms2) * max(n, 1e-30)) if self.step_size == "auto" else 1.0 for n in norms2]              # sigma_j = weights[j] sigma
        sigma = self.ratio / max(norm2, 1e-30) ** 0.5
        tau = 0.99 / (0.5 * L + sigma * norm2) if norm2 or L else 1.0
        if self.step_size != "auto":
            tau, sigma = self.step_size
            if tau * (0.5 * L + sigma * norm2) > 1.03:
                warn(f"PDHG's steps ({tau:g}, {sigma:g}) break 1/tau - sigma |K|^2 >= L/2 (|K|^2 = {norm2:.4g}, L = {L:.4g}); use step='auto'.")
        dual = [torch.zeros_like(K._call(x)) for _, K in problem.linear]
        anchor = problem.smooth_part._gradient(torch.zeros_like(x)).div_(-c) if c else None              # F = c/2 |x - anchor|^2 + const
        return {"point": {"x": x}, "dual": dual, "base": x, "base_dual": dual, "anchor": anchor, "tau": tau, "sigma": sigma, "L": L, "c": c, "norm2": norm2, "weights": weights,
                "mark": {"x": x, "dual": dual}, "next": 1, "k": 0, "relaxation": self.relaxation or (1.0 if L or self.variant == "accelerated" else 1.9)}

    def step(self, problem, state):
        x, duals, tau, sigma, c, G = state["base"], state["base_dual"], state["tau"], state["sigma"], state["c"], problem.nonsmooth_part
        gradient = problem.gradient({"x": x})["x"] if problem.smooth_part is not None and not c else None
        v = adjoints(problem, duals, x)
        if gradient is not None:
            v.add_(gradient)
        shrink = 1 / (1 + tau * c)
        torch.add(torch.lerp(state["anchor"], x, shrink) if c else x, v, alpha=-tau * shrink, out=v)
        new = v if G is None else G._prox(v, tau * shrink)
        theta, later = 1.0, state
        if self.variant == "accelerated":
            theta = (1 + 2 * modulus(problem) * tau) ** -0.5
            sigma = sigma / theta
            later = {**state, "tau": theta * tau, "sigma": sigma}
        ahead = torch.lerp(x, new, 1 + theta)
        new_duals = []
        sigmas = [sigma * w for w in state["weights"]]
        for (H, K), y, s in zip(problem.linear, duals, sigmas):
            z = K._call(ahead)
            z = torch.add(y, z, alpha=s) if z is ahead else torch.add(y, z, alpha=s, out=z)
            new_duals.append(H._conj_prox(z, s, out=z))

        def residuals():
            p = torch.sub(x, new).mul_(1 / tau).sub_(adjoints(problem, [y - z for y, z in zip(duals, new_duals)], x))
            if gradient is not None:
                p.sub_(gradient).add_(problem.gradient({"x": new})["x"])
            d = [(y - z).mul_(1 / s).add_(K._call(ahead - new)) for (_, K), y, z, s in zip(problem.linear, duals, new_duals, sigmas)]
            return problem.norm({"x": p}), problem.dual_norm(d) if d else torch.zeros_like(v.real.sum())

        k = state["k"] + 1
        if self.variant == "adaptive" and duals and k == state["next"] <= 2048:
            later = self._balanced(problem, state, new, new_duals)
        state = {**later, "point": {"x": new}, "dual": new_duals, "k": k, "base": new, "base_dual": new_duals}
        if state["relaxation"] > 1:
            state["base"], state["base_dual"] = torch.lerp(x, new, state["relaxation"]), [torch.lerp(y, z, state["relaxation"]) for y, z in zip(duals, new_duals)]

        def record():
            p, d = residuals()
            return {"objective": problem.value({"x": new}), "residual": torch.hypot(p, d), **problem.metrics({"x": new})}

        return state, record

    @staticmethod
    def _balanced(problem, state, x, dual):
        """tau becomes the geometric mean of itself and of the minimiser of |x - x'|^2/tau + |y - y'|^2/sigma at the same tau sigma, (x', y') being the point
        at the last change, k / sqrt(2); a change by a factor of at most 10. 1/tau - sigma |K|^2 >= L/2 stays."""
        tau, sigma, L, mark = state["tau"], state["sigma"], state["L"], state["mark"]
        p, d = float(problem.norm({"x": x - mark["x"]})), float(problem.dual_norm([(y - z) / w**0.5 for y, z, w in zip(dual, mark["dual"], state["weights"])]))
        if p > 0 and d > 0 and state["norm2"]:
            tau *= min(max(p / d * (sigma / tau) ** 0.5, 0.01), 100.0) ** 0.5
            tau = min(tau, 1.9 / L) if L else tau
            sigma = (0.99 / tau - 0.5 * L) / state["norm2"]
        return {**state, "tau": tau, "sigma": sigma, "mark": {"x": x, "dual": dual}, "next": ceil(2**0.5 * state["next"])}


def curvatures(problem):
    """(L of an explicit gradient step on F, c of an implicit one)."""
    F = problem.smooth_part
    c = 0.0 if F is None else F.curvature
    return (0.0 if F is None or c else F.grad_lipschitz), c


def modulus(problem):
    """The strong convexity of what the prox step on x takes: G, and an F of constant curvature."""
    G = problem.nonsmooth_part
    return max(curvatures(problem)[1], 0.0 if G is None else G.strong_convexity)


def adjoints(problem, duals, x):
    """sum_j K_j* y_j, in memory of its own."""
    total = None
    for (_, K), y in zip(problem.linear, duals):
        v = K._adjoint(y)
        total = (v.clone() if v is y else v) if total is None else total.add_(v)
    return torch.zeros_like(x) if total is None else total
