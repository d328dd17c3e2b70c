"""Total variation, with a prox certified by its duality gap."""

import torch

from .functional import Functional
from .linear import Gradient
from .norms import GroupL1Norm, L1Norm
from .space import Space, inner

__all__ = ["TotalVariation"]


class TotalVariation(Functional):
    """sum over pixels of |grad x| (isotropic) or |grad x|_1, forward differences; all axes of the element are spatial.

    prox by accelerated projected gradient on the dual (Beck & Teboulle, 2009; restarted, O'Donoghue & Candes, 2015), until the duality gap is at most
    `tolerance` * max(|x|^2 / 2, 1) for every sample, for at most `max_iterations`. `space` is (h, w) or (d, h, w); without one the last two axes are the image.
    """

    positive_homogeneous = True
    ndim = 2

    def __init__(self, space=None, isotropic=True, tolerance=1e-6, max_iterations=2000):
        super().__init__(space)
        self.isotropic, self.tolerance, self.max_iterations = isotropic, tolerance, max_iterations

    def _gradient_operator(self, x):
        return Gradient(Space(tuple(x.shape[-self.ndim:]), x.dtype, x.device))

    def split(self, space):
        return [(GroupL1Norm() if self.isotropic else L1Norm()) @ Gradient(space)]

    def _size(self, p):
        axis = -self.ndim - 1
        return p.abs().square().sum(axis, keepdim=True).sqrt() if self.isotropic else p.abs()

    def _value(self, x):
        size = self._size(self._gradient_operator(x)._call(x))
        return size.flatten(-self.ndim - 1).sum(-1)

    def _prox(self, x, sigma):
        D = self._gradient_operator(x)
        s = sigma if not torch.is_tensor(sigma) else sigma.unsqueeze(-self.ndim - 1) if sigma.dim() else sigma
        p = x.new_zeros(*x.shape[:x.dim() - self.ndim], self.ndim, *x.shape[-self.ndim:])
        q, t, step = p, x.new_ones(p.shape[:-self.ndim - 1], dtype=x.real.dtype), 1 / (4 * self.ndim)
        level = self.tolerance * (0.5 * inner(x, x, self.ndim)).clamp(min=1)
        sums = torch.as_tensor(sigma, dtype=x.real.dtype, device=x.device)
        sums = sums.reshape(sums.shape[:max(sums.dim() - self.ndim, 0)]) if sums.dim() else sums
        for k in range(self.max_iterations):
            new = q + step * D._call(x - D._adjoint(q))
            new = new * (s / self._size(new).clamp(min=torch.finfo(x.dtype).tiny)).clamp(max=1)
            change = new - p
            t = torch.where(inner(q - new, change, self.ndim + 1) > 0, 1.0, t)           # gradient restart, sample by sample
            t_new = 0.5 * (1 + (1 + 4 * t * t).sqrt())
            q, p, t = new + ((t - 1) / t_new)[(...,) + (None,) * (self.ndim + 1)] * change, new, t_new
            if k % 20 == 19:
                Dp = D._adjoint(p)
                u = x - Dp
                gap = sums * self._value(u) - inner(u, Dp, self.ndim)      # primal minus dual, >= 0
                if (gap <= level).all():
                    break
        return x - D._adjoint(p)
