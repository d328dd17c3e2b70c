"""The implicit gradient method: the input of a network, its hidden unknowns from implicit backward sweeps."""

import torch

from ..arguments import Count, Extended
from .solver import Solver
from .steps import check_step
from .stopping import Tolerance

__all__ = ["ImplicitGradient"]


class ImplicitGradient(Solver):
    """For `LiftedInversion`: x_0 <- prox_G(x_0 - step H^-1 m) in the metric H / step; g = rho_1 A_1* (sigma(z_1) - x_1) + alpha grad R(x_0) with the hidden x_l of an implicit
    backward sweep from the forward pass of x_0, m <- 0.9 m + 0.1 g and H^2 <- 0.99 H^2 + 0.01 g^2, coordinatewise, both without their bias (Adam's metric).

    Parameters
    ----------
    max_iterations : K; a step costs about one back-propagation, and the continuation ends at K (resume with the same number to go on exactly).
    step : "auto" (0.2) or a number, in the units of the input: what a coordinate moves in a step while its gradients agree.
    continuation : (a, b); in step k the hidden rho are a^(1 - k/K) and alpha is b^(1 - k/K) times the problem's. Loose ties first, under which stages with few outputs act by
        their residuals after an implicit step, so that weak singular directions move nearly as fast as strong ones, and smooth images; the problem's own in the end.

    E of the forward pass at x_0 is recorded as the "objective". No convergence is proved, as for Adam; with rho -> inf it is Adam with back-propagation on x_0, where activations
    have derivatives. Flat ones are no obstacle: x_l leaves the flat part where its pull exceeds it. A regulariser needs a gradient (`HuberTotalVariation(0.02)` in the place of
    `TotalVariation()`) or a separable prox. Sources: Toulis & Airoldi, Ann. Statist. 45(4), 2017 (implicit steps); Kingma & Ba, ICLR 2015; Wang & Benning, Front. Appl. Math.
    Stat. 9:1176850, 2023 (the energy).
    """

    shared = "blocks"

    def __init__(self, max_iterations: Count = 300, step: float | str = "auto", continuation: tuple[float, float] = (0.1, 100.0), tolerance: float | Tolerance = 0.0,
                 max_seconds: Extended = float("inf")):
        super().__init__(max_iterations, tolerance, max_seconds)
        self.step_size = 0.2 if check_step(step, "ImplicitGradient") == "auto" else float(step)
        if not isinstance(continuation, (tuple, list)) or len(continuation) != 2 or any(not isinstance(a, (int, float)) or not 0 < a < float("inf") for a in continuation):
            raise ValueError(f"ImplicitGradient got continuation={continuation!r}; it needs two positive numbers, the first factors of rho and alpha: (1, 1) for none.")
        self.continuation = tuple(map(float, continuation))

    def check(self, problem):
        super().check(problem)
        if not hasattr(problem, "input_gradient"):
            raise TypeError(f"ImplicitGradient cannot solve {type(problem).__name__}: it finds inputs of networks, LiftedInversion(...); use ISGM for parameters, PGD or BCD "
                            "elsewhere.")
        if not problem.prior.separable:
            raise TypeError(f"ImplicitGradient cannot treat {problem.prior!r}: its metric needs a separable prox or a gradient; use HuberTotalVariation(0.02) for "
                            "TotalVariation(), or BCD.")

    def start(self, problem):
        kept = {"x0", *problem.start_theta()}
        point = {k: v for k, v in problem.start().items() if k in kept}
        return {"point": point, "first": {"x0": torch.zeros_like(point["x0"])}, "second": {"x0": torch.zeros_like(point["x0"])}, "k": 0}

    def step(self, problem, state):
        k, x = state["k"] + 1, state["point"]["x0"]
        rho, alpha = (a ** max(0.0, 1 - state["k"] / self.max_iterations) for a in self.continuation)
        g = problem.input_gradient(state["point"], rho, alpha)
        first, second = torch.lerp(state["first"]["x0"], g, 0.1), torch.addcmul(0.99 * state["second"]["x0"], g, g, value=0.01)
        H = (second / (1 - 0.99**k)).sqrt_().add_(1e-12)
        moved = torch.addcdiv(x, first, H, value=-self.step_size / (1 - 0.9**k))
        new = problem.input_prox(moved, self.step_size / H, alpha)
        point = {**state["point"], "x0": new}
        return {"point": point, "first": {"x0": first}, "second": {"x0": second}, "k": k}, lambda: {
            "objective": problem.input_value(point), "residual": problem.norm({"x0": new - x}) / self.step_size, **problem.metrics(point)}
