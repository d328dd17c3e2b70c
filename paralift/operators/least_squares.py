"""`LeastSquares`: the quadratic data term, with a gradient in two products and a prox."""

import torch

from ..arguments import Count
from .functional import _Composed
from .linear import MatrixOperator
from .norms import L2NormSquared
from .operator import Operator
from .space import inner

__all__ = ["LeastSquares"]


class LeastSquares(_Composed):
    """weight/2 |A x - b|^2. prox: (I + s A*A) u = x + s A* b with s = sigma * weight, in closed form where the operator has one (FourierTransform, MRI on a grid without
    coils or fully sampled, what is diagonal or unitary), by a factor kept per s for matrices, by conjugate gradients otherwise.

    Parameters
    ----------
    op : LinearOperator, or a matrix (m, n).
    data : b, of the shape of A x.
    tolerance, max_iterations : of the conjugate gradients, relative to the right-hand side.

    `0.5 * L2NormSquared().translated(b) @ A` is the same functional; a problem rewrites it to this one. Where A*A x is cheaper than A* (`op.fast_normal`, a NUFFT) the gradient
    is A*A x - A*b, with A*b kept: its rounding error is relative to |A*b|. The value never uses it, as <x, A*A x> - 2 <x, A*b> + |b|^2 would lose the digits of a small residual.
    """

    def __init__(self, op: Operator | torch.Tensor, data: torch.Tensor, weight: float = 1.0, tolerance: float = 1e-12, max_iterations: Count = 500):
        op = MatrixOperator(op) if torch.is_tensor(op) else op
        if not isinstance(op, Operator) or not op.is_linear:
            raise TypeError(f"LeastSquares got {op!r}, which is not linear; write 0.5 * L2NormSquared().translated(b) @ op.")
        if not op.range.fits(data):
            raise ValueError(f"LeastSquares got data of shape {tuple(data.shape)}; the operator's range is {op.range.shape}.")
        super().__init__(0.5 * weight * L2NormSquared().translated(data), op)
        self.data, self.weight, self.tolerance, self.max_iterations = data, float(weight), tolerance, max_iterations
        self._factor = self._pulled = None

    def _map(self, x):
        r = self.op._call(x)
        return r - self.data if r.requires_grad or r.is_inference() or r.data_ptr() == x.data_ptr() else r.sub_(self.data)

    def excess(self, new: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """D(new, x) = weight/2 |A (new - x)|^2, without cancellation."""
        return self._half_square(self.image(new) - self.image(x))

    def _value(self, x):
        return self._half_square(self.image(x))

    def _half_square(self, r):
        if r.dim() == self.op.range.ndim and not r.is_complex():
            r = r.reshape(-1)
            return 0.5 * self.weight * torch.dot(r, r)
        return 0.5 * self.weight * inner(r, r, self.op.range.ndim)

    def _gradient(self, x):
        g = self.op._normal(x) - self._pulled_back() if self.op.fast_normal else self.op._adjoint(self.image(x))
        return g if self.weight == 1 else self.weight * g

    def _pulled_back(self):
        """A*b."""
        if self.data.requires_grad:
            return self.op._adjoint(self.data)
        if self._pulled is None:
            self._pulled = self.op._adjoint(self.data)
        return self._pulled

    def _prox(self, x, sigma):
        s = sigma * self.weight
        rhs = x + s * self._pulled_back()
        if isinstance(self.op, MatrixOperator) and not torch.is_tensor(s):
            return self._direct(rhs, s)
        u = self.op._resolvent(rhs, s)
        return self._conjugate_gradients(rhs, x, s) if u is None else u

    def _direct(self, rhs, s):
        M = self.op.matrix
        m, n = M.shape
        if self._factor is None or self._factor[0] != s:
            gram = M.mH @ M if n <= m else M @ M.mH
            self._factor = (s, torch.linalg.cholesky(s * gram + torch.eye(len(gram), dtype=M.dtype, device=M.device)))
        solve = lambda v: torch.cholesky_solve(v.reshape(-1, v.shape[-1]).mT, self._factor[1]).mT.reshape(v.shape)
        return solve(rhs) if n <= m else rhs - s * self.op._adjoint(solve(self.op._call(rhs)))

    def _conjugate_gradients(self, rhs, u, s):
        apply = lambda v: v + s * self.op._normal(v)
        dot = lambda a, b: inner(a, b, self.ndim).reshape(a.shape[:a.dim() - self.ndim] + (1,) * self.ndim)
        return conjugate_gradients(apply, rhs - apply(u), u, dot, self.tolerance**2 * dot(rhs, rhs), self.max_iterations, every=5)

    def __repr__(self):
        return f"{self.weight / 2:g} |A x - b|^2, A = {self.op!r}"


def conjugate_gradients(apply, r, x, dot, target, max_iterations, every=1):
    """x + H^-1 r, H = apply symmetric positive definite, until dot(r, r) <= target; that is looked at in every `every`-th step. dot may give one number a sample."""
    tiny = torch.finfo(r.dtype).tiny
    p, rr = r, dot(r, r)
    for k in range(max_iterations):
        if k % every == 0 and (rr <= target).all():
            break
        q = apply(p)
        a = rr / dot(p, q).clamp(min=tiny)
        x, r = x + a * p, r - a * q
        new = dot(r, r)
        p, rr = r + (new / rr.clamp(min=tiny)) * p, new
    return x
