"""Kernels of Bregman proximal methods: h, its distance, and the Bregman step as one primitive. Source: Bauschke, Bolte & Teboulle, Math. Oper. Res. 42(2), 2017."""

import torch

from .elements import REALS
from .functional import Functional, _Scaled
from .indicators import IndicatorNonnegative, IndicatorSimplex
from .norms import L1Norm, ZeroFunctional
from .space import inner

__all__ = ["EuclideanKernel", "EntropyKernel", "BurgKernel"]


def _split(G):
    """(multiple, functional) of a * f."""
    return (G.a, G.f) if isinstance(G, _Scaled) else (1.0, G)


class Kernel(Functional):
    """h with `bregman_step(x, g, tau, G)` = argmin_u <g, u> + G(u) + D_h(u, x) / tau and `can_step(G)`; D_h is `h.bregman(x)(u)`."""

    def can_step(self, G: Functional | None) -> bool:
        return G is None

    def distance(self, u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """D_h(u, x), summed over everything."""
        return (self._value(u) - self._value(x)).sum() - inner(u - x, self._gradient(x))

    def bregman_step(self, x: torch.Tensor, g: torch.Tensor, tau: float, G: Functional | None = None) -> torch.Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no bregman_step(x, g, tau, G).")


class EuclideanKernel(Kernel):
    """h = |x|^2 / 2: D_h(u, x) = |u - x|^2 / 2, and the step is the proximal gradient step, for every G with a prox."""

    separable = True
    grad_lipschitz = strong_convexity = 1.0

    def can_step(self, G):
        return G is None or G.has_prox

    def _value(self, x):
        return 0.5 * inner(x, x, self.ndim)

    def _gradient(self, x):
        return x

    def distance(self, u, x):
        return 0.5 * inner(u - x, u - x)

    def _prox(self, x, sigma):
        return x / (1 + sigma)

    def _conj_value(self, x):
        return self._value(x)

    def bregman_step(self, x, g, tau, G=None):
        v = x - tau * g
        return v if G is None else G._prox(v, tau)


class EntropyKernel(Kernel):
    """h = sum x log x - x on x >= 0 (Boltzmann-Shannon): D_h(u, x) = sum u log(u / x) - u + x.

    The step is x exp(-tau (g + a)) for G = a |x|_1 or x >= 0 (a = 0), the same scaled to the radius on the simplex of the last axis.
    """

    _dtypes = REALS
    separable = True

    def can_step(self, G):
        return G is None or isinstance(_split(G)[1], (IndicatorNonnegative, IndicatorSimplex, L1Norm, ZeroFunctional))

    def _value(self, x):
        return self._sum(torch.where(x >= 0, torch.special.xlogy(x, x) - x, torch.inf))

    def _gradient(self, x):
        return x.log()

    def distance(self, u, x):
        d = (u - x) / x                                     # u log(u / x) - u + x, without cancellation where u is near x
        return torch.sum(x * (torch.special.xlog1py(1 + d, d) - d))

    def bregman_step(self, x, g, tau, G=None):
        a, f = _split(G)
        if isinstance(f, IndicatorSimplex):
            new = f.radius * torch.softmax(x.log() - tau * g, -1)
        else:
            new = x * torch.exp(-tau * (g + a if isinstance(f, L1Norm) else g))
        return new.clamp(min=torch.finfo(x.dtype).tiny)     # the interior, also where exp underflows


class BurgKernel(Kernel):
    """h = -sum log x on x > 0: D_h(u, x) = sum u/x - log(u/x) - 1. The step is x / (1 + tau x (g + a)) for G = a |x|_1 or x >= 0 (a = 0), where it
    is positive; inf marks a step that is too long."""

    _dtypes = REALS
    separable = True

    def can_step(self, G):
        return G is None or isinstance(_split(G)[1], (IndicatorNonnegative, L1Norm, ZeroFunctional))

    def _value(self, x):
        return self._sum(torch.where(x > 0, -x.log(), torch.inf))

    def _gradient(self, x):
        return -1 / x

    def distance(self, u, x):
        d = (u - x) / x
        return torch.sum(d - torch.log1p(d))

    def bregman_step(self, x, g, tau, G=None):
        a, f = _split(G)
        below = 1 + tau * x * (g + a if isinstance(f, L1Norm) else g)
        return torch.where(below > 0, x / below, torch.inf)
