"""`Composite`: a smooth functional plus one with a prox."""

import torch

from ..operators.functional import Functional
from .problem import Linearisation, Problem

__all__ = ["Composite"]


class Composite(Problem):
    """min_x smooth(x) + nonsmooth(x), a single block "x".

    Parameters
    ----------
    smooth : Functional with a gradient (for instance `0.5 * L2NormSquared().translated(b) @ A`).
    nonsmooth : Functional with a prox, or None.
    start : tensor, the starting point; its shape and dtype are the unknown's.

    Raises TypeError / ValueError where a part lacks what it needs or shapes differ.
    """

    convex = True

    def __init__(self, smooth, nonsmooth=None, start=None):
        for name, f in (("smooth", smooth), ("nonsmooth", nonsmooth)):
            if f is not None and not isinstance(f, Functional):
                raise TypeError(f"Composite got {type(f).__name__} as its {name} part; it needs a Functional.")
        if type(smooth)._gradient is Functional._gradient:
            raise TypeError(f"Composite got {smooth!r} as its smooth part, which has no gradient; pass it as nonsmooth, or smooth it with MoreauEnvelope.")
        if nonsmooth is not None and not nonsmooth.has_prox:
            raise TypeError(f"Composite got {nonsmooth!r} as its nonsmooth part, which has no prox; a sum of several needs a splitting method or one joint functional.")
        if start is None:
            if smooth.space is None:
                raise ValueError("Composite got no start and a smooth part without a space; pass start=torch.zeros(shape).")
            start = smooth.space.zero()
        if smooth.space is not None and not smooth.space.fits(start):
            raise ValueError(f"Composite got a start of shape {tuple(start.shape)}; the smooth part needs trailing axes {smooth.space.shape}.")
        if not torch.isfinite(start).all():
            raise ValueError("Composite got a start that holds NaN or inf; pass finite numbers.")
        self._start = start.clone()
        shape = tuple(start.shape)
        self.smooth_part = smooth if smooth.space is not None else smooth.on(shape)
        self.nonsmooth_part = None if nonsmooth is None else nonsmooth if nonsmooth.space is not None else nonsmooth.on(shape)
        self.convex = smooth.convex and (nonsmooth is None or nonsmooth.convex)

    def start(self):
        return {"x": self._start.clone()}

    def linearise(self, point, blocks=None):
        x = point["x"]
        return Linearisation(self.smooth_part(x), {"x": self.smooth_part._gradient(x)})

    def smooth_value(self, point, blocks=None):
        return self.smooth_part(point["x"])

    def nonsmooth_value(self, point):
        return point["x"].new_zeros((), dtype=torch.float64) if self.nonsmooth_part is None else self.nonsmooth_part(point["x"])

    def prox(self, point, steps):
        return point if self.nonsmooth_part is None else {"x": self.nonsmooth_part._prox(point["x"], steps["x"])}

    def lipschitz(self, point, blocks=None):
        return {"x": self.smooth_part.grad_lipschitz}

    def finish(self, point):
        return point["x"]

    def __repr__(self):
        return f"Composite(smooth: {self.smooth_part!r}; nonsmooth: {self.nonsmooth_part!r}; x {tuple(self._start.shape)})"
