"""The stochastic primal-dual hybrid gradient method."""

from collections.abc import Sequence
from math import inf

import torch

from ..arguments import Count, Extended, Seed
from ..notices import warn
from .pdhg import Variant, curvatures, modulus
from .solver import NO_PROX, NOT_CONVEX, Solver
from .stopping import Tolerance

__all__ = ["SPDHG"]


class SPDHG(Solver):
    """min G(x) + sum_j H_j(K_j x), PDHG on one dual block at a time. With z = sum_j K_j* y_j, a draw is

        x+ = prox_{tau G}(x - tau zb),      j with probability p_j:  y_j+ = prox_{sigma_j H_j*}(y_j + sigma_j K_j x+),
        d = K_j* (y_j+ - y_j),      z+ = z + d,      zb+ = z+ + (theta / p_j) d.

    Parameters
    ----------
    subsets : of a `Reconstruction`, whose data term is then so many terms, rows (views, coils) j, j + subsets, ... of the operator each; they are drawn half of the times.
    probabilities : p_j of the linear terms, in their order; by default the problem's own, or uniform. An iteration is round(1 / min p_j) draws, an expected pass over the
        rarest block.
    step : "auto" (sigma_j tau |K_j|^2 = 0.99 p_j), or a pair (tau, sigma), sigma a number or one for each block.
    variant : "adaptive" (tau / sigma from the distances gone so far, at most 12 times), "accelerated" (theta < 1; G strongly convex), "constant" (theta = 1).
    ratio : sigma_j |K_j| to begin with, for the block of largest |K_j| / p_j; 1 by default.
    seed : of the draws.

    An F of constant curvature c (c/2 |x - m|^2) joins the prox of G, and gives the strong convexity that "accelerated" needs; another smooth term f(K x) belongs among the
    linear ones. `subsets(f @ K, n)` splits a data term into blocks. residual: norm of the steps a prox would make from (x, y) in all blocks, over tau and sigma_j.
    Converges for sigma_j tau |K_j|^2 < p_j: (x, y) almost surely, the expected gap of the averages as O(1/k); accelerated E|x_k - x*|^2 = O(1/k^2). With D_j the Bregman
    distance of H_j* to y_j*, V = |x - tau (zb - z) - x*|^2 / tau + sum_j |y_j - y_j*|^2 / (p_j sigma_j) + 2 (1/p_j - 1) D_j(y_j) falls in expectation, by the factor theta
    where theta >= 1 - p_j. "adaptive" chooses tau by the first two terms of V at the start, then leaves it alone, so that the theorem holds from there.
    Sources: Chambolle, Ehrhardt, Richtarik & Schoenlieb, SIAM J. Optim. 28(4), 2018 (arXiv 1706.04957, Theorems 4.3, 5.1);
    iterates: Alacaoglu, Fercoq & Cevher, SIAM J. Optim. 32(2), 2022.
    """

    needs = (NOT_CONVEX, NO_PROX, ("linear", "it has no term H(K x); use PGD or FISTA."))
    splits = True

    def __init__(self, max_iterations: Count = 500, step: str | tuple = "auto", variant: Variant = "adaptive", probabilities: Sequence[float] | None = None, ratio: float = 1.0,
                 seed: Seed = 0, subsets: Count = 1, tolerance: float | Tolerance = 0.0, max_seconds: Extended = inf):
        super().__init__(max_iterations, tolerance, max_seconds)
        positive = lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and 0 < v < inf
        listed = lambda v: isinstance(v, (list, tuple)) and len(v) > 0 and all(map(positive, v))
        if step != "auto" and not (isinstance(step, (list, tuple)) and len(step) == 2 and positive(step[0]) and (positive(step[1]) or listed(step[1]))):
            raise ValueError(f"SPDHG got step={step!r}; it needs 'auto' or a pair (tau, sigma) of positive numbers, sigma one for all blocks or a list.")
        if probabilities is not None and not (listed(probabilities) and abs(sum(probabilities) - 1) < 1e-6):
            raise ValueError(f"SPDHG got probabilities={probabilities!r}; it needs positive numbers that sum to 1.")
        if not positive(ratio):
            raise ValueError(f"SPDHG got ratio={ratio!r}; it needs a positive number.")
        self.step_size, self.variant, self.probabilities, self.ratio, self.seed, self.subsets = step, variant, probabilities, ratio, seed, subsets

    def form(self, problem):
        return problem.split_form(self.subsets, explicit=False)

    def check(self, problem):
        super().check(problem)
        if list(problem.start()) != ["x"] or not hasattr(problem, "smooth_part"):
            raise TypeError(f"SPDHG cannot solve {type(problem).__name__}: it needs a Composite; use PGD or BCD for problems of several blocks.")
        L, c = curvatures(problem)
        if L or problem.smooth_part is not None and not c and problem.smooth_part._gradient(problem.start()["x"]).any():
            raise TypeError(f"SPDHG takes no gradient steps on {problem.smooth_part!r}; pass it as a linear term f @ K, in blocks (linear=subsets(f @ K, 8)), or use PDHG.")
        if self.variant == "accelerated" and not modulus(problem) > 0:
            raise ValueError("SPDHG got variant='accelerated' for a problem without known strong convexity; use variant='adaptive'.")
        for name, value in (("probabilities", self.probabilities), ("sigmas", self.step_size[1] if self.step_size != "auto" else None)):
            if isinstance(value, (list, tuple)) and len(value) != len(problem.linear):
                raise ValueError(f"SPDHG got {len(value)} {name} for {len(problem.linear)} linear terms; it needs one for each.")

    def start(self, problem):
        x, J = problem.start()["x"], len(problem.linear)
        p = list(self.probabilities or problem.probabilities or [1 / J] * J)
        norms = [max(1.01 * K.norm(), 1e-15) for _, K in problem.linear]
        bounds = [q / n**2 for q, n in zip(p, norms)]                                     # of sigma_j tau
        if self.step_size == "auto":
            tau, products = 0.99 * min(q / n for q, n in zip(p, norms)) / self.ratio, [0.99 * b for b in bounds]
        else:
            tau, sigma = self.step_size
            products = [tau * s for s in (sigma if isinstance(sigma, (list, tuple)) else [sigma] * J)]
            if any(s > 1.03 * b for s, b in zip(products, bounds)):
                warn(f"SPDHG's steps {self.step_size} break sigma_j tau |K_j|^2 <= p_j (p_j / |K_j|^2 >= {min(bounds):.3g} here); use step='auto'.")
        c = curvatures(problem)[1]
        dual, zero = [torch.zeros_like(K._call(x)) for _, K in problem.linear], torch.zeros_like(x)
        offset = problem.smooth_part._gradient(zero) if c else None
        return {"point": {"x": x}, "dual": dual, "z": zero, "ahead": zero, "first": x, "tau": tau, "products": products, "p": p, "c": c, "offset": offset, "k": 0, "next": 1}

    def step(self, problem, state):
        k, p = state["k"], torch.tensor(state["p"], dtype=torch.float64)
        for j in torch.multinomial(p, round(1 / min(state["p"])), replacement=True, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + k)).tolist():
            state = self._draw(problem, state, j)
        state = {**state, "k": k + 1}
        if self.variant == "adaptive" and k + 1 == state["next"] <= 2048:
            state.update(tau=self._balanced(problem, state), next=2 * state["next"])
        return state, lambda: self._record(problem, state)

    def _draw(self, problem, state, j):
        """The state after block j was drawn."""
        (H, K), tau, y = problem.linear[j], state["tau"], state["dual"][j]
        sigma, theta = state["products"][j] / tau, 1.0
        if self.variant == "accelerated":
            theta = (1 + 2 * modulus(problem) * tau) ** -0.5
        x = self._primal(problem, state, state["point"]["x"], state["ahead"])
        new = torch.add(y, K._call(x), alpha=sigma)
        new = H._conj_prox(new, sigma, out=new)
        d = K._adjoint(new - y)
        z = state["z"] + d
        return {**state, "point": {"x": x}, "dual": [*state["dual"][:j], new, *state["dual"][j + 1:]], "z": z,
                "ahead": torch.add(z, d, alpha=theta / state["p"][j]), "tau": theta * tau}

    @staticmethod
    def _primal(problem, state, x, z):
        """prox_{tau (G + F)}(x - tau z)."""
        tau, offset, G = state["tau"], state["offset"], problem.nonsmooth_part
        shrink = 1 / (1 + tau * state["c"])
        v = torch.add(x, z if offset is None else z + offset, alpha=-tau)
        v = v if shrink == 1 else v.mul_(shrink)
        return v if G is None else G._prox(v, tau * shrink)

    @staticmethod
    def _balanced(problem, state):
        """The geometric mean of tau and of the minimiser of |x - x_0|^2 / tau + sum_j |y_j|^2 / (p_j sigma_j), a change by a factor of at most 10."""
        primal = float(problem.norm({"x": state["point"]["x"] - state["first"]}))
        dual = float(problem.dual_norm([y / (p * s) ** 0.5 for y, p, s in zip(state["dual"], state["p"], state["products"])]))
        return state["tau"] * min(max(primal / (dual * state["tau"]), 0.01), 100.0) ** 0.5 if primal > 0 and dual > 0 else state["tau"]

    def _record(self, problem, state):
        x, tau = state["point"]["x"], state["tau"]
        parts = [(x - self._primal(problem, state, x, state["z"])) / tau]
        for (H, K), y, product in zip(problem.linear, state["dual"], state["products"]):
            parts.append((y - H._conj_prox(torch.add(y, K._call(x), alpha=product / tau), product / tau)) * (tau / product))
        residual = torch.hypot(problem.norm({"x": parts[0]}), problem.dual_norm(parts[1:]))
        return {"objective": problem.value({"x": x}), "residual": residual, **problem.metrics({"x": x})}
