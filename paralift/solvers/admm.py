"""The alternating direction method of multipliers, linearised."""

import copy
from math import inf, isfinite

import torch

from ..arguments import Count, Extended
from ..operators.least_squares import LeastSquares, conjugate_gradients
from ..operators.linear import IdentityOperator
from ..operators.norms import QuadraticForm
from .pdhg import adjoints
from .solver import NO_PROX, NOT_CONVEX, Solver
from .stopping import Tolerance

__all__ = ["ADMM"]


class ADMM(Solver):
    """min F(x) + G(x) + sum_j H_j(z_j), z_j = K_j x, in scaled form, one step on x linearised at x_k:
    x+ = prox_{tau G}(x - tau (grad F(x) + rho K*(K x - z + u))),  z+ = prox_{H/rho}(w + u),  u+ = u + w - z+,  w = r K x+ + (1 - r) z.

    Parameters
    ----------
    rho : of the augmented Lagrangian to begin with.
    balancing : in the first 1000 iterations, after ever longer waits, rho grows by sqrt(p/d), at most 5, at least 1/5, where one of p and d is more than 1.5 times the
        other: p the primal residual over max(|K x|, |z|), d the dual one over |(K_1* y_1, ..)|
        (the sum of the K_j* y_j is 0 at a solution where F and G are).
    relaxation : r in [1, 2), 1 by default.
    exact : solve the x-step by conjugate gradients where F is quadratic and G absent; otherwise the step is the linearised one above.

    A problem F + G without terms H(K x) is split as F(x) + G(z), z = x.

    1/tau = L + rho |K|^2 with L the Lipschitz constant of grad F. residual: norm of the primal and the dual residual. Converges for 1/tau >= L + rho |K|^2 and fixed
    rho, hence also with balancing, which ends; for the means of k steps, y = rho u and F = 0,
    (G + H)(means) - E* + <y*, K mean x - mean z> <= (|x_0 - x*|^2_{1/tau - rho K*K} + rho |z_0 - K x*|^2 + |y_0 - y*|^2/rho) / (2 k).
    With exact steps, F mu-strongly convex and L-smooth and K onto, linear with the factor |1 - r/2| + (r/2) max((rho b - 1)/(rho b + 1), (1 - rho s)/(1 + rho s)) for
    b = |K|^2/mu, s = (smallest singular value of K)^2/L.
    Sources: Boyd, Parikh, Chu, Peleato & Eckstein, Found. Trends Mach. Learn. 3(1), 2011 (scaled form); balancing: Wohlberg, arXiv 1704.06209; linearised: Ouyang,
    Chen, Lan & Pasiliao, SIAM J. Imaging Sci. 8(1), 2015; ergodic: He & Yuan, SIAM J. Numer. Anal. 50(2), 2012; linear: Giselsson & Boyd, IEEE Trans. Autom. Control 62(2), 2017.
    """

    needs = (NOT_CONVEX, NO_PROX,
             ("linear", "it has no term H(K x) and no nonsmooth part to split off; use PGD, FISTA or LBFGS."))
    splits = True
    shared = "blocks"

    def __init__(self, max_iterations: Count = 1000, rho: float = 1.0, balancing: bool = True, relaxation: float = 1.0, exact: bool = True, tolerance: float | Tolerance = 0.0,
                 max_seconds: Extended = inf):
        super().__init__(max_iterations, tolerance, max_seconds)
        if not 0 < rho < inf or not 1 <= relaxation < 2:
            raise ValueError(f"ADMM got rho={rho}, relaxation={relaxation}; it needs rho > 0 and 1 <= relaxation < 2.")
        self.rho, self.balancing, self.relaxation, self.exact = rho, balancing, relaxation, exact

    def form(self, problem):
        """Without a term H(K x) the nonsmooth part becomes one, z = x."""
        problem = super().form(problem)
        G = getattr(problem, "nonsmooth_part", None)
        if problem.linear or G is None:
            return problem
        problem = copy.copy(problem)
        problem.linear, problem.nonsmooth_part = ((G, IdentityOperator(G.space)),), None
        return problem

    def check(self, problem):
        super().check(problem)
        if problem.smooth_part is not None and not isfinite(problem.smooth_part.grad_lipschitz):
            raise ValueError(f"ADMM cannot take gradient steps on {problem.smooth_part!r}: its gradient has no finite Lipschitz bound; "
                             "pass it as linear=f @ K, or use PGD or BregmanPGD.")

    def start(self, problem):
        x, F = problem.start()["x"], problem.smooth_part
        images = [K._call(x) for _, K in problem.linear]
        L = 0.0 if F is None else F.grad_lipschitz
        quadratic = isinstance(F, (LeastSquares, QuadraticForm)) or F is not None and F.curvature > 0
        zeros = [torch.zeros_like(v) for v in images]
        return {"point": {"x": x}, "images": images, "z": images, "u": zeros, "dual": zeros, "rho": self.rho, "L": L,
                "norm2": sum((1.01 * K.norm()) ** 2 for _, K in problem.linear), "k": 0, "next": 10,
                "exact": self.exact and quadratic and problem.nonsmooth_part is None,
                "offset": F._gradient(torch.zeros_like(x)) if quadratic else None}

    def _solve(self, problem, state, x, rhs):
        """grad F(x) + rho K*K x = grad F(0) + rhs by conjugate gradients from the last x, to 1e-3 of the starting residual, at most 50 steps."""
        rho, gradient, offset = state["rho"], problem.smooth_part._gradient, state["offset"]
        apply = lambda v: gradient(v) - offset + rho * sum(K._adjoint(K._call(v)) for _, K in problem.linear)
        dot = lambda a, b: problem.inner({"x": a}, {"x": b})
        r = rhs - apply(x)
        return conjugate_gradients(apply, r, x, dot, 1e-6 * dot(r, r), 50)

    def step(self, problem, state):
        x, zs, us, rho = state["point"]["x"], state["z"], state["u"], state["rho"]
        G, K = problem.nonsmooth_part, [K for _, K in problem.linear]
        if state["exact"]:
            new = self._solve(problem, state, x, adjoints(problem, [z - u for z, u in zip(zs, us)], x).mul_(rho).sub_(state["offset"]))
        else:
            tau = 1 / (state["L"] + rho * state["norm2"])
            v = adjoints(problem, [v - z + u for v, z, u in zip(state["images"], zs, us)], x).mul_(rho)
            if problem.smooth_part is not None:
                v.add_(problem.gradient({"x": x})["x"])
            torch.sub(x, v, alpha=tau, out=v)
            new = v if G is None else G._prox(v, tau)
        images = [k._call(new) for k in K]
        mixed = images if self.relaxation == 1 else [torch.lerp(z, v, self.relaxation) for z, v in zip(zs, images)]
        sums = [v + u for v, u in zip(mixed, us)]
        new_z = [H._prox(s, 1 / rho) for (H, _), s in zip(problem.linear, sums)]
        new_u = [s - z for s, z in zip(sums, new_z)]
        norms = problem.dual_norm

        def residuals():
            primal = norms([v - z for v, z in zip(images, new_z)])
            drift = rho * adjoints(problem, [a - b for a, b in zip(new_z, zs)], x)
            if not state["exact"]:
                # what the linearisation leaves: (1/tau - rho K*K)(x - x+) + grad F(x+) - grad F(x)
                drift = drift + (x - new) / tau - rho * adjoints(problem, [a - b for a, b in zip(state["images"], images)], x)
                if problem.smooth_part is not None:
                    drift = drift + problem.gradient({"x": new})["x"] - problem.gradient({"x": x})["x"]
            return primal, problem.norm({"x": drift})

        later = {**state, "point": {"x": new}, "images": images, "z": new_z, "u": new_u, "k": state["k"] + 1}
        found = None
        if self.balancing and state["next"] <= later["k"] <= 1000:
            found = residuals()
            p = max(float(found[0]), 1e-30) / max(float(norms(images)), float(norms(new_z)), 1e-30)
            pulls = sum(float(problem.norm({"x": k._adjoint(u)})) ** 2 for k, u in zip(K, new_u)) ** 0.5
            d = max(float(found[1]), 1e-30) / max(rho * pulls, 1e-30)
            factor = 1.0 if 1 / 1.5 <= p / d <= 1.5 else min(max((p / d) ** 0.5, 0.2), 5.0)
            later.update(rho=rho * factor, u=[u / factor for u in new_u], next=int(1.2 * later["k"]) + 10)
        later["dual"] = [rho * u for u in new_u]

        def record():
            p, d = residuals() if found is None else found
            return {"objective": problem.value({"x": new}), "residual": torch.hypot(p, d), **problem.metrics({"x": new})}

        return later, record
