"""Second-order total generalised variation: edges and slopes without stairs."""

from collections.abc import Sequence
from typing import Any

import torch

from ..arguments import Count, Integers, Numbers
from .linear import IdentityOperator, grid
from .linear_function import linear_function
from .operator import LinearOperator
from .space import Space, SpaceLike, inner
from .stacks import HorizontalStack, ProductSpace, Selection
from .variation import _Variation

__all__ = ["SymmetrisedGradient", "TotalGeneralisedVariation"]

CHECK, STEP = 20, 0.6                  # iterations from one gap to the next; the primal step times |K|


class SymmetrisedGradient(LinearOperator):
    """E w = (grad w + grad w^T)/2 of the fields that `Gradient(space, axes, spacing)` gives: (d, *space.shape) -> (d (d + 1)/2, *space.shape).

    Rows are (0, 0), (0, 1), ..., (1, 1), ...; those off the diagonal are multiplied by sqrt(2), so a pixel's Euclidean norm is the matrix's Frobenius norm. Backward differences,
    0 where they would need an entry across an edge or one that no gradient fills (the last of w_i along axis i), so E vanishes on the gradients of affine images.
    """

    def __init__(self, space: SpaceLike, axes: Integers | None = None, spacing: Numbers = 1.0):
        space = space if isinstance(space, Space) else Space(space)
        self.axes, self.spacing = grid(space.ndim, axes, spacing, "SymmetrisedGradient")
        d, self.n = len(self.axes), space.ndim
        self.entries = {(i, j): k for k, (i, j) in enumerate((i, j) for i in range(d) for j in range(i, d))}
        super().__init__(Space((d, *space.shape), space.dtype, space.device), Space((len(self.entries), *space.shape), space.dtype, space.device))

    def _pairs(self, w, e):
        """(entries of w, those one before, the entries of E w that take their difference, its factor)."""
        for i, (a, h) in enumerate(zip(self.axes, self.spacing)):
            for j, b in enumerate(self.axes):
                part, row = w.select(-self.n - 1, j), e.select(-self.n - 1, self.entries[min(i, j), max(i, j)])
                if a != b:
                    part, row = (v.narrow(b, 0, v.shape[b] - 1) for v in (part, row))
                length = max(part.shape[a] - (2 if a == b else 1), 0)
                yield part.narrow(a, min(1, part.shape[a] - 1), length), part.narrow(a, 0, length), row.narrow(a, min(1, row.shape[a] - 1), length), (1 if i == j else 0.5**0.5) / h

    def _call(self, w):
        return linear_function(w, self._differences, self._sums)

    def _adjoint(self, e):
        return linear_function(e, self._sums, self._differences)

    def _differences(self, w):
        e = w.new_zeros(*w.shape[:w.dim() - self.n - 1], *self.range.shape)
        for later, before, row, c in self._pairs(w, e):
            row.add_(later, alpha=c).sub_(before, alpha=c)
        return e

    def _sums(self, e):
        w = e.new_zeros(*e.shape[:e.dim() - self.n - 1], *self.domain.shape)
        for later, before, row, c in self._pairs(w, e):
            later.add_(row, alpha=c)
            before.sub_(row, alpha=c)
        return w


class TotalGeneralisedVariation(_Variation):
    """min over vector fields w of alpha_1 sum |grad x - w| + alpha_0 sum |E w|, E the symmetrised gradient: 0 on affine images.

    Parameters
    ----------
    alpha : (alpha_0, alpha_1); with a spacing in mm, alpha_0 is in mm.
    tolerance, max_iterations : of value and prox, each a primal-dual iteration that ends once its duality gap is at most tolerance * |x|^2/2 (the prox, which bounds
        |u - prox|^2/2) or tolerance * alpha_1 TV(x) (the value, an upper bound), for every sample.

    `space`, `channel_axis`, `axes` and `spacing` are those of TotalVariation. With other data terms, w is an unknown: `auxiliary(space)` = (W,), and `split(space)` gives
    alpha_1 GroupL1Norm() @ (grad, -I) and alpha_0 GroupL1Norm() @ E on the joined unknown, ProductSpace(space, W).
    Raises ValueError unless both alphas are positive. Source: Bredies, Kunisch & Pock, SIAM J. Imaging Sci. 3(3), 2010.
    """

    positive_homogeneous = True

    def __init__(self, alpha: tuple[float, float] = (2.0, 1.0), space: SpaceLike | None = None, channel_axis: int | None = None, axes: Integers | None = None,
                 spacing: Numbers = 1.0, tolerance: float = 1e-5, max_iterations: Count = 5000):
        if not isinstance(alpha, (tuple, list)) or len(alpha) != 2 or not all(a > 0 for a in alpha):
            raise ValueError(f"TotalGeneralisedVariation got alpha={alpha}; it needs two positive numbers, (alpha_0, alpha_1).")
        self.alpha = tuple(float(a) for a in alpha)
        super().__init__(space, True, channel_axis, axes, spacing, tolerance, max_iterations)

    def _symmetrised(self, space):
        return SymmetrisedGradient(space, *self._grid()[1:])

    def auxiliary(self, space):
        space = space if isinstance(space, Space) else Space(space)
        return (self.on(space)._operator(space).range,)

    def split(self, space):
        space = space if isinstance(space, Space) else Space(space)
        f = self.on(space)
        D, E, (a0, a1) = f._operator(space), f._symmetrised(space), self.alpha
        return [(a1 * f._norm()) @ HorizontalStack(D, -1 * IdentityOperator(D.range)), (a0 * f._norm()) @ (E @ Selection(ProductSpace(space, D.range), 1))]

    def _parts(self, x):
        space = Space(tuple(x.shape[-self.ndim:]), x.dtype, x.device)
        D, E = self._operator(space), self._symmetrised(space)
        return D, E, self._norm().on(D.range), self._norm().on(E.range)

    def _feasible(self, q, E, f):
        """(p, q) = c (E* q, q), c <= 1 such that |p| <= alpha_1 everywhere, sample by sample."""
        p = E._adjoint(q)
        c = (self.alpha[1] / f._polar(p).clamp(min=torch.finfo(p.dtype).tiny)).clamp(max=1)
        c = c.reshape(*c.shape, *(1,) * (self.ndim + 1))
        return p.mul_(c), q * c

    def _excess(self, y, e, p, q, f, g):
        """alpha_1 |y| - <y, p> + alpha_0 |e| - <e, q>, of every sample."""
        a0, a1 = self.alpha
        return a1 * f._value(y) - inner(y, p, self.ndim + 1) + a0 * g._value(e) - inner(e, q, self.ndim + 1)

    def minimisers(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        return (self._minimise(x)[0],)

    def feasible_duals(self, space: Space, duals: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        f: Any = self.on(space)
        E = f._symmetrised(f.space)
        return list(f._feasible(f._norm().on(E.range)._dual_ball(duals[1], self.alpha[0]), E, f._norm().on(E.domain)))

    def _value(self, x):
        return self._minimise(x)[1]

    def _minimise(self, x):
        """(w, the value there)."""
        D, E, f, g = self._parts(x)
        a0, a1 = self.alpha
        y, norm = D._call(x), max(sum(4 / h**2 for h in self._grid()[2]), 1e-12) ** 0.5
        w, q = y.clone(), torch.zeros_like(E._call(y))
        size = (inner(y, y, self.ndim + 1) / y[(0,) * (y.dim() - self.ndim)].numel()).sqrt()           # steps in its units: value(a x) = a value(x)
        t = (0.1 / norm * torch.where(size > 0, size, 1.0)).reshape(*size.shape, *(1,) * (self.ndim + 1))
        s, level, r = 1 / (norm**2 * t), self.tolerance * a1 * f._value(y), 1.9
        for k in range(1, self.max_iterations + 1):
            new_w = y + f._prox(w - t * E._adjoint(q) - y, t * a1)
            new_q = g._dual_ball(q + s * E._call(2 * new_w - w), a0)
            if k % CHECK == 1 and (self._excess(y - new_w, E._call(new_w), *self._feasible(new_q, E, f), f, g) <= level).all():
                break
            w, q = torch.lerp(w, new_w, r), torch.lerp(q, new_q, r)
        return new_w, a1 * f._value(y - new_w) + a0 * g._value(E._call(new_w))

    def _prox(self, x, sigma):
        sigma = self._steps(x, sigma)
        sigma = sigma.reshape(*sigma.shape, *(1,) * self.ndim)
        unit = torch.where(sigma > 0, sigma, 1.0)
        D, E, f, g = self._parts(x)
        a0, a1 = self.alpha
        target = x / unit
        square = D.norm() ** 2
        norm = (square + 0.5 * (1 + (1 + 4 * square) ** 0.5)) ** 0.5                          # |(D, -I; 0, E)|, as |E| <= |D|
        t, s = STEP / norm, 1 / (STEP * norm)
        u, w = target, torch.zeros_like(D._call(target))
        p, q = torch.zeros_like(w), torch.zeros_like(E._call(w))
        level = self.tolerance * 0.5 * inner(target, target, self.ndim)
        level = torch.where((sigma > 0).reshape(sigma.shape[:sigma.dim() - self.ndim]), level, torch.inf)
        r = 1.9
        for k in range(1, self.max_iterations + 1):
            new_u = (u + t * (target - D._adjoint(p))) / (1 + t)
            new_w = w + t * (p - E._adjoint(q))
            up, wp = 2 * new_u - u, 2 * new_w - w
            new_p = f._dual_ball(p + s * (D._call(up) - wp), a1)
            new_q = g._dual_ball(q + s * E._call(wp), a0)
            if k % CHECK == 0:
                P, Q = self._feasible(new_q, E, f)
                d = new_u - target + D._adjoint(P)
                gap = self._excess(D._call(new_u) - new_w, E._call(new_w), P, Q, f, g) + 0.5 * inner(d, d, self.ndim)
                if (gap <= level).all():
                    break
            u, w, p, q = torch.lerp(u, new_u, r), torch.lerp(w, new_w, r), torch.lerp(p, new_p, r), torch.lerp(q, new_q, r)
        return torch.where(sigma > 0, unit * new_u, x)
