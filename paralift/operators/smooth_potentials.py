"""Potentials Psi of smooth activations sigma = prox_Psi: Psi' = sigma^{-1} - 1, and a prox by a root where the slope is not 1.

Sources: Wang & Benning, JMLR 24(232), 2023 (tanh, sigmoid, softmax); Combettes & Pesquet, Set-Valued Var. Anal. 28, 2020. Parameters out of range raise ValueError.
"""

import math
from math import inf

import torch

from .elements import REALS
from .functional import Functional
from .space import SpaceLike

__all__ = ["Tanh", "Sigmoid", "Softplus", "LogSigmoid", "Softmax", "ELU", "CELU", "SELUEnergy"]


def _increasing_root(function, derivative, v, low, high, iterations=60):
    """Solve function(w) = v, coordinatewise, by Newton kept inside the bracket [low, high]; a fixed number of iterations, no host sync."""
    w = 0.5 * (low + high)
    for _ in range(iterations):
        error = function(w) - v
        low, high = torch.where(error < 0, w, low), torch.where(error >= 0, w, high)
        step = w - error / derivative(w)
        w = torch.where((step > low) & (step < high), step, 0.5 * (low + high))
    return w


class Tanh(Functional):
    """Psi(x) = x artanh x + (log(1 - x^2) - x^2) / 2 on [-1, 1]: sigma = tanh, phi*(z) = log cosh z."""

    _dtypes = REALS
    separable = True

    def _value(self, x):
        # x artanh x + log(1 - x^2)/2 = ((1 + x) log(1 + x) + (1 - x) log(1 - x)) / 2, finite at +-1
        inside = 0.5 * (torch.special.xlog1py(1 + x, x) + torch.special.xlog1py(1 - x, -x)) - 0.5 * x * x
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

    _dtypes = REALS
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

    _dtypes = REALS
    separable = True

    def __init__(self, beta: float = 1.0, space: SpaceLike | None = None):
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
        # the slope lies between sigma and 1; at v = 0 the root is about log(sigma) for large sigma
        reach = (v.abs() + 2 * (1 + sigma)) / sigma + v.abs() + 2 + math.log1p(float(torch.as_tensor(sigma).max()))
        plus = torch.nn.functional.softplus
        w = _increasing_root(lambda w: (1 - sigma) * plus(w) + sigma * w, lambda w: (1 - sigma) * torch.sigmoid(w) + sigma, v, -reach, reach)
        return plus(w) / self.beta

    def _activation(self, z):
        return torch.nn.functional.softplus(z, self.beta)


class LogSigmoid(Softplus):
    """Psi(x) = Li2(exp(x)) on x <= 0, softplus's potential at -x: sigma(z) = log(1 / (1 + e^-z)) = -softplus(-z)."""

    def __init__(self, space: SpaceLike | None = None):
        super().__init__(1.0, space)

    def _value(self, x):
        return super()._value(-x)

    def _gradient(self, x):
        return -super()._gradient(-x)

    def _prox(self, x, sigma):
        return -super()._prox(-x, sigma)

    def _activation(self, z):
        return torch.nn.functional.logsigmoid(z)


class _ExponentialLinear(Functional):
    """Psi(x) = b ((a + x) log(1 + x/a) - x) - x^2/2 for -a <= x <= 0, 0 for x > 0, where 0 < a <= b: sigma(z) = z for z > 0, a (e^(z/b) - 1) below."""

    _dtypes = REALS
    separable = True

    def __init__(self, a, b, space):
        super().__init__(space)
        self.a, self.b = float(a), float(b)

    def _value(self, x):
        a, u = self.a, x.clamp(max=0)
        inside = self.b * (a * torch.special.xlog1py(1 + u / a, u / a) - u) - 0.5 * u * u
        return self._sum(torch.where(x >= -a, inside, inf))

    def _gradient(self, x):
        u = x.clamp(max=0)
        return self.b * torch.log1p(u / self.a) - u

    def _prox(self, x, sigma):
        # with u = a (e^(w/b) - 1), w <= 0: (1 - s) u + s w = v, of slope at least min(s, 1) in w
        a, b, v = self.a, self.b, x.clamp(max=0)
        w = _increasing_root(lambda w: (1 - sigma) * a * torch.expm1(w / b) + sigma * w, lambda w: (1 - sigma) * a / b * torch.exp(w / b) + sigma,
                             v, v / sigma - a, torch.zeros_like(v))
        return torch.where(x > 0, x, a * torch.expm1(w / b))

    def _phi_conj(self, z):
        u = z.clamp(max=0) / self.b
        return 0.5 * z.clamp(min=0).square() + self.a * self.b * (torch.expm1(u) - u)


class ELU(_ExponentialLinear):
    """Psi(x) = (alpha + x) log(1 + x/alpha) - x - x^2/2 for -alpha <= x <= 0, 0 for x > 0: sigma(z) = z for z > 0, alpha (e^z - 1) below."""

    def __init__(self, alpha: float = 1.0, space: SpaceLike | None = None):
        if not 0 < alpha <= 1:
            raise ValueError(f"ELU got alpha = {alpha}; a proximal map needs 0 < alpha <= 1.")
        super().__init__(alpha, 1.0, space)

    def _activation(self, z):
        return torch.nn.functional.elu(z, self.a)


class CELU(_ExponentialLinear):
    """Psi(x) = alpha (alpha + x) log(1 + x/alpha) - alpha x - x^2/2 for -alpha <= x <= 0, 0 for x > 0: sigma(z) = z for z > 0, alpha (e^(z/alpha) - 1) below."""

    def __init__(self, alpha: float = 1.0, space: SpaceLike | None = None):
        if not alpha > 0:
            raise ValueError(f"CELU got alpha = {alpha}; it needs alpha > 0.")
        super().__init__(alpha, alpha, space)

    def _activation(self, z):
        return torch.nn.functional.celu(z, self.a)


class SELUEnergy(Functional):
    """F(x) = (a + x) log(1 + x/a) - x for -a <= x <= 0, x^2/(2 c) for x > 0, with grad F* = SELU: c z for z > 0, a (e^z - 1) below.

    c = 1.0507.., a = 1.7580..: the slope reaches a > 1, so SELU is no proximal map, and F serves the `Fenchel` penalty; SELUEnergy.slope is a.
    """

    _dtypes = REALS
    separable = True
    scale = 1.0507009873554804934193349852946
    slope = scale * 1.6732632423543772848170429916717

    def _value(self, x):
        a, u = self.slope, x.clamp(max=0)
        inside = a * torch.special.xlog1py(1 + u / a, u / a) - u + x.clamp(min=0).square() / (2 * self.scale)
        return self._sum(torch.where(x >= -a, inside, inf))

    def _gradient(self, x):
        return torch.log1p(x.clamp(max=0) / self.slope) + x.clamp(min=0) / self.scale

    def _prox(self, x, sigma):
        # with u = a (e^w - 1), w <= 0: u + s w = v
        a, v = self.slope, x.clamp(max=0)
        w = _increasing_root(lambda w: a * torch.expm1(w) + sigma * w, lambda w: a * torch.exp(w) + sigma, v, v / sigma - 1, torch.zeros_like(v))
        return torch.where(x > 0, x / (1 + sigma / self.scale), a * torch.expm1(w))

    def _conj_value(self, z):
        u = z.clamp(max=0)
        return self._sum(0.5 * self.scale * z.clamp(min=0).square() + self.slope * (torch.expm1(u) - u))


class Softmax(Functional):
    """Psi(x) = sum x log x - |x|^2 / 2 on the simplex, convex there: sigma = softmax, phi*(z) = logsumexp z, B(y, z) = KL(y | softmax z).

    `axis` is one of an element, without its batch axes: 0 is the channels of (C, H, W).
    """

    _dtypes = REALS
    def __init__(self, axis: int = -1, space: SpaceLike | None = None):
        self.axis = axis
        super().__init__(space)

    def _bind(self, space):
        super()._bind(space)
        if not -self.ndim <= self.axis < self.ndim:
            raise ValueError(f"Softmax along the axis {self.axis} was asked for; an element of shape {self.space.shape} has no such axis.")

    @property
    def _axis(self):
        return self.axis if self.axis < 0 else self.axis - self.ndim

    def _value(self, x):
        axis, eps = self._axis, 1e2 * torch.finfo(x.dtype).eps
        inside = (x >= 0).all(axis) & ((x.sum(axis) - 1).abs() <= eps * x.shape[axis])
        return torch.where(inside, (torch.xlogy(x, x) - 0.5 * x * x).sum(axis), inf)

    def _prox(self, x, sigma):
        # u = e^w with a e^w + w = (x - m)/s, a = 1/s - 1. The sum of u is convex and decreasing in the multiplier m: Newton from the left,
        # from an m where the sum is at least 1; the root w inside by Newton too, e^w + w being convex (concave for a < 0, which is s > 1)
        axis = self._axis
        if isinstance(sigma, (int, float)) and sigma == 1:
            return torch.softmax(x, axis)
        s = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        a = 1 / s - 1
        log_a = a.clamp(min=1e-30).log()
        m = torch.maximum(s * torch.logsumexp(x / s, axis, keepdim=True) - (1 - s).clamp(min=0), x.amax(axis, keepdim=True) + s - 1)
        for _ in range(20):
            t = (x - m) / s
            w = torch.where(a > 0, torch.where(t + log_a > 1, (t + log_a).clamp(min=1).log(), t + log_a) - log_a, t)
            for _ in range(10):
                e = a * w.exp()
                w = w - (e + w - t) / (e + 1)
            u = w.exp()
            m = m + s * (u.sum(axis, keepdim=True) - 1) / (u / (1 + a * u)).sum(axis, keepdim=True)
        return u / u.sum(axis, keepdim=True)

    def _activation(self, z):
        return torch.softmax(z, self._axis)

    def _activation_(self, z):
        return torch.softmax(z, -1, out=z) if self._axis == -1 and z.is_contiguous() else self._activation(z)

    def _phi_conj(self, z):
        return torch.logsumexp(z, self._axis)
