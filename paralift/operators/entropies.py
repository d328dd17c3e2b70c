"""Entropies: negative entropy, the Kullback-Leibler divergence, the logistic loss."""

import math

import torch

from ..arguments import Array
from .elements import REALS
from .functional import Functional
from .space import Space, SpaceLike

__all__ = ["NegativeEntropy", "KullbackLeibler", "LogisticLoss"]


class NegativeEntropy(Functional):
    """sum x log x on x >= 0; its Bregman distance is the Kullback-Leibler divergence. prox: u + sigma (log u + 1) = x."""

    _dtypes = REALS
    separable = True

    def _value(self, x):
        return self._sum(torch.where(x >= 0, torch.special.xlogy(x, x), torch.inf))

    def _gradient(self, x):
        return x.log() + 1

    def _prox(self, x, sigma):
        # w = log u solves e^w + sigma w = x - sigma; the left side is convex and increasing: Newton from the right, monotone
        v = x - sigma
        w = torch.where(v > sigma, v.clamp(min=1e-30).log(), v / sigma)
        for _ in range(30):
            e = w.exp()
            w = w - (e + sigma * w - v) / (e + sigma)
        return w.exp()

    def _conj_value(self, x):
        return self._sum((x - 1).exp())


class KullbackLeibler(Functional):
    """sum x + b - g + g log(g / (x + b)), x + b > 0: the Poisson log-likelihood of counts g >= 0 whose mean is x + b, up to a constant; b >= 0 is an expected background.

    prox(x, s) = (x - b - s + sqrt((x + b - s)^2 + 4 s g)) / 2. Raises ValueError for counts or a background below 0, NaN, or a background of another shape.
    """

    _dtypes = REALS
    separable = True

    def __init__(self, data: torch.Tensor, space: SpaceLike | None = None, background: Array | None = None):
        if not (torch.isfinite(data).all() and (data >= 0).all()):
            raise ValueError("KullbackLeibler got data below 0, or NaN or inf; counts need to be finite numbers >= 0.")
        if background is not None:
            background = torch.as_tensor(background)
            if not (torch.isfinite(background).all() and (background >= 0).all()):
                raise ValueError("KullbackLeibler got a background below 0, or NaN or inf; expected counts need to be finite numbers >= 0.")
            if background.dim() and background.shape != data.shape:
                raise ValueError(f"KullbackLeibler got a background of shape {tuple(background.shape)} with data of shape {tuple(data.shape)}; it needs the same, or a number.")
        super().__init__(Space.of(data) if space is None else space)
        self.data, self.background = data, background

    def _mean(self, x):
        return x if self.background is None else x + self.background

    def _value(self, x):
        g, x = self.data, self._mean(x)
        d, scale = x - g, torch.where(g > 0, g, 1)
        r, far = d / scale, (x / scale).clamp(min=torch.finfo(x.dtype).tiny).log_()
        near = r.abs() < 0.5                                                # where log(x/g) comes from x - g: all but the second order in it cancels
        inside = torch.addcmul(d, g, torch.where(near, r.log1p_(), far), value=-1)
        return self._sum(torch.where((x > 0) | ((x == 0) & (g == 0)), inside, torch.inf))

    def _gradient(self, x):
        mean = self._mean(x)
        return torch.where(self.data > 0, (mean - self.data) / mean, 1.0)              # where nothing was counted, x = 0 is inside

    def _prox(self, x, sigma):
        d = self._mean(x) - sigma
        c = sigma * self.data
        q = (torch.addcmul(4 * c, d, d).sqrt() + d.abs()).mul_(0.5)        # the root of larger modulus; the other one is -c / q, without cancellation
        u = torch.where(d >= 0, q, c / q)
        return u if self.background is None else u - self.background

    def _conj_prox(self, y, sigma, out=None):
        # without background, prox of sigma f*: (1 + y - sqrt((1 - y)^2 + 4 sigma g)) / 2; f*(y) loses <b, y> to it
        y = y if self.background is None else y + sigma * self.background
        return 0.5 * (1 + y - torch.sqrt((1 - y).square_().add_(self.data, alpha=4 * sigma) if not torch.is_tensor(sigma) else (1 - y) ** 2 + 4 * sigma * self.data))

    def _conj_value(self, y):
        value = torch.where(y < 1, -torch.special.xlogy(self.data, 1 - y), torch.where((y == 1) & (self.data == 0), 0.0, torch.inf))
        return self._sum(value if self.background is None else value - self.background * y)


class LogisticLoss(Functional):
    """sum log(1 + exp(-b z)), labels b in {-1, 1}. prox: z + s b / (1 + exp(b u)) = u, by Newton from the side where it is monotone."""

    _dtypes = REALS
    separable = True
    grad_lipschitz = 0.25

    def __init__(self, labels: torch.Tensor, space: SpaceLike | None = None):
        if not (labels.abs() == 1).all():
            raise ValueError("LogisticLoss got labels other than -1 and 1; map the classes to them.")
        super().__init__(Space.of(labels) if space is None else space)
        self.labels = labels

    def _value(self, x):
        return self._sum(torch.nn.functional.softplus(-self.labels * x))

    def _gradient(self, x):
        return -self.labels * torch.sigmoid(-self.labels * x)

    def _prox(self, x, sigma):
        # t - sigma sigmoid(-t) = v, increasing, concave where t > 0 and convex where t < 0, the root's sign is that of v + sigma / 2: Newton from the side
        # that makes it monotone; it gains 1 a step until sigma exp(-|t|) is about 1, and is quadratic from there
        v = self.labels * x
        t = torch.where(v > -0.5 * sigma, v.clamp(min=0), (v + sigma).clamp(max=0))
        for _ in range(8 + int(math.log1p(float(torch.as_tensor(sigma).max())))):
            e = torch.sigmoid(-t)
            t = t - (t - sigma * e - v) / (1 + sigma * e * (1 - e))
        return self.labels * t

    def _conj_value(self, y):
        t = -y * self.labels
        inside = torch.special.xlogy(t, t) + torch.special.xlogy(1 - t, 1 - t)
        return self._sum(torch.where((t >= 0) & (t <= 1), inside, torch.inf))
