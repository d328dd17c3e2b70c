"""Proximal gradient descent in the geometry of a kernel."""

from math import inf

import torch

from ..arguments import Count, Extended
from ..notices import warn
from ..operators.kernels import BurgKernel, EntropyKernel, Kernel
from .solver import NO_GRADIENT, Solver
from .steps import check_step
from .stopping import Tolerance

__all__ = ["BregmanPGD"]


class BregmanPGD(Solver):
    """u+ = argmin_u <grad F(u_k), u> + G(u) + D_h(u, u_k) / tau, h a kernel, min F + G.

    Parameters
    ----------
    kernel : "entropy" (G: x >= 0, the simplex, a |x|_1 on x >= 0), "burg" (x >= 0, a |x|_1 on x >= 0), or a Kernel of your own. The start must be > 0.
    step : "auto" (tries `grow` times the last step and halves it, at most 60 times, until F(u+) <= F(u) + <grad F(u), u+ - u> + D_h(u+, u) / tau),
        or a number.
    bound : the relative smoothness L of F (L h - F convex), where you know it; the search then starts from 1/L, and a number above it warns. On the simplex
        with entropy L = max |Q_ij| serves <x, Q x>/2; with Burg's kernel L = sum b serves KullbackLeibler(b) @ A.

    residual: sqrt(2 D_h(u, u+)) / tau, the length of the step in the kernel's geometry. Converges for tau <= 1/L: E(u_k) - E(u) <= D_h(u, u_0) / (tau k)
    for every u; where F - mu h is convex D_h(u*, u_k) falls by 1 - tau mu or more a step. F needs no Lipschitz gradient.
    Sources: Bauschke, Bolte & Teboulle, Math. Oper. Res. 42(2), 2017; Lu, Freund & Nesterov, SIAM J. Optim. 28(1), 2018.
    """

    needs = (NO_GRADIENT,)

    def __init__(self, max_iterations: Count = 1000, kernel: str | Kernel = "entropy", step: float | str = "auto", bound: float | None = None, grow: float = 1.3,
                 tolerance: float | Tolerance = 0.0, max_seconds: Extended = inf):
        super().__init__(max_iterations, tolerance, max_seconds)
        named = {"entropy": EntropyKernel, "burg": BurgKernel}
        if not isinstance(kernel, Kernel) and kernel not in named:
            raise ValueError(f"BregmanPGD got kernel={kernel!r}; choose 'entropy', 'burg' or pass a Kernel.")
        check_step(step, "BregmanPGD")
        if bound is not None and not 0 < bound < inf or not grow >= 1:
            raise ValueError(f"BregmanPGD got bound={bound}, grow={grow}; it needs a positive bound and grow >= 1.")
        self.kernel, self.step_size, self.bound, self.grow = kernel if isinstance(kernel, Kernel) else named[kernel](), step, bound, grow

    def check(self, problem):
        super().check(problem)
        if not hasattr(problem, "smooth_part") or problem.smooth_part is None:
            raise TypeError(f"BregmanPGD cannot solve {type(problem).__name__}: it needs a Composite with a smooth part; use PGD or BCD for problems of several blocks.")
        if not self.kernel.can_step(problem.nonsmooth_part):
            raise TypeError(f"BregmanPGD has no step for {problem.nonsmooth_part!r} with {type(self.kernel).__name__}; use PGD, PDHG, or another kernel.")
        x = problem.start()["x"]
        if not torch.isfinite(self.kernel._gradient(x)).all():
            raise ValueError(f"BregmanPGD got a start on the boundary of {type(self.kernel).__name__}'s domain; pass a start > 0, or use PGD or FISTA.")
        if self.step_size != "auto" and self.bound is not None and self.step_size * self.bound > 1.0001:
            warn(f"the step {self.step_size:g} is above the bound 1/L = {1 / self.bound:.4g} under which convergence is proved; use step='auto'.")

    def start(self, problem):
        point = problem.start()
        return {"point": point, "tau": self.step_size if self.step_size != "auto" else 1 / self.bound if self.bound else 1.0}

    def step(self, problem, state):
        x, tau, h, G = state["point"]["x"], state["tau"], self.kernel, problem.nonsmooth_part
        search = self.step_size == "auto"
        if not search:
            new = h.bregman_step(x, problem.gradient({"x": x})["x"], tau, G)
        else:
            lin = problem.linearise({"x": x})
            g, tau = lin.gradient["x"], self.grow * tau
            for _ in range(60):
                new = h.bregman_step(x, g, tau, G)
                slack = 10 * torch.finfo(x.dtype).eps * abs(lin.value)
                if problem.smooth_value({"x": new}) <= lin.value + problem.inner({"x": g}, {"x": new - x}) + h.distance(new, x) / tau + slack:
                    break
                tau *= 0.5
        state = {**state, "point": {"x": new}, "tau": tau}
        return state, lambda: {"objective": problem.value({"x": new}), "residual": (2 * h.distance(x, new)).clamp(min=0).sqrt() / tau, **problem.metrics({"x": new})}
