"""Potentials Psi of activations sigma = prox_Psi.

A potential is a functional; its activation is `prox(z, 1)`, which `_activation` may give in closed form. Formulas: Wang & Benning,
JMLR 24(232), 2023. Written with phi = |.|^2/2 + Psi; `_phi_conj` is phi*, where it is known better than by <p, z> - phi(p).
"""

import math
from math import inf

import torch

from .functional import Functional
from .indicators import IndicatorBox, IndicatorNonnegative, IndicatorSimplex
from .norms import L1Norm, ZeroFunctional

__all__ = ["Identity", "ReLU", "LeakyReLU", "Clip", "HardTanh", "ReLU6", "SoftThreshold", "Tanh", "Sigmoid", "Softplus", "Softmax", "Sparsemax", "activation"]


def activation(potential, z):
    """sigma(z) = prox_Psi(z), elementwise closed form where the potential has one."""
    special = getattr(potential, "_activation", None)
    return potential._prox(z, 1.0) if special is None else special(z)


def _increasing_root(function, derivative, v, low, high, iterations=60):
    """Solve function(w) = v, coordinatewise, by Newton kept inside the bracket [low, high]; a fixed number of iterations, no host sync."""
    w = 0.5 * (low + high)
    for _ in range(iterations):
        error = function(w) - v
        low, high = torch.where(error < 0, w, low), torch.where(error >= 0, w, high)
        step = w - error / derivative(w)
        w = torch.where((step > low) & (step < high), step, 0.5 * (low + high))
    return w


class Identity(ZeroFunctional):
    """Psi = 0: sigma(z) = z, and B(x, z) = |x - z|^2 / 2."""

    def _activation(self, z):
        return z

    def _phi_conj(self, z):
        return 0.5 * z * z


class ReLU(IndicatorNonnegative):
    """Psi = indicator of x >= 0: sigma(z) = max(z, 0), phi*(z) = max(z, 0)^2 / 2."""

    def _activation(self, z):
        return z.clamp(min=0)

    def _phi_conj(self, z):
        return 0.5 * z.clamp(min=0).square()


class LeakyReLU(Functional):
    """Psi(x) = (1/s - 1) min(x, 0)^2 / 2, slope s in (0, 1]: sigma(z) = z for z > 0, s z below."""

    separable = True

    def __init__(self, slope=0.01, space=None):
        if not 0 < slope <= 1:
            raise ValueError(f"LeakyReLU got the slope {slope}; a proximal map needs 0 < slope <= 1 (ReLU is the case 0).")
        super().__init__(space)
        self.slope = float(slope)

    @property
    def grad_lipschitz(self):
        return 1 / self.slope - 1

    def _value(self, x):
        return self._sum(0.5 * (1 / self.slope - 1) * x.clamp(max=0).square())

    def _gradient(self, x):
        return (1 / self.slope - 1) * x.clamp(max=0)

    def _prox(self, x, sigma):
        return torch.where(x > 0, x, x / (1 + sigma * (1 / self.slope - 1)))

    def _activation(self, z):
        return torch.nn.functional.leaky_relu(z, self.slope)

    def _phi_conj(self, z):
        return 0.5 * z.clamp(min=0).square() + 0.5 * self.slope * z.clamp(max=0).square()


class Clip(IndicatorBox):
    """Psi = indicator of [lower, upper]: sigma(z) = min(max(z, lower), upper)."""

    def _activation(self, z):
        return z.clamp(self.lower, self.upper)


class HardTanh(Clip):
    """Clip to [-1, 1]."""

    def __init__(self, space=None):
        super().__init__(-1.0, 1.0, space=space)


class ReLU6(Clip):
    """Clip to [0, 6]."""

    def __init__(self, space=None):
        super().__init__(0.0, 6.0, space=space)


class SoftThreshold(L1Norm):
    """Psi = a |x|_1: sigma(z) = sign(z) max(|z| - a, 0), phi*(z) = max(|z| - a, 0)^2 / 2."""

    def __init__(self, threshold=1.0, space=None):
        if not threshold >= 0:
            raise ValueError(f"SoftThreshold got the threshold {threshold}; it needs a number >= 0.")
        super().__init__(space)
        self.threshold = float(threshold)

    def _value(self, x):
        return self.threshold * super()._value(x)

    def _prox(self, x, sigma):
        return super()._prox(x, self.threshold * sigma)

    def _dual_ball(self, x, radius, out=None):
        return super()._dual_ball(x, self.threshold * radius, out)

    def _polar(self, x):
        return super()._polar(x) / self.threshold

    def _phi_conj(self, z):
        return 0.5 * (z.abs() - self.threshold).clamp(min=0).square()


class Tanh(Functional):
    """Psi(x) = x artanh x + (log(1 - x^2) - x^2) / 2 on [-1, 1]: sigma = tanh, phi*(z) = log cosh z."""

    separable = True

    def _value(self, x):
        # x artanh x + log(1 - x^2)/2 = ((1 + x) log(1 + x) + (1 - x) log(1 - x)) / 2, finite at +-1
        inside = 0.5 * (torch.xlogy(1 + x, 1 + x) + torch.xlogy(1 - x, 1 - x)) - 0.5 * x * x
        return self._sum(torch.where(x.abs() <= 1, inside, inf))

    def _gradient(self, x):
        return torch.atanh(x) - x

    def _prox(self, x, sigma):
        # with u = tanh w: (1 - s) tanh w + s w = v, increasing in w
        reach = (x.abs() + 1 + sigma) / sigma + 1
        return torch.tanh(_increasing_root(lambda w: (1 - sigma) * torch.tanh(w) + sigma * w, lambda w: (1 - sigma) / torch.cosh(w).square() + sigma, x, -reach, reach))

    def _activation(self, z):
        return torch.tanh(z)

    def _phi_conj(self, z):
        return z.abs() + torch.nn.functional.softplus(-2 * z.abs()) - math.log(2)


class Sigmoid(Functional):
    """Psi(x) = x log x + (1 - x) log(1 - x) - x^2 / 2 on [0, 1]: sigma = logistic, phi*(z) = log(1 + e^z)."""

    separable = True

    def _value(self, x):
        inside = torch.xlogy(x, x) + torch.xlogy(1 - x, 1 - x) - 0.5 * x * x
        return self._sum(torch.where((x >= 0) & (x <= 1), inside, inf))

    def _gradient(self, x):
        return torch.logit(x) - x

    def _prox(self, x, sigma):
        reach = (x.abs() + 1 + sigma) / sigma + 1
        return torch.sigmoid(_increasing_root(
            lambda w: (1 - sigma) * torch.sigmoid(w) + sigma * w, lambda w: (1 - sigma) * torch.sigmoid(w) * torch.sigmoid(-w) + sigma, x, -reach, reach))

    def _activation(self, z):
        return torch.sigmoid(z)

    def _phi_conj(self, z):
        return torch.nn.functional.softplus(z)


_BERNOULLI = (1.0, -0.5, 1 / 6, 0.0, -1 / 30, 0.0, 1 / 42, 0.0, -1 / 30, 0.0, 5 / 66, 0.0, -691 / 2730, 0.0, 7 / 6, 0.0, -3617 / 510)


def _dilogarithm(x):
    """Li2(x) for 0 <= x <= 1: Li2(x) = sum B_n u^(n+1) / (n+1)!, u = -log(1 - x), with the reflection for x > 1/2."""
    small = torch.where(x <= 0.5, x, 1 - x)
    u = -torch.log1p(-small)
    total = sum(b / math.factorial(n + 1) * u ** (n + 1) for n, b in enumerate(_BERNOULLI) if b)
    reflected = math.pi**2 / 6 - torch.log(x.clamp(min=0.25)) * torch.log(small.clamp(min=torch.finfo(x.dtype).tiny)) - total
    return torch.where(x <= 0.5, total, reflected)


class Softplus(Functional):
    """Psi(x) = Li2(exp(-beta x)) / beta^2 on x >= 0: sigma(z) = log(1 + e^(beta z)) / beta, slope at most 1 for every beta."""

    separable = True

    def __init__(self, beta=1.0, space=None):
        if not beta > 0:
            raise ValueError(f"Softplus got beta = {beta}; it needs beta > 0.")
        super().__init__(space)
        self.beta = float(beta)

    def _value(self, x):
        return self._sum(torch.where(x >= 0, _dilogarithm(torch.exp(-self.beta * x.clamp(min=0))) / self.beta**2, inf))

    def _gradient(self, x):
        return torch.log(-torch.expm1(-self.beta * x)) / self.beta

    def _prox(self, x, sigma):
        # with u = softplus(w)/beta and Psi'(u) = w/beta - u: (1 - s) softplus(w) + s w = beta v
        v = self.beta * x
        reach = (v.abs() + 2 * (1 + sigma)) / sigma + v.abs() + 2      # the slope lies between sigma and 1
        plus = torch.nn.functional.softplus
        w = _increasing_root(lambda w: (1 - sigma) * plus(w) + sigma * w, lambda w: (1 - sigma) * torch.sigmoid(w) + sigma, v, -reach, reach)
        return plus(w) / self.beta

    def _activation(self, z):
        return torch.nn.functional.softplus(z, self.beta)


class Softmax(Functional):
    """Psi(x) = sum x log x - |x|^2 / 2 on the simplex (last axis): sigma = softmax, phi*(z) = logsumexp z, B(y, z) = KL(y | softmax z).

    Psi alone is not convex, |.|^2/2 + Psi is; so prox(x, s) is unique for s <= 1 only, which is all that the penalties need.
    """

    convex = False

    def _value(self, x):
        eps = 1e2 * torch.finfo(x.dtype).eps
        inside = (x >= 0).all(-1) & ((x.sum(-1) - 1).abs() <= eps * x.shape[-1])
        return torch.where(inside, (torch.xlogy(x, x) - 0.5 * x * x).sum(-1), inf)

    def _prox(self, x, sigma):
        # (1 - s) u + s log u = x - m with sum u = 1: bisection on the multiplier m, a root in w = log u inside
        if isinstance(sigma, (int, float)) and sigma == 1:
            return torch.softmax(x, -1)
        s = sigma
        top = x.amax(-1, keepdim=True)

        def primal(m):
            v = x - m
            low = torch.minimum(v / s, v) - 2
            high = v / s
            return torch.exp(_increasing_root(lambda w: (1 - s) * torch.exp(w) + s * w, lambda w: (1 - s) * torch.exp(w) + s, v, low - 1 / s, high + 1e-3, 30))

        n = x.shape[-1]
        low, high = top - 2, top + s * math.log(n) + 1e-3        # at m = top - 1 the largest entry alone reaches 1
        for _ in range(60):
            m = 0.5 * (low + high)
            over = primal(m).sum(-1, keepdim=True) > 1
            low, high = torch.where(over, m, low), torch.where(over, high, m)
        u = primal(0.5 * (low + high))
        return u / u.sum(-1, keepdim=True)

    def _activation(self, z):
        return torch.softmax(z, -1)

    def _phi_conj(self, z):
        return torch.logsumexp(z, -1)


class Sparsemax(IndicatorSimplex):
    """Psi = indicator of the simplex (last axis): sigma(z) = projection onto it (Martins & Astudillo, 2016)."""

    def __init__(self, space=None):
        super().__init__(1.0, space=space)
