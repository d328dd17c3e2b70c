"""`Composite`: a smooth functional, one with a prox, and functionals of linear maps."""

from collections.abc import Sequence
from math import inf

import torch

from ..arguments import reason
from ..operators.functional import Functional, _Composed, _Scaled, _Translated
from ..operators.least_squares import LeastSquares
from ..operators.norms import L2NormSquared
from ..operators.space import Space, inner
from .problem import Linearisation, Problem

__all__ = ["Composite"]


class Composite(Problem):
    """min_x F(x) + G(x) + sum_j H_j(K_j x), a single block "x"; every part is optional.

    Parameters
    ----------
    smooth : F, a Functional with a gradient (for instance `0.5 * L2NormSquared().translated(b) @ A`).
    nonsmooth : G, a Functional with a prox.
    linear : `f @ K` with f of known prox and K linear, such as `0.3 * GroupL1Norm() @ Gradient((64, 64))`, or a list of them; for PDHG, ADMM.
    start : tensor, the starting point; its shape and dtype are the unknown's. By default zeros of the space of a part that has one.

    Raises TypeError / ValueError where a part lacks what it needs or shapes differ.
    """

    def __init__(self, smooth: Functional | None = None, nonsmooth: Functional | None = None, linear: Functional | Sequence[Functional] | None = None,
                 start: torch.Tensor | None = None):
        if torch.is_tensor(linear):
            raise TypeError("Composite got a tensor as its linear part; pass the starting point as start=..., and linear terms as f @ operator.")
        terms = [] if linear is None else list(linear) if isinstance(linear, (list, tuple)) else [linear]
        terms = [(t.a * t.f.f) @ t.f.op if isinstance(t, _Scaled) and isinstance(t.f, _Composed) else t for t in terms]
        for name, f in (("smooth", smooth), ("nonsmooth", nonsmooth), *(("linear", t) for t in terms)):
            if f is not None and not isinstance(f, Functional):
                raise TypeError(f"Composite got {type(f).__name__} as its {name} part; it needs a Functional.")
        if smooth is None and nonsmooth is None and not terms:
            raise ValueError("Composite got no part at all; pass smooth=, nonsmooth= or linear=.")
        if smooth is not None and not smooth.differentiable:
            raise TypeError(f"Composite got {smooth!r} as its smooth part, which has no gradient; pass it as nonsmooth, or smooth it with MoreauEnvelope.")
        if nonsmooth is not None and not nonsmooth.has_prox:
            raise TypeError(f"Composite got {nonsmooth!r} as its nonsmooth part, which has no prox; pass f @ operator as linear= (for PDHG, ADMM), or one joint functional.")
        for t in terms:
            if not isinstance(t, _Composed) or not t.op.is_linear or not t.f.has_prox:
                raise TypeError(f"Composite got {t!r} as a linear part; it needs f @ operator with f of known prox and a linear operator.")
        parts = [("smooth", smooth), ("nonsmooth", nonsmooth), *(("linear", t) for t in terms)]
        if start is None:
            spaces = [f.space for _, f in parts if f is not None and f.space is not None]
            if not spaces:
                raise ValueError("Composite got no start and no part with a space; pass start=torch.zeros(shape).")
            start = spaces[0].zero()
            if any(not s.fits(start) for s in spaces):
                named = ", ".join(f"the {name} part on {f.space.shape}" for name, f in parts if f is not None and f.space is not None)
                raise ValueError(f"Composite got parts on different spaces: {named}; all of them need the space of the one unknown x.")
        for name, f in parts:
            if f is not None and f.space is not None and not f.space.fits(start):
                raise ValueError(f"Composite got a start of shape {tuple(start.shape)}; the {name} part needs trailing axes {f.space.shape}.")
        if not torch.isfinite(start).all():
            raise ValueError("Composite got a start that holds NaN or inf; pass finite numbers.")
        self._start = start.clone()
        for f in (smooth, *terms):
            self._check_dtype(f, start)
        for f in (smooth, nonsmooth):
            if f is not None:
                f._fit(start)
        space = Space.of(start)
        bound = lambda f: f if f is None or f.space is not None else f.on(space)
        self.smooth_part, self.nonsmooth_part = _least_squares(bound(smooth)), bound(nonsmooth)
        self.linear = tuple((t.f, t.op) for t in terms)
        self.convex = all(f is None or f.convex for _, f in parts)

    @staticmethod
    def _check_dtype(f, start):
        """Refuse an operator that cannot act on the start's dtype."""
        if isinstance(f, _Composed) and f.op.domain.dtype != start.dtype:
            try:
                f.op._call(start)
            except RuntimeError as error:
                raise TypeError(f"Composite got {f.op!r} of dtype {f.op.domain.dtype} and a start of dtype {start.dtype}; convert one with .to(...) ({reason(error)})."
                                ) from None

    def start(self):
        return {"x": self._start.clone()}

    def _zero(self, x):
        return torch.zeros((), dtype=x.real.dtype if x.is_complex() else x.dtype, device=x.device)

    def linearise(self, point, blocks=None):
        x, F = point["x"], self.smooth_part
        if F is None:
            return Linearisation(self._zero(x), {"x": torch.zeros_like(x)})
        return Linearisation(_total(F._value(x)), {"x": F._gradient(x)})

    def gradient(self, point, blocks=None):
        x, F = point["x"], self.smooth_part
        return {"x": torch.zeros_like(x) if F is None else F._gradient(x)}

    def smooth_value(self, point, blocks=None):
        return self._zero(point["x"]) if self.smooth_part is None else _total(self.smooth_part._value(point["x"]))

    def nonsmooth_value(self, point):
        x = point["x"]
        value = self._zero(x) if self.nonsmooth_part is None else _total(self.nonsmooth_part._value(x))
        for H, K in self.linear:
            value = value + _total(H(K._call(x)))
        return value

    def prox(self, point, steps):
        return point if self.nonsmooth_part is None else {"x": self.nonsmooth_part._prox(point["x"], steps["x"])}

    def first_step(self, point):
        """|g|^2 / (L_f |A g|^2) >= 1/L for F = f(A .), g its gradient."""
        F, x = self.smooth_part, point["x"]
        if not self.convex or not isinstance(F, _Composed) or not F.op.is_linear or not F.f.smooth:
            return None
        g, image = F.probe(x)
        size = self.inner({"x": g}, {"x": g})
        return {"x": 1 / max(F.f.grad_lipschitz * float(self.image_square(F.op, image) / size.clamp(min=torch.finfo(size.dtype).tiny)), 1e-12)}

    def extrapolate(self, old, new, weight, blocks):
        F = self.smooth_part
        return {"x": F.extrapolate(old["x"], new["x"], 1 + weight)} if isinstance(F, _Composed) else super().extrapolate(old, new, weight, blocks)

    def excess(self, new, point, lin, d):
        F = self.smooth_part
        return (_total(F.excess(new["x"], point["x"])), 0.0) if isinstance(F, LeastSquares) else super().excess(new, point, lin, d)

    def lipschitz(self, point, blocks=None):
        return {"x": 0.0 if self.smooth_part is None else self.smooth_part.grad_lipschitz}

    def gap(self, point, dual=()):
        """E(x) + sum_j H_j*(y_j) + (F + G)*(-sum_j K_j* y_j), >= 0, and 0 only at a solution; `dual` holds a y_j for each linear term.

        Needs the conjugates. F = f(A .) serves as one more linear term with y = grad f(A x); an F of constant curvature is joined to G.
        Where G is positively homogeneous the y are scaled until they are feasible.
        """
        x, F, G = point["x"], self.smooth_part, self.nonsmooth_part
        pairs = [(H, K, y) for (H, K), y in zip(self.linear, dual, strict=True)]
        if isinstance(F, _Composed) and F.op.is_linear:
            f = F.f
            pairs.append((f, F.op, f._gradient(F.op._call(x))))
            F = None
        w = -sum((K._adjoint(y) for _, K, y in pairs), torch.zeros_like(x))
        scale = 1.0
        if F is None and G is not None and G.positive_homogeneous:
            scale = (1 / G._polar(w).max()).clamp(max=1)
            conj = self._zero(x)
        elif F is None:
            conj = torch.where(w.abs().max() > 0, inf, 0.0) if G is None else _total(G._conj_value(w))
        elif G is None and F.strong_convexity != F.grad_lipschitz:
            conj = _total(F._conj_value(w))
        elif F.curvature:
            u = x - (F._gradient(x) - w) / F.grad_lipschitz
            u = u if G is None else G._prox(u, 1 / F.grad_lipschitz)
            conj = inner(u, w) - _total(F(u)) - (0.0 if G is None else _total(G(u)))
        else:
            raise NotImplementedError(f"the conjugate of {F!r} + {G!r} is not known, so there is no duality gap; write F as f @ operator, or stop on the residual.")
        return self.value(point) + conj + sum(_total(H._conj_value(scale * y)) for H, _, y in pairs)

    def finish(self, point):
        return point["x"]

    def __repr__(self):
        parts = [f"{name}: {f!r}" for name, f in (("smooth", self.smooth_part), ("nonsmooth", self.nonsmooth_part)) if f is not None]
        parts += [f"linear: {H!r} @ {K!r}" for H, K in self.linear]
        return f"Composite({'; '.join(parts)}; x {tuple(self._start.shape)})"


def _total(value):
    return value if value.dim() == 0 else value.sum()


def _least_squares(F):
    """a |. - b|^2 @ A, as the functional that knows its two products."""
    if type(F) is _Composed and F.op.is_linear and isinstance(F.f, _Scaled) and isinstance(F.f.f, _Translated) and type(F.f.f.f) is L2NormSquared:
        if F.op.range.fits(F.f.f.shift):
            return LeastSquares(F.op, F.f.f.shift, 2 * F.f.a)
    return F
