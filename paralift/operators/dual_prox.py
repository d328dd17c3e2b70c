"""`DualProx`: a sum whose prox is found on the dual, certified by its gap."""

import torch

from ..arguments import Count
from .functional import Functional
from .functional_algebra import _Composed, _Wrapper
from .space import SpaceLike, inner
from .variation import _Variation

__all__ = ["DualProx"]


def variations(f):
    """The total variations and relatives inside f."""
    parts = f.parts if isinstance(f, _Wrapper) else ("f",) if isinstance(f, _Composed) else ()
    return [f] if isinstance(f, _Variation) else [v for name in parts for v in variations(getattr(f, name))]


class DualProx(_Wrapper):
    """f + g for an f that splits into sum_j f_j(K_j x) (total variation, wavelets, sums of them) and a g with a prox (a constraint, or None), on `space`.

    prox(v, s) = prox_{s g}(v - s sum_j K_j* y_j), the y_j by accelerated proximal gradient on the dual (Beck & Teboulle, IEEE Trans. Image Process. 18(11), 2009; restarted,
    O'Donoghue & Candes, 2015) until the duality gap, s sum_j f_j(K_j u) + f_j*(y_j) - <K_j u, y_j>, is at most `tolerance` * |v|^2 / 2 for every sample, for at most
    `max_iterations`; by default both are those of the total variations in f, or 1e-6 and 1000. u is in the set of an indicator g exactly. A step s is one number, or one for
    each sample.

    Raises TypeError where f has no split into terms on `space` (TGV, which has unknowns of its own) or g has no prox.
    """

    def __init__(self, f: Functional, g: Functional | None = None, space: SpaceLike | None = None, tolerance: float | None = None, max_iterations: Count | None = None):
        space = space or f.space
        if space is None:
            raise ValueError(f"DualProx got {f!r} without a space; pass space=, the space of the elements.")
        if f.auxiliary(space):
            raise TypeError(f"the joint prox of {f!r} and {g!r} is not known: {f!r} has unknowns of its own; use PDHG or ADMM, which take its terms apart.")
        if g is not None and not g.has_prox:
            raise TypeError(f"DualProx got {g!r} beside {f!r}; it needs a functional with a prox.")
        super().__init__(f.on(space))
        self.parts = ("f",) if g is None else ("f", "g")
        self.g = g if g is None else g.on(space)
        own = variations(f)
        self.tolerance = min((v.tolerance for v in own), default=1e-6) if tolerance is None else tolerance
        self.max_iterations = max((v.max_iterations for v in own), default=1000) if max_iterations is None else max_iterations
        self.convex, self.separable = f.convex and (g is None or g.convex), False
        self._bind(space)

    def _bind(self, space):
        super()._bind(space)
        self.terms = [(t.f, t.op) for t in self.f.split(self.space)]
        self.norm2 = sum((1.01 * K.norm()) ** 2 for _, K in self.terms)

    differentiable = False

    @property
    def has_prox(self):
        return True

    @property
    def strong_convexity(self):
        return self.f.strong_convexity + (0.0 if self.g is None else self.g.strong_convexity)

    def _value(self, x):
        value = self.f(x)
        return value if self.g is None else value + self.g(x)

    def _primal(self, v, duals, s):
        w = v - s * sum(K._adjoint(y) for (_, K), y in zip(self.terms, duals))
        return w if self.g is None else self.g._prox(w, s)

    def _prox(self, v, sigma):
        batch = v.shape[:v.dim() - self.ndim]
        real = v.real.dtype if v.is_complex() else v.dtype
        per_sample = torch.as_tensor(sigma, dtype=real, device=v.device)
        if per_sample.dim() and any(n != 1 for n in per_sample.shape[-self.ndim:]):
            raise ValueError(f"{self!r} got a prox step of shape {tuple(per_sample.shape)}; it needs a number, or one for each sample: (..., {', '.join('1' * self.ndim)}).")
        per_sample = per_sample.reshape(per_sample.shape[:max(per_sample.dim() - self.ndim, 0)])
        over = lambda a, ndim: a if a.dim() == 0 else a.reshape(*a.shape, *(1,) * ndim)
        s = over(per_sample, self.ndim)
        level = self.tolerance * 0.5 * inner(v, v, self.ndim)
        steps = [1 / (self.norm2 * over(per_sample, K.range.ndim)) for _, K in self.terms]
        p = q = [torch.zeros_like(K._call(v)) for _, K in self.terms]
        t = torch.ones(batch, dtype=real, device=v.device)
        for k in range(self.max_iterations):
            u = self._primal(v, q, s)
            new = [f._conj_prox(y + a * K._call(u), a) for (f, K), y, a in zip(self.terms, q, steps)]
            change = [b - a for a, b in zip(p, new)]
            turned = sum(inner(y - b, c, K.range.ndim) for (_, K), y, b, c in zip(self.terms, q, new, change)) > 0
            t = torch.where(turned, 1.0, t)
            t_new = 0.5 * (1 + (1 + 4 * t * t).sqrt())
            weight = (t - 1) / t_new
            q, p, t = [b + over(weight, K.range.ndim) * c for (_, K), b, c in zip(self.terms, new, change)], new, t_new
            if k % 10 == 9 and (self._gap(self._primal(v, p, s), p, per_sample) <= level).all():
                break
        return self._primal(v, p, s)

    def _gap(self, u, duals, sigma):
        images = [K._call(u) for _, K in self.terms]
        return sigma * sum(f(z) + f._conj_value(y) - inner(z, y, K.range.ndim) for (f, K), z, y in zip(self.terms, images, duals))

    def __repr__(self):
        return repr(self.f) if self.g is None else f"{self.f!r} + {self.g!r}"
