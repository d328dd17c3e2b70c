"""`PenaltyTerm`: a lifted penalty as a functional of the layer's output."""

import math

import torch

from ..arguments import Quantity
from .functional import Functional
from .penalties import MAC, LiftedBregman, Penalty
from .space import SpaceLike, all_finite, inner, sum_trailing

__all__ = ["PenaltyTerm"]


class PenaltyTerm(Functional):
    """z -> P(y, z + shift), y the value that the layer should have: convex with a 1-Lipschitz gradient sigma(z + shift) - y for the lifted Bregman penalty B.

    For B: f*(q) = phi(y + q) - phi(y) - <q, shift>, phi = |.|^2/2 + Psi, and prox_{s f*}(v) = prox_{s phi}(v + y + s shift) - y, prox_{s phi}(w) = prox_{s/(1+s) Psi}(w/(1+s)).
    Other penalties have a value and a gradient. Raises ValueError where y lies outside the domain of Psi, TypeError for what is no Penalty.
    """

    differentiable = True

    def __init__(self, penalty: Penalty, target: torch.Tensor, shift: Quantity = 0.0, space: SpaceLike | None = None):
        if not all_finite(torch.as_tensor(shift)):
            raise ValueError("PenaltyTerm got a shift that holds NaN or inf; remove or repair those entries.")
        super().__init__(space if space is not None else penalty.potential.space)
        self.penalty, self.target, self.shift = penalty if self.space is None else penalty.on(self.space), target, shift
        self.ndim, self.convex = self.penalty.ndim, not isinstance(penalty, MAC)
        self.closed = type(penalty) is LiftedBregman and penalty.regulariser is None
        if not math.isfinite(float(self.penalty(target, target).sum())):
            raise ValueError(f"PenaltyTerm got a target outside the domain of {penalty.potential!r}; this activation cannot reach it.")

    def _bind(self, space):
        super()._bind(space)
        if hasattr(self, "penalty"):
            self.penalty = self.penalty.on(self.space)

    @property
    def grad_lipschitz(self):
        return self.penalty.lipschitz_z if self.penalty.majorised else math.inf

    @property
    def strong_convexity(self):
        return 1 / (1 + self.penalty.potential.grad_lipschitz) if self.closed and self.penalty.potential.convex else 0.0

    @property
    def has_prox(self):
        return self.closed

    def _value(self, x):
        z = x + self.shift
        return self.penalty(self.target.expand_as(z), z)

    def _gradient(self, x):
        z = x + self.shift
        return self.penalty._gradient_z(self.target.expand_as(z), z)

    def _prox(self, x, sigma):
        return x - sigma * self._conj_prox(x / sigma, 1 / sigma)

    def _conj_prox(self, x, sigma, out=None):
        w = x + self.target + sigma * self.shift
        return self.penalty.potential._prox(w / (1 + sigma), sigma / (1 + sigma)) - self.target

    def _conj_value(self, x):
        psi, n = self.penalty.potential, self.ndim
        u = self.target + x
        y = self.target.expand_as(u)
        shifted = 0.0 if isinstance(self.shift, float) and not self.shift else sum_trailing(x * self.shift, n)
        return inner(x, 0.5 * (u + y), n) + psi(u) - psi(y) - shifted
