"""`LearnedRegulariser`: filters of a regulariser, learned so that training images have small source elements."""

import torch

from ..arguments import Array, Count, Seed
from ..operators.filter_bank import FilterBank
from ..operators.functional import Functional
from ..operators.norms import GroupL1Norm
from ..operators.space import Space, SpaceLike, finite, inner
from .problem import Linearisation, Problem

__all__ = ["LearnedRegulariser"]


class LearnedRegulariser(Problem):
    """J(u; theta) = |K_theta u|_{2,1}, K_theta a bank of learned filters, trained by lifting: with q_i in place of the subgradient of |.|_{2,1} at K_theta u_i,

        min over theta, q of 1/n sum_i [ |K_theta* q_i|^2 / 2 + rho eps B(q_i, K_theta u_i / eps) ],

    B the lifted Bregman penalty of the projection onto the unit ball of the dual norm (an activation: the prox of the ball's indicator). K_theta* q_i is then the source
    element of u_i (for the identity as operator), and rho eps B tends to rho (J(u_i) - <q_i, K_theta u_i>) for eps -> 0, which is 0 iff q_i is a subgradient.

    Parameters
    ----------
    images : (n, h, w), real.
    filters, size : how many filters, of size x size pixels; at most size^2 - 1.
    rho, smoothing : rho and eps, eps in units of the filtered image.
    seed : of the first filters.

    The filters have mean 0, are orthogonal and have the norm 2 / sqrt(filters): their squares sum to 4, as those of total variation's differences, so J cannot just shrink.
    Blocks "filters" (m, size, size) and "q" (n, m, h', w'); for BCD (PALM). `result.solution` is J as `GroupL1Norm() @ FilterBank` for images of this shape;
    `functional(filters, space)` gives it for others. The history has the mean |K_theta* q| ("source_norm") and the mean Fenchel gap ("gap").
    Raises TypeError / ValueError for complex or constant images, NaN, wrong shapes and more filters than there are.
    Source: the learning of regularisers in arXiv 2303.00696.
    """

    def __init__(self, images: Array, filters: Count = 8, size: Count = 5, rho: float = 1.0, smoothing: float = 0.02, seed: Seed = 0):
        images = finite(images, "LearnedRegulariser", "tensor of images")
        if images.dim() != 3 or images.is_complex() or min(images.shape[1:]) < size:
            raise ValueError(f"LearnedRegulariser got images of shape {tuple(images.shape)}, {images.dtype}; it needs real ones (n, h, w) of at least {size} x {size} pixels.")
        if not 1 <= filters <= size * size - 1:
            raise ValueError(f"LearnedRegulariser got filters={filters}; with mean 0 and orthogonal there are 1 to {size * size - 1} of size {size}.")
        if not rho > 0 or not smoothing > 0:
            raise ValueError(f"LearnedRegulariser got rho={rho}, smoothing={smoothing}; both need to be positive.")
        if bool((images.flatten(1).std(1) == 0).any()):
            raise ValueError("LearnedRegulariser got a constant image, from which nothing is learned; leave it out.")
        self.images, self.rho, self.smoothing, self.scale = images, float(rho), float(smoothing), 2 / filters**0.5
        g = torch.Generator().manual_seed(seed)
        self.first = self._project(torch.randn(filters, size, size, generator=g, dtype=torch.float64).to(images))
        patches = images.unfold(1, size, 1).unfold(2, size, 1).reshape(-1, size * size)
        patches = patches - patches.mean(1, keepdim=True)                                    # filters of mean 0 see no more
        self._patches = float(torch.linalg.eigvalsh((patches.mT @ patches).double())[-1])

    # ---- the sets
    def _project(self, filters):
        """The nearest filters of mean 0, orthogonal, of norm `scale`: the polar factor."""
        flat = filters.flatten(1)
        U, _, Vh = torch.linalg.svd(flat - flat.mean(1, keepdim=True), full_matrices=False)
        return self.scale * (U @ Vh).view_as(filters)

    @staticmethod
    def _ball(z):
        """The activation: each pixel's vector of channels, cut to length 1."""
        return z / z.square().sum(1, keepdim=True).sqrt().clamp(min=1)

    def _bank(self, filters):
        return FilterBank(filters, Space.of(self.images[0]))

    # ---- the contract
    def start(self):
        return {"filters": self.first.clone(), "q": self._ball(self._bank(self.first)._call(self.images) / self.smoothing)}

    def linearise(self, point, blocks=None):
        filters, q, n, gradient = point["filters"], point["q"], len(self.images), {}
        bank = self._bank(filters)
        s, z = bank._adjoint(q), bank._call(self.images)
        p = self._ball(z / self.smoothing)
        d = z / self.smoothing - p
        conjugate = 0.5 * (inner(z, z) / self.smoothing**2 - inner(d, d))                     # of |.|^2 / 2 + the ball's indicator, at z / eps
        value = (0.5 * inner(s, s) + self.rho * self.smoothing * (0.5 * inner(q, q) + conjugate - inner(q, z) / self.smoothing)) / n
        if blocks is None or "q" in blocks:
            gradient["q"] = (bank._call(s) + self.rho * (self.smoothing * q - z)) / n
        if blocks is None or "filters" in blocks:
            gradient["filters"] = (self._correlate(s, q) + self.rho * self._correlate(self.images, p - q)) / n
        return Linearisation(value, gradient)

    def smooth_value(self, point, blocks=None):
        return self.linearise(point, ()).value

    def _correlate(self, u, q):
        """d <q, K_theta u> / d theta, summed over the images."""
        return torch.nn.grad.conv2d_weight(u.unsqueeze(1), (q.shape[1], 1, *self.first.shape[1:]), q).squeeze(1)

    def nonsmooth_value(self, point):
        return self.images.new_zeros(())

    def prox(self, point, steps):
        project = {"filters": self._project, "q": self._ball}
        return {k: project[k](v) for k, v in point.items()}

    def lipschitz(self, point, blocks=None):
        """A bound in "q" (the filters' largest response over a grid of frequencies); an estimate in "filters", by power iterations, so that descent is looked for."""
        n, bounds = len(self.images), {}
        if blocks is None or "q" in blocks:
            response = torch.fft.rfft2(point["filters"], s=(64, 64)).abs().square().sum(0).max()
            bounds["q"] = (1.05 * float(response) + self.rho * self.smoothing) / n
        if blocks is None or "filters" in blocks:
            q, d = point["q"], torch.ones_like(point["filters"]) + point["filters"]
            for _ in range(4):
                size = torch.linalg.vector_norm(d).clamp(min=1e-30)
                d = self._correlate(self._bank(d / size)._adjoint(q), q)
            bounds["filters"] = (float(torch.linalg.vector_norm(d)) + self.rho / self.smoothing * self._patches) / n
        return bounds

    def sweep_order(self):
        return [("q",), ("filters",)]

    def metrics(self, point):
        bank = self._bank(point["filters"])
        s, z = bank._adjoint(point["q"]), bank._call(self.images)
        gap = GroupL1Norm().on(bank.range)(z) - inner(z, point["q"], 3)
        return {"source_norm": s.square().sum((1, 2)).sqrt().mean(), "gap": gap.mean()}

    def finish(self, point):
        return self.functional(point["filters"], Space.of(self.images[0]))

    @staticmethod
    def functional(filters: torch.Tensor, space: SpaceLike) -> Functional:
        """|K u|_{2,1} with these filters, for images of `space`."""
        return GroupL1Norm() @ FilterBank(filters, space)

    def __repr__(self):
        m, a, _ = self.first.shape
        return f"LearnedRegulariser({m} filters of {a} x {a}, {len(self.images)} images of {tuple(self.images.shape[1:])}, rho {self.rho:g}, eps {self.smoothing:g})"
