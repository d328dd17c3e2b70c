"""L-BFGS-B of scipy, for smooth problems: a reference."""

from math import inf

import numpy as np
import torch

from ..arguments import Count, Extended
from ..operators.indicators import IndicatorBox, IndicatorNonnegative
from .solver import NO_GRADIENT, Solver
from .stopping import Tolerance

__all__ = ["LBFGS"]


class LBFGS(Solver):
    """min F(x), or F over a box, by scipy.optimize's L-BFGS-B. One iteration here is a run of at most `inner` of its iterations from the last point, with an
    empty memory, so that resuming is exact.

    Parameters
    ----------
    inner : iterations of a run; 200 by default.
    memory : correction pairs kept.

    residual: sup norm of the projected gradient. Converges to a critical point for a differentiable F; locally R-linear where F is strongly convex.
    Source: Byrd, Lu, Nocedal & Zhu, SIAM J. Sci. Comput. 16(5), 1995.
    """

    needs = (NO_GRADIENT,)

    def __init__(self, max_iterations: Count = 20, inner: Count = 200, memory: Count = 20, tolerance: float | Tolerance = 0.0, max_seconds: Extended = inf):
        super().__init__(max_iterations, tolerance, max_seconds)
        self.inner, self.memory = inner, memory

    def check(self, problem):
        super().check(problem)
        if not hasattr(problem, "nonsmooth_part"):
            raise TypeError(f"LBFGS cannot solve {type(problem).__name__}: it needs a Composite with no nonsmooth part, or a box; use PGD, FISTA or BCD.")
        G = problem.nonsmooth_part
        if G is not None and not isinstance(G, (IndicatorBox, IndicatorNonnegative)):
            raise TypeError(f"LBFGS cannot treat the nonsmooth part {G!r}: it takes none, or a box; use PGD or FISTA.")
        if problem.start()["x"].is_complex():
            raise TypeError("LBFGS got a complex unknown, which scipy does not take; use FISTA.")

    def start(self, problem):
        return {"point": problem.start()}

    def step(self, problem, state):
        from scipy.optimize import Bounds, minimize

        x, G = state["point"]["x"], problem.nonsmooth_part
        wrap = lambda a: torch.as_tensor(a).to(x).reshape(x.shape)
        flat = lambda t: t.detach().cpu().to(torch.float64).numpy().reshape(-1)

        def both(a):
            lin = problem.linearise({"x": wrap(a)})
            return float(lin.value), flat(lin.gradient["x"])

        ends = (0.0, np.inf) if isinstance(G, IndicatorNonnegative) else (-np.inf, np.inf) if G is None else (G.lower, G.upper)
        low, high = (flat(torch.as_tensor(e, dtype=torch.float64).expand(x.shape)) for e in ends)
        start = np.clip(flat(x), low, high)
        found = minimize(both, start, jac=True, method="L-BFGS-B", bounds=None if G is None else Bounds(low, high),
                         options={"maxiter": self.inner, "maxcor": self.memory, "ftol": 0.0, "gtol": 1e-14, "maxls": 50})
        g = both(found.x)[1]
        point = {"x": wrap(found.x)}
        return {"point": point}, {"objective": problem.value(point), "residual": float(np.abs(found.x - np.clip(found.x - g, low, high)).max()), **problem.metrics(point)}
