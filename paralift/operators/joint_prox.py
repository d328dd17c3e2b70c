"""`JointProx`: a sum of two functionals whose proxes compose."""

import torch

from .functional import Functional, _Wrapper, device_of
from .norms import ZeroFunctional

__all__ = ["JointProx"]


class JointProx(_Wrapper):
    """f + g with the prox prox_{s f}(prox_{s g}(x)), or the other way round: whichever is the prox of the sum.

    On the line, g = |.| goes first where f is smallest at 0 (tanh, leaky ReLU, a box around 0), and an indicator goes last. Both orders are compared at
    random points with Dykstra's iteration, which finds the prox of any sum of convex functionals.

    Raises ValueError where neither order is right. Sources: Combettes & Pesquet, SIAM J. Optim. 18(4), 2007; Bauschke & Combettes, Pac. J. Optim. 4, 2008.
    """

    parts = ("f", "g")

    def __init__(self, f: Functional, g: Functional):
        super().__init__(f)
        self.g, self.convex, self.separable = g, f.convex and g.convex, f.separable and g.separable
        if self.space is None and g.space is not None:
            self.space, self.ndim = g.space, g.ndim
        self.g_first = self._order()

    @property
    def has_prox(self):
        return True

    def _value(self, x):
        return self.f(x) + self.g(x)

    def _prox(self, x, sigma):
        return self._composed(x, sigma, self.g_first)

    def _activation(self, z):
        from .potentials import activation

        return activation(self.f, self.g._prox(z, 1.0)) if self.g_first else self.g._prox(activation(self.f, z), 1.0)

    def _composed(self, x, sigma, g_first, pair=None):
        f, g = pair or (self.f, self.g)
        return f._prox(g._prox(x, sigma), sigma) if g_first else g._prox(f._prox(x, sigma), sigma)

    def _order(self):
        if any(isinstance(part, ZeroFunctional) for part in (self.f, self.g)):
            return True
        shape = self.space.shape if self.space is not None else (7,) + (5,) * (self.ndim - 1)
        attempts = [((16,), torch.float64)] if self.separable else []           # a separable pair without tensors of its own is checked on few coordinates
        for small, dtype in [*attempts, (shape, torch.float64), (shape, torch.float32)]:
            try:
                v = 3 * torch.randn(4, *small, dtype=dtype, generator=torch.Generator().manual_seed(0)).to(device_of(self))
                right = self.convex and self._right_orders((self.f.on(small), self.g.on(small)), v)
                break
            except RuntimeError as error:
                refused = error
        else:
            raise refused
        if not right:
            raise ValueError(f"the prox of {self.f!r} + {self.g!r} is not known: the prox of one after the other is not that of the sum. A multiple of L1Norm serves beside a "
                             "separable functional that is smallest at 0 (ReLU, LeakyReLU, SoftThreshold, Tanh, a box around 0), the indicator of a box beside any separable one; "
                             "otherwise write one Functional with a joint _prox.")
        return right[0]

    def _right_orders(self, pair, v):
        right = [True, False]
        for sigma in (0.3, 1.0, 3.0):
            exact = _dykstra(*pair, v, sigma)
            effect = min((exact - h._prox(v, sigma)).abs().max() for h in pair)            # small where f or g is nearly zero
            tolerance = 1e-3 * effect + 1e-9 * (torch.finfo(v.dtype).eps / 2.2e-16) ** 0.5
            right = [g_first for g_first in right if (self._composed(v, sigma, g_first, pair) - exact).abs().max() <= tolerance]
        return right

    def __repr__(self):
        return f"{self.f!r} + {self.g!r}"


def _dykstra(f: Functional, g: Functional, v, sigma, iterations=500):
    """prox_{sigma (f + g)}(v) by Dykstra's splitting; p and q hold what each prox took away."""
    x, p, q = v, torch.zeros_like(v), torch.zeros_like(v)
    still = 0
    for _ in range(iterations):
        y = f._prox(x + p, sigma)
        p = x + p - y
        new = g._prox(y + q, sigma)
        q = y + q - new
        still = still + 1 if (new - x).abs().max() <= 1e-12 and (new - y).abs().max() <= 1e-12 else 0
        x = new
        if still == 10:
            break
    return x
