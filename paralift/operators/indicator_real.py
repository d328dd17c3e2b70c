"""`IndicatorReal`: complex elements without an imaginary part."""

import torch

from .indicators import _Set, _slack
from .space import SpaceLike

__all__ = ["IndicatorReal"]


class IndicatorReal(_Set):
    """Im x = 0, and Re x >= 0 where `nonnegative`, coordinatewise: a constraint on complex images; the projection drops what is outside."""

    separable = True

    def __init__(self, nonnegative: bool = False, space: SpaceLike | None = None):
        super().__init__(space)
        self.nonnegative = bool(nonnegative)

    def _inside(self, x):
        good = x.imag.abs() <= _slack(x) if x.is_complex() else torch.ones_like(x, dtype=torch.bool)
        if self.nonnegative:
            good = good & (x.real >= -_slack(x))
        return self._all(good)

    def _prox(self, x, sigma):
        real = x.real.clamp(min=0) if self.nonnegative else x.real
        return real.to(x.dtype)

    def _conj_value(self, x):
        outside = x.real > _slack(x) if self.nonnegative else x.real.abs() > _slack(x)
        return self._sum(torch.where(outside, torch.inf, 0.0).to(x.real.dtype))
