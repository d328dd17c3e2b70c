"""Douglas-Rachford splitting."""

from math import inf

import torch

from ..arguments import Count, Extended
from ..operators.linear import IdentityOperator
from ..operators.space import norm
from .solver import NO_PROX, NOT_CONVEX, Solver
from .steps import check_step
from .stopping import Tolerance

__all__ = ["DouglasRachford"]


class DouglasRachford(Solver):
    """min f(x) + g(x) by two proxes: x = prox_{tau f}(s),  y = prox_{tau g}(2 x - s),  s+ = s + r (y - x).

    f and g are the two parts of the problem among F (its prox is known: LeastSquares solves a system, by conjugate gradients where it must), G, and one H with
    the identity as K. With one part missing it is 0.

    Parameters
    ----------
    step : tau > 0, any; "auto" is 1/L where F has a Lipschitz bound, 1 otherwise.
    relaxation : r in (0, 2).

    x = y is what the result holds (the last prox's y). residual: |x - y| / tau. Converges for convex f, g, every tau > 0 and 0 < r < 2, with
    |x_k - y_k|^2 <= |s_0 - s*|^2 / (r (2 - r) (k + 1)); where f or g is mu-strongly convex and L-smooth |s_k - s*| falls by
    |1 - r/2| + (r/2) max((1 - tau mu)/(1 + tau mu), (tau L - 1)/(tau L + 1)) or more a step. Sources: Lions & Mercier, SIAM J. Numer. Anal. 16(6), 1979; Eckstein &
    Bertsekas, Math. Program. 55, 1992; residual: He & Yuan, Math. Program. 153, 2015; factor: Giselsson & Boyd, IEEE Trans. Autom. Control 62(2), 2017.
    """

    needs = (NOT_CONVEX, NO_PROX)
    splits = True

    def __init__(self, max_iterations: Count = 1000, step: float | str = "auto", relaxation: float = 1.5, tolerance: float | Tolerance = 0.0, max_seconds: Extended = inf):
        super().__init__(max_iterations, tolerance, max_seconds)
        if not 0 < relaxation < 2:
            raise ValueError(f"DouglasRachford got relaxation={relaxation}; the theorem needs 0 < relaxation < 2.")
        self.step_size, self.relaxation = check_step(step, "DouglasRachford"), relaxation

    def form(self, problem):
        return problem.prox_form()

    def check(self, problem):
        super().check(problem)
        if not hasattr(problem, "smooth_part"):
            raise TypeError(f"DouglasRachford cannot solve {type(problem).__name__}: it needs a Composite; use PGD or BCD.")
        if problem.smooth_part is not None and not problem.smooth_part.has_prox:
            raise TypeError(f"DouglasRachford needs the prox of {problem.smooth_part!r}, which is not known; use PGD, FISTA or PDHG.")
        if any(not isinstance(K, IdentityOperator) for _, K in problem.linear):
            raise TypeError("DouglasRachford got a term H(K x) whose K is not the identity; use PDHG or ADMM.")
        if len(self._parts(problem)) > 2:
            raise TypeError(f"DouglasRachford got {len(self._parts(problem))} parts; it splits two; use PDHG or ADMM.")

    @staticmethod
    def _parts(problem):
        return [f for f in (problem.smooth_part, *(H for H, _ in problem.linear), problem.nonsmooth_part) if f is not None]

    def start(self, problem):
        point = problem.start()
        L = 0.0 if problem.smooth_part is None else problem.smooth_part.grad_lipschitz
        return {"point": point, "s": point["x"], "tau": self.step_size if self.step_size != "auto" else 1 / L if 0 < L < inf else 1.0}

    def step(self, problem, state):
        s, tau = state["s"], state["tau"]
        f, g = (*self._parts(problem), None)[:2]
        x = f._prox(s, tau)
        y = torch.lerp(s, x, 2.0)
        y = y if g is None else g._prox(y, tau)
        state = {**state, "point": {"x": y}, "s": torch.add(s, y - x, alpha=self.relaxation)}
        return state, lambda: {"objective": problem.value({"x": y}), "residual": norm(x - y) / tau, **problem.metrics({"x": y})}
