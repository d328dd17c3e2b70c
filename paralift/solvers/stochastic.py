"""What methods on minibatches share: an iteration is a pass over the samples, its order a function of (seed, pass)."""

from collections.abc import Sequence
from math import isfinite

import torch

from ..arguments import Count, Extended, Seed
from ..notices import warn
from ..problems.finite_sum import FiniteSum, chunks, slices
from .solver import NO_PROX, Solver
from .steps import check_step
from .stopping import Tolerance

__all__ = ["Stochastic", "expected_smoothness"]

CHUNK = 4096                     # samples of which a full gradient is made at a time
CACHE = 2**20                    # bytes of inputs gathered at a time; minibatches are views of them


def expected_smoothness(full: float, largest: float, n: int, batch: int) -> float:
    """The bound on the minibatch gradient's smoothness for sampling without replacement: L for batch = n, L_max for batch = 1.

    n (b - 1) / (b (n - 1)) L + (n - b) / (b (n - 1)) L_max: Gower, Loizou, Qian, Sailanbayev, Shulgin & Richtarik, ICML 2019, Proposition 3.8.
    """
    return full if n == 1 else (n * (batch - 1) * full + (n - batch) * largest) / (batch * (n - 1))


class Stochastic(Solver):
    """Base of the methods on finite sums (1/n) sum_i f_i + R. A subclass sets `passes_per_step`, the passes of the step just made."""

    needs = (("samples", "it has no samples to draw minibatches from; use PGD, BCD or PIAG."), NO_PROX)
    shared = "samples"
    bounded = True               # whether a step needs a Lipschitz bound, also one that the user gives

    def __init__(self, epochs: Count, batch_size: Count, step: float | str, seed: Seed, tolerance: float | Tolerance, max_seconds: Extended, rules: Sequence[str] = ("auto",)):
        super().__init__(epochs, tolerance, max_seconds)
        name = type(self).__name__
        self.batch_size, self.step_size, self.seed = batch_size, check_step(step, name, rules), seed

    def check(self, problem):
        super().check(problem)
        if not isinstance(problem, FiniteSum):
            raise TypeError(f"{type(self).__name__} cannot solve {type(problem).__name__}: its samples come with no gradients of their own; "
                            "use linear_model(...) or LiftedTraining(...), or PGD on this one.")
        if not problem.theta_names:
            raise ValueError(f"every parameter is frozen, and {type(self).__name__} updates parameters only; free one, or use PGD or BCD, which find x.")

    # ---- minibatches
    def _batches(self, problem, epoch):
        """Chunks (their subproblem, the samples' indices, slices of minibatches) of a fresh order of all samples; minibatches differ by one sample at most."""
        n = problem.samples
        order = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)).to(problem.inputs.device)
        x = problem.inputs
        size = max(1, CACHE // (x[0].numel() * x.element_size() * self.batch_size)) * self.batch_size
        for rows in order.tensor_split(-(-n // size)):
            yield problem.restrict(rows, seed=self.seed * 7919 + epoch), rows, slices(len(rows), round(len(rows) / self.batch_size))

    # ---- steps
    def _steps(self, problem, theta, rule):
        """{name: step}: rule(L, expected smoothness, n, b) per block, or the number given, with a warning above the rule's own."""
        full, largest = problem.mean_lipschitz(theta), problem.sample_lipschitz(theta)
        n, b = problem.samples, min(self.batch_size, problem.samples)
        if not self.bounded and not isinstance(self.step_size, str) and not all(map(isfinite, largest.values())):
            return dict.fromkeys(problem.theta_names, float(self.step_size))
        self._require_bounds(problem, largest)
        safe = {}
        for name in problem.theta_names:
            full_l = min(full[name], largest[name])
            safe[name] = rule(max(full_l, 1e-30), max(expected_smoothness(full_l, largest[name], n, b), 1e-30), n, b)
        if isinstance(self.step_size, str):
            return safe
        if problem.convex and self.step_size > 1.0001 * min(safe.values()):
            warn(f"{type(self).__name__} got step={self.step_size:g}; its theorem covers steps up to {min(safe.values()):.3g}, larger ones may diverge.")
        return {name: float(self.step_size) for name in safe}

    def _require_bounds(self, problem, bounds):
        if not all(map(isfinite, bounds.values())):
            raise TypeError(f"{type(self).__name__} cannot choose a step for {type(problem).__name__}: {type(problem.loss).__name__} has a gradient without a Lipschitz "
                            "bound; use SGD with a step of your own, or PGD(step='backtracking').")

    # ---- gradients
    def _difference(self, part, batch, theta, anchor, factored):
        """{name: mean over the minibatch of grad f_i(theta) - grad f_i(anchor)}; one product where the inputs are the same."""
        if factored:
            return part.expand(subtract(part.factors(theta, batch), part.factors(anchor, batch)), batch, 1 / (batch.stop - batch.start))
        sub = part.restrict(batch, seed=part.seed + batch.start)
        new, old = sub.explicit_gradient(theta)[1], sub.explicit_gradient(anchor)[1]
        return {name: new[name] - old[name] for name in part.theta_names}

    def _full_gradient(self, problem, theta, factored):
        """The mean gradient over all samples, a chunk at a time (in minibatches where samples depend on each other, as under BatchNorm)."""
        total, size, n = {name: torch.zeros_like(theta[name]) for name in problem.theta_names}, CHUNK if factored else self.batch_size, problem.samples
        for rows in chunks(n, size):
            part = problem.restrict(rows, seed=self.seed * 7919 + rows.start)
            if factored:
                own, weight = part.expand(part.factors(theta), scale=1 / n), 1.0
            else:
                own, weight = part.explicit_gradient(theta)[1], part.samples / n
            for name, g in total.items():
                g.add_(own[name], alpha=weight)
        return total

    # ---- what the history shows
    def _record(self, problem, theta, anchor, gradient, steps):
        """The objective at theta, and the norm of the proximal-gradient map at the anchor, where the gradient is at hand; evaluated where a row is due."""

        def record():
            return {"objective": float(problem.mean_loss(theta) + problem.regularisation(theta)), "residual": float(self._residual(problem, anchor, gradient, steps)),
                    **problem.metrics(theta)}

        return record

    @staticmethod
    def _residual(problem, anchor, gradient, steps):
        """|(u - prox(u - gamma gradient)) / gamma| at the anchor u."""
        moved = problem.prox({k: anchor[k] - steps[k] * g for k, g in gradient.items()}, steps)
        return sum(((anchor[k] - moved[k]) / steps[k]).abs().square().sum(dtype=torch.float64) for k in moved).sqrt()


def subtract(new, old):
    """Factors of the difference of two gradients: residuals subtract where the input is the data, rows are joined where inputs differ."""
    return {l: (r - old[l][0], None) if x is None else (torch.cat([r, -old[l][0]]), torch.cat([x, old[l][1]])) for l, (r, x) in new.items()}
