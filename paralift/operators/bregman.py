"""Made from a functional: its Bregman distance and its Moreau envelope."""

import torch

from .functional import Functional, _Wrapper
from .space import finite, inner

__all__ = ["BregmanDistance", "MoreauEnvelope"]


class BregmanDistance(Functional):
    """D_f^q(x, point) = f(x) - f(point) - <q, x - point>, q = `subgrad` in df(point) (the gradient where f is smooth).

    prox(x, s) = prox_{s f}(x + s q). Source: Bregman, USSR Comput. Math. Math. Phys. 7(3), 1967.
    """

    def __init__(self, functional: Functional, point: torch.Tensor, subgrad: torch.Tensor | None = None):
        point = finite(point, "BregmanDistance", "point")
        super().__init__(functional.space)
        self.ndim = functional.ndim
        self.functional, self.point = functional, point.clone()
        self.subgrad = functional.gradient(point) if subgrad is None else subgrad.clone()
        self.separable = functional.separable

    @property
    def grad_lipschitz(self):
        return self.functional.grad_lipschitz

    @property
    def has_prox(self):
        return self.functional.has_prox

    @property
    def differentiable(self):
        return self.functional.differentiable

    @property
    def strong_convexity(self):
        return self.functional.strong_convexity

    def _value(self, x):
        f = self.functional
        return f(x) - f(self.point) - inner(x - self.point, self.subgrad.expand_as(x), self.ndim)

    def _gradient(self, x):
        return self.functional._gradient(x) - self.subgrad

    def _prox(self, x, sigma):
        return self.functional._prox(x + sigma * self.subgrad, sigma)


class MoreauEnvelope(_Wrapper):
    """f_t(x) = min_u f(u) + |u - x|^2 / (2 t): smooth, with gradient (x - prox_{t f}(x)) / t.

    prox(x, s) = p + t/(s + t) (x - p), p = prox_{(s + t) f}(x). Raises ValueError unless t > 0. Source: Moreau, Bull. Soc. Math. France 93, 1965.
    """

    def __init__(self, f: Functional, t: float = 1.0):
        if not t > 0:
            raise ValueError(f"MoreauEnvelope got t = {t}; it needs t > 0.")
        super().__init__(f)
        self.t = float(t)

    @property
    def grad_lipschitz(self):
        return 1 / self.t

    differentiable = True

    @property
    def strong_convexity(self):
        return self.f.strong_convexity / (1 + self.t * self.f.strong_convexity)

    def _value(self, x):
        p = self.f._prox(x, self.t)
        return self.f(p) + inner(x - p, x - p, self.ndim) / (2 * self.t)

    def _gradient(self, x):
        return (x - self.f._prox(x, self.t)) / self.t

    def _prox(self, x, sigma):
        p = self.f._prox(x, sigma + self.t)
        return p + self.t / (sigma + self.t) * (x - p)
