"""What a sampling budget buys: single samples of k-space, lines, spokes, each once where real images give its mirror image for nothing."""

import math
from collections.abc import Sequence

import torch

from ..arguments import ArgumentError, Count, Seed, checked, is_tensor, shown
from ..operators.operator import LinearOperator
from ..operators.transforms import FourierTransform, mirrored

__all__ = ["line_groups", "spoke_groups", "SampleGroups"]


@checked
def line_groups(shape: Sequence[int], axis: int = -1) -> torch.Tensor:
    """Labels of k-space samples (shape): those with one coordinate along `axis`, the phase-encoding axis, form a Cartesian line."""
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"line_groups got shape={tuple(shape)} and axis={axis}; it needs the lengths of k-space's axes, and one of them.")
    axis %= len(shape)
    return torch.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))]).expand(shape).clone()


@checked
def spoke_groups(shape: Sequence[int], spokes: Count) -> torch.Tensor:
    """Labels of k-space samples (h, w), zero frequency at (h // 2, w // 2): each belongs to the nearest of `spokes` lines through the centre, at angles k pi / spokes (rad)."""
    if len(shape) != 2 or spokes < 1:
        raise ValueError(f"spoke_groups got shape={tuple(shape)}, spokes={spokes}; it needs two axes and at least one spoke.")
    y, x = torch.meshgrid(*((torch.arange(n, dtype=torch.float64) - n // 2) / n for n in shape), indexing="ij")
    return (torch.atan2(y, x).remainder(math.pi) * spokes / math.pi).round().long() % spokes


@checked
class SampleGroups:
    """The groups of k-space samples among which a mask chooses.

    Parameters
    ----------
    transform : whose coefficients are sampled; its range, less the axes of coils, is k-space.
    groups : None (samples apart), or int64 labels >= 0 of k-space's shape: `line_groups(shape)`, `spoke_groups(shape, spokes)`.
    forced : bool over k-space, samples that every mask has.

    A real image has F u(-k) = conj F u(k). So for a FourierTransform of a real space a group and its mirror image, where that is a group too, are one choice, named by the
    smaller label, and a mask takes the cheaper of the two (the first where they cost the same). Elsewhere every group is a choice of its own.
    `choice` (k-space's shape): the label of the choice that each sample belongs to; `costs`: the samples that a choice adds to the forced ones, 0 for labels that are none.
    Both, and all scores, lie on the CPU; masks lie where the transform's images do.
    Raises ValueError for labels or forced samples of another kind or shape.
    """

    def __init__(self, transform: LinearOperator, groups: torch.Tensor | None = None, forced: torch.Tensor | None = None, who: str = "SampleGroups"):
        shape = tuple(transform.range.shape[len(transform.range.shape) - transform.domain.ndim:])
        self.shape, self.apart = shape, groups is None
        self.labels = torch.arange(math.prod(shape)).reshape(shape) if groups is None else groups
        self.forced = torch.zeros(shape, dtype=torch.bool) if forced is None else forced
        if not torch.is_tensor(self.labels) or self.labels.dtype != torch.int64 or tuple(self.labels.shape) != shape or self.labels.min() < 0:
            given = groups if not torch.is_tensor(groups) else f"{groups.dtype} of shape {tuple(groups.shape)}"
            raise ValueError(f"{who} got groups={given}; it needs int64 labels >= 0 of k-space's shape {shape}.")
        if not torch.is_tensor(self.forced) or self.forced.dtype != torch.bool or tuple(self.forced.shape) != shape:
            raise ValueError(f"{who} got forced={type(self.forced).__name__}; it needs a bool tensor of k-space's shape {shape}.")
        self.labels, self.forced, self.device = self.labels.cpu(), self.forced.cpu(), transform.domain.device
        self.paired = isinstance(transform, FourierTransform) and transform.real
        labels, count = self.labels.flatten(), int(self.labels.max()) + 1
        self.sizes = torch.bincount(labels[~self.forced.flatten()], minlength=count)                     # samples of a group that are not forced
        own = torch.arange(count)
        partner = self._partners(labels, own, transform.axes) if self.paired else own  # type: ignore[attr-defined]
        self.choice = torch.minimum(own, partner)[labels].reshape(shape)
        cheaper = (self.sizes < self.sizes[partner]) | ((self.sizes == self.sizes[partner]) & (own <= partner))
        self._taken = cheaper[labels].reshape(shape) & ~self.forced
        self.costs = torch.bincount(self.choice[self._taken], minlength=count)

    def _partners(self, labels, own, axes):
        """The group of the opposite frequencies, or the group itself where these are no group."""
        mirror = torch.fft.fftshift(mirrored(torch.fft.ifftshift(self.labels), axes)).flatten()
        least = torch.full_like(own, len(own)).scatter_reduce_(0, labels, mirror, "amin")
        most = torch.full_like(own, -1).scatter_reduce_(0, labels, mirror, "amax")
        partner = torch.where(least == most, least, own)
        return torch.where(partner[partner] == own, partner, own)

    @staticmethod
    def _check(method, name, value, shape, words, dtype=None, batch=False):
        fits = is_tensor(value) and tuple(value.shape[value.dim() - len(shape):] if batch else value.shape) == tuple(shape)
        if not fits or value.is_complex() or dtype not in (None, value.dtype):
            raise ArgumentError(f"SampleGroups.{method} got {name}={shown(value)}; it needs {words}, {tuple(shape)}.")

    @property
    def total(self) -> int:
        """How many samples the largest mask has."""
        return int(self.forced.sum() + self.costs.sum())

    @checked
    def mask(self, chosen: torch.Tensor) -> torch.Tensor:
        """The mask of the choices `chosen` (bool, one for each label)."""
        self._check("mask", "chosen", chosen, self.costs.shape, "one bool for each label", torch.bool)
        return (self.forced | (self._taken & chosen[self.choice])).to(self.device)

    @checked
    def held(self, mask: torch.Tensor) -> torch.Tensor:
        """The choices of which a mask has a sample that is not forced."""
        self._check("held", "mask", mask, self.shape, "a bool for each sample of k-space", torch.bool)
        return torch.bincount(self.choice[mask.cpu() & ~self.forced], minlength=len(self.costs)).bool() & (self.costs > 0)

    @checked
    def sums(self, energy: torch.Tensor) -> torch.Tensor:
        """sum of `energy` (..., *k-space), per choice, over its samples and their mirror images and over leading axes, on the CPU."""
        self._check("sums", "energy", energy, self.shape, "a real tensor with k-space's axes last", batch=True)
        energy = energy.reshape(-1, *self.shape).sum(0).cpu().flatten()
        return energy.new_zeros(len(self.costs)).index_add_(0, self.choice.flatten(), energy)

    @checked
    def fill(self, scores: torch.Tensor, budget: float, chosen: torch.Tensor | None = None) -> torch.Tensor:
        """`chosen` (none by default) and the choices of largest score after them for which there is room in a mask of `budget` samples."""
        self._check("fill", "scores", scores, self.costs.shape, "one number for each label")
        chosen = torch.zeros(len(self.costs), dtype=torch.bool) if chosen is None else chosen.clone()
        order = torch.where(chosen | (self.costs == 0), -math.inf, scores).argsort(descending=True, stable=True)
        order = order[~chosen[order] & (self.costs[order] > 0)]
        room, costs = budget - int(self.mask(chosen).sum()), self.costs[order]
        if not len(order) or int(costs.min()) == int(costs.max()):
            chosen[order[costs.cumsum(0) <= room]] = True
            return chosen
        for group, cost in zip(order.tolist(), costs.tolist()):
            if cost <= room:
                chosen[group], room = True, room - cost
        return chosen

    @checked
    def draw(self, density: torch.Tensor, budget: float, seed: Seed = 0) -> torch.Tensor:
        """A random mask of at most `budget` samples: choices without replacement, with chances proportional to `density` (one for each label); infinite: always."""
        self._check("draw", "density", density, self.costs.shape, "one number for each label")
        clock = torch.empty(len(self.costs), dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(seed))
        return self.mask(self.fill(density.cpu().double() / clock, budget))
