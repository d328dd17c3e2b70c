"""`SamplingDesign`: where to sample a transform, by sparse source elements of training images."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from ..arguments import Array, Count, Kind, checked
from ..operators.functional import Functional
from ..operators.operator import LinearOperator
from ..operators.transforms import FourierTransform, mirrored
from .problem import Linearisation, Point, Problem, check_point
from .sample_groups import SampleGroups
from .source_condition import check_image, penalty, pull

__all__ = ["SamplingDesign", "Sampling"]


@dataclass
class Sampling:
    """`mask` (bool, the shape of k-space) with `samples` samples, in percent `percent`; the `weight` and source elements (their norms, image by image) it came from."""

    mask: torch.Tensor
    weight: float
    norm: torch.Tensor
    samples: int
    scores: torch.Tensor              # |transform coefficient of A* q|, group by group over the root of its size: what is sampled has the largest

    @property
    def percent(self) -> float:
        return 100 * self.samples / self.mask.numel()

    def __repr__(self):
        return f"Sampling({self.samples} of {self.mask.numel()} samples, {self.percent:.2f} %; weight {self.weight:.4g}, |v| {float(self.norm.mean()):.6g} on average)"


class SamplingDesign(Problem):
    """min over v_i, q_i of sum_i |T* v_i - A* q_i|^2 / 2 + B_H(A u_i, A u_i + q_i) + weight sum_g c_g |(v_i)_g over all i|_2: samples where v is not 0 make the mask.

    Parameters
    ----------
    transform : T, a linear isometry (T*T = 1) from images to coefficients: FourierTransform(space), HadamardTransform(space), Fourier with coil maps of sum of squares 1
        (range (coils, *k-space); coils share their samples).
    regulariser : J = H(A .) as `split` gives it, such as TotalVariation(), L1Norm() @ Wavelet(...), TotalGeneralisedVariation(); sums too.
    images : (*space.shape), or (n, *space.shape): n images share one mask (group sparsity).
    weight : of the l1 (group) norm; or instead
    budget : how many samples the mask may have, a number of samples, or a share of all where it is below 1: then `design(solver)` looks for the weight. Of real images a
        FourierTransform takes one of each pair of mirror images then, F u(-k) = conj F u(k), as `SampleGroups` says; the support that belongs to a weight has both.
    groups : None (samples apart), or integer labels of k-space samples that are taken together: `line_groups(shape)`, `spoke_groups(shape, spokes)`.
    forced : bool over k-space, samples that are taken at no cost: the zero frequency (total variation does not see it, so it is never chosen), a calibration region.

    c_g is sqrt(n |g|), so that the weight means the same for one image and for many. v is eliminated: v_g = max(1 - weight c_g / |w_g|, 0) w_g, w = T A* q, so the blocks are
    "q" ("q1", ...), the problem is smooth and convex, and PGD(step=1/9) takes the steps of the authors' PALM (TV in two dimensions); FISTA is faster.
    `result.solution` is a `Sampling`; for reconstructions its mask is a start, see `refine_mask`.
    Raises ValueError / TypeError where T is no isometry, a budget cannot be met, labels or forced samples have another shape.
    Source: Benning, Bubba, Ratti & Riccio, IMA J. Appl. Math., 2024 (arXiv 2303.00696) for one image and samples apart.
    """

    convex = True

    def __init__(self, transform: LinearOperator, regulariser: Functional, images: Array, weight: float | None = None, budget: float | None = None,
                 groups: torch.Tensor | None = None, forced: torch.Tensor | None = None):
        _, joined, terms = check_image("SamplingDesign", transform, regulariser, images)
        space = transform.domain
        probe = space.randn(generator=torch.Generator().manual_seed(0))
        if not torch.linalg.vector_norm(transform._adjoint(transform._call(probe)) - probe) <= 1e3 * torch.finfo(space.dtype).eps * torch.linalg.vector_norm(probe):
            raise ValueError(f"SamplingDesign got {transform!r}, which is no isometry (T*T = 1); it needs one without a mask, such as FourierTransform(space).")
        self.transform, self.images, self.count = transform, images, images.numel() // space.size
        self.potentials, self.analysis = [t.f for t in terms], [t.op for t in terms]
        self.points = [A._call(joined) for A in self.analysis]
        self.own = self.analysis[0].domain.size - space.size                            # unknowns that J minimises over, behind the image's
        self.names = ["q"] if len(terms) == 1 else [f"q{j + 1}" for j in range(len(terms))]
        self.groups = SampleGroups(transform, groups, forced, "SamplingDesign")
        self.shape, self.labels, self.forced, self.apart, self.sizes = (getattr(self.groups, name) for name in ("shape", "labels", "forced", "apart", "sizes"))
        self._check_budget(weight, budget)
        self._prepare()

    def _check_budget(self, weight, budget):
        if (weight is None) == (budget is None):
            raise ValueError("SamplingDesign got both a weight and a budget, or neither; give one of them.")
        if weight is not None and not weight > 0:
            raise ValueError(f"SamplingDesign got weight={weight}; it needs a positive number.")
        self.weight, self.budget, free = weight, None, int(self.forced.sum())
        if budget is not None:
            most = self.groups.total
            whole = isinstance(budget, float) and budget.is_integer()
            self.budget = round(budget * self.forced.numel()) if isinstance(budget, float) and 0 < budget < 1 else int(budget) if whole else budget
            least = free + int(self.groups.costs[self.groups.costs > 0].min())
            if not isinstance(self.budget, int) or isinstance(budget, bool) or not least <= self.budget < most:
                which = " that are no mirror images of each other" if self.groups.paired else ""
                raise ValueError(f"SamplingDesign got budget={budget}: an impossible one; it needs a whole number of samples (or a share of all), at least {least}, the {free} "
                                 f"forced ones and the smallest group, and fewer than all {most}{which}.")

    def _prepare(self):
        """Over the entries of the spectrum at hand (half of it where image and transform are real): the group of each, that of its mirror image, how often it counts."""
        T, device = self.transform, self.images.device
        self.half = type(T) is FourierTransform and T.real and T.mask is None
        labels = torch.where(self.forced, -1, self.labels).to(device)
        if self.half:
            natural = torch.fft.ifftshift(labels)
            mirror = T.half(mirrored(natural, T.axes))
            self.here, self.there = T.half(natural), mirror
            column = torch.arange(self.here.shape[-1], device=device)
            self.copies = torch.where((column == 0) | (2 * column == self.shape[-1]), 1, 2).to(self.images.real.dtype).expand(self.here.shape)
        else:
            self.here = self.there = labels
            self.copies = torch.ones(self.here.shape, dtype=self.images.real.dtype, device=device)
        self.free = (self.here < 0) if bool(self.forced.any()) else None
        self.costs = (self.count * self.sizes.to(device)).to(self.images.real.dtype).sqrt()
        self._norms, self._begin = None, None

    # ---- the spectrum of s = sum_j A_j* q_j
    def _coefficients(self, s):
        if self.own:
            s = s[..., :-self.own].reshape(self.images.shape)
        return self.transform._spectrum(s) if self.half else self.transform._call(s)

    def _back(self, w):
        return self.transform._image(w) if self.half else self.transform._adjoint(w)

    def _sizes(self, w):
        """|w| over images and coils, entry by entry (samples apart) or group by group."""
        if self.apart and w.dim() == self.here.dim() and not w.is_complex():
            return w.abs()
        square = w.real.square().addcmul_(w.imag, w.imag) if w.is_complex() else w.square()                          # several times faster than abs()
        square = square if square.dim() == self.here.dim() else square.reshape(-1, *self.here.shape).sum(0)
        if self.apart:
            return square.sqrt_()
        into = square.new_zeros(len(self.costs) + 1)                                          # the last place takes the forced samples
        halves = (0.5 * square * self.copies).flatten()
        return into.index_add_(0, self.here.flatten() % len(into), halves).index_add_(0, self.there.flatten() % len(into), halves)[:-1].sqrt()

    def _shares(self, sizes, weight):
        """min(weight c_g / |w_g|, 1) for each entry, what w - v keeps of w; 0 for forced samples. Overwrites `sizes`."""
        cost = weight * (math.sqrt(self.count) if self.apart else self.costs.clamp(min=1e-30))
        f = sizes.reciprocal_().mul_(cost).clamp_(max=1)
        if not self.apart:
            f = torch.cat([f, f.new_zeros(1)])
            f = f[self.here] if not self.half else 0.5 * (f[self.here] + f[self.there])
        return f if self.free is None else f.masked_fill_(self.free, 0.0)

    # ---- the contract
    def start(self):
        if self.weight is None:
            raise ValueError("SamplingDesign has a budget and no weight yet; call design(solver), which looks for the weight, or pass weight=... to solve it as it is.")
        if self._begin is not None:
            return dict(self._begin)
        return {name: torch.zeros_like(x) for name, x in zip(self.names, self.points)}

    def _synthesis(self, point):
        parts = [A._adjoint(point[name]) for name, A in zip(self.names, self.analysis)]
        return parts[0] if len(parts) == 1 else sum(parts)

    def _misfit(self, s, w, sizes):
        """s - T* v, v the best one; T* (w - v), as T*T = 1. Overwrites w, where it is no one else's, and sizes."""
        f = self._shares(sizes, self.weight)
        r = self._back(w.mul_(f) if self.half else w * f)
        return torch.cat([r.reshape(*s.shape[:-1], -1), s[..., -self.own:]], -1) if self.own else r

    def linearise(self, point, blocks=None):
        s = self._synthesis(point)
        w = self._coefficients(s)
        sizes = self._sizes(w)
        value = self._envelope(sizes) + (0.5 * s[..., -self.own:].abs().square().sum() if self.own else 0)
        r, gradient = self._misfit(s, w, sizes), {}
        for name, f, A, x in zip(self.names, self.potentials, self.analysis, self.points):
            value = value + penalty(f, x, point[name])
            gradient[name] = pull(f, x, point[name], A, r)
        return Linearisation(value, gradient)

    def gradient(self, point, blocks=None):
        s = self._synthesis(point)
        w = self._coefficients(s)
        r = self._misfit(s, w, self._sizes(w))
        return {name: pull(f, x, point[name], A, r) for name, f, A, x in zip(self.names, self.potentials, self.analysis, self.points)}

    def _envelope(self, size):
        """min over v of |T* v - s|^2 / 2 + weight sum_g c_g |v_g|: Huber's function of |w_g|; 0 for forced samples."""
        cost = torch.full_like(size, self.weight * math.sqrt(self.count)) if self.apart else self.weight * self.costs
        h = torch.where(size <= cost, 0.5 * size * size, cost * (size - 0.5 * cost))
        if self.apart:
            h = h * self.copies if self.free is None else torch.where(self.free, 0.0, h * self.copies)
        return h.sum()

    def nonsmooth_value(self, point):
        return self.images.real.new_zeros(())

    def prox(self, point, steps):
        return point

    def lipschitz(self, point, blocks=None):
        if self._norms is None:
            self._norms = {name: len(self.names) * A.norm() ** 2 + 1 for name, A in zip(self.names, self.analysis)}
        return {k: self._norms[k] for k in point if blocks is None or k in blocks}

    # ---- the mask
    def finish(self, point):
        return self.sampling(point)

    def sampling(self, point: Point, budget: int | None = None) -> Sampling:
        """The `Sampling` of a point: the support of v, or the groups of largest score up to `budget` samples."""
        check_point("SamplingDesign.sampling", point, dict(zip(self.names, self.points)))
        if self.weight is None:
            raise ValueError("SamplingDesign.sampling was asked for before a weight is known; call design(solver), or pass weight=... to the problem.")
        w = self._coefficients(self._synthesis(point))
        scores = self._scores(self._sizes(w))
        norms = ((w * (1 - self._shares(self._sizes(w), self.weight))).abs().square() * self.copies).reshape(self.count, -1).sum(1).sqrt()
        mask = (self.forced | (scores > self.weight)[self.labels]).to(self.groups.device) if budget is None else self.groups.mask(self.groups.fill(scores, budget))
        return Sampling(mask, self.weight, norms.reshape(self.images.shape[:self.images.dim() - self.transform.domain.ndim]), int(mask.sum()), scores)

    def _scores(self, size):
        """|w_g| / c_g for each group, on the CPU; -1 for groups whose samples are all forced."""
        if self.apart:
            size = size / math.sqrt(self.count)
            if self.half:
                full = size.new_empty(self.shape)
                full[..., :size.shape[-1]] = size
                full[..., size.shape[-1]:] = mirrored(full, self.transform.axes)[..., size.shape[-1]:]
                size = torch.fft.fftshift(full)
            size = size.flatten()
        else:
            size = size / self.costs.clamp(min=1e-30)
        return torch.where(self.sizes > 0, size.cpu(), -1.0)

    @checked
    def design(self, solver: Annotated[Any, Kind("a Solver, such as FISTA(200)", lambda v: hasattr(v, "solve") and hasattr(v, "step"))],
               trials: Count = 12, tolerance: float = 0.01) -> Sampling:
        """The `Sampling` with at most `budget` samples: `solver` (FISTA(200), say) is run at most `trials` times, each from where the last one ended, the weight becoming the
        score that would give the budget, until the support of v is within `tolerance` * budget of it. Then the groups of largest score are kept. What was found is
        kept too: a second call gives it again."""
        if self.budget is None:
            raise ValueError("SamplingDesign.design needs a budget; with a weight, solver.solve(problem).solution is the sampling.")
        if self.weight is not None:
            return self.sampling(self._best, self.budget)
        low, high = 0.0, math.inf
        try:
            self.weight = 1.0
            self.weight = self._weight(self._steepest())
            for _ in range(trials):
                point = self._begin = solver.solve(self, progress=False).x
                found = int(self.groups.mask(self._scores(self._sizes(self._coefficients(self._synthesis(point)))) > self.weight).sum())
                if abs(found - self.budget) <= tolerance * self.budget:
                    break
                low, high = (max(low, self.weight), high) if found > self.budget else (low, min(high, self.weight))
                wanted = self._weight(point)
                inside = low < wanted < high
                self.weight = wanted if inside else math.sqrt(low * high) if low > 0 and high < math.inf else 0.7 * high if low == 0 else 1.4 * low
            self._best = point
            return self.sampling(point, self.budget)
        except BaseException:
            self.weight = None                                   # nothing is known yet
            raise
        finally:
            self._begin = None

    def _steepest(self):
        """A first q: x over its size, the subgradient that is certain, by way of prox residuals."""
        return {name: x - f._prox(x, 1.0) for name, f, x in zip(self.names, self.potentials, self.points)}

    def _weight(self, point):
        """The largest score that the budget leaves out."""
        scores = self._scores(self._sizes(self._coefficients(self._synthesis(point))))
        left = scores[(self.groups.costs > 0) & ~self.groups.fill(scores, self.budget)]
        return max(float(left.max()) if len(left) else 0.0, 1e-12)

    def __repr__(self):
        what = f"weight {self.weight:g}" if self.budget is None else f"budget {self.budget} of {self.forced.numel()} samples"
        return f"SamplingDesign({self.transform!r}, {len(self.potentials)} terms, images {tuple(self.images.shape)}, {what})"
