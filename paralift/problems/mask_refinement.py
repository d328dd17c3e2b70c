"""`refine_mask`: samples of a mask exchanged for those that reconstructions of training images miss most."""

from collections.abc import Callable

import torch

from ..arguments import Array, Count, Seed, checked, shown
from ..operators.operator import LinearOperator
from ..operators.space import finite
from .sample_groups import SampleGroups

__all__ = ["refine_mask"]


@checked
def refine_mask(mask: torch.Tensor, transform: LinearOperator, images: Array, reconstruct: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
                groups: torch.Tensor | None = None, forced: torch.Tensor | None = None, rounds: Count = 60, share: tuple[float, float] = (0.4, 0.02), batch_size: Count = 12,
                seed: Seed = 0) -> tuple[torch.Tensor, list[float]]:
    """A mask of as many samples whose reconstructions of the images have less error: (mask, errors), errors[k] the relative error |u - u'|^2/|u'|^2 of round k, a mean.

    A round leaves out a random part D of the mask M, reconstructs u from M \\ D, and refills the mask with the choices g of largest

        e_g = (1/costs_g) sum_i |(T (u_i - u'_i))_g|^2 / |u_i - u'_i|^2,      u_i = reconstruct(M \\ D, u'_i),

    the part of the error that lies in g, in image i relative to all of it (so that the mean of the PSNR counts), whether g was in D or never in M: so a sample stays where
    the others do not predict it. A mask that stays has no group whose error is larger than that of one of its own if this were left out.

    Parameters
    ----------
    mask : bool, of k-space's shape, the start; its number of samples is the budget, where of a pair of mirror images only one is bought. `SamplingDesign` gives one, or
        `SampleGroups.draw`.
    transform : T, without a mask, as in `SamplingDesign`; for real images it takes one of each pair of mirror images.
    images : u', (n, *space.shape), training images; a round sees `batch_size` of them.
    reconstruct : (mask, images) -> reconstructions of the images' shape from their samples in the mask: any solver, learned or not.
    groups, forced : as in `SampleGroups`.
    rounds, share : how many rounds, and the part of the mask that the first and the last leave out, falling geometrically between.

    Raises ValueError for images, masks and numbers that do not fit. The reconstruction's error is used, not its derivative. Related: Zibetti, Herman & Regatte, Sci. Rep. 11,
    2021, exchange by the error of k-space too; they keep samples by the size of their data.
    """
    space = transform.domain
    images = finite(images, "refine_mask", "images")
    if images.dim() != space.ndim + 1 or not space.fits(images):
        raise ValueError(f"refine_mask got images of shape {tuple(images.shape)}; it needs (n, {', '.join(map(str, space.shape))}).")
    if not bool(images.abs().flatten(1).amax(1).all()):
        raise ValueError("refine_mask got an image that is 0 everywhere, whose relative error is not defined; leave it out.")
    units = SampleGroups(transform, groups, forced, "refine_mask")
    if not torch.is_tensor(mask) or mask.dtype != torch.bool or tuple(mask.shape) != units.shape:
        raise ValueError(f"refine_mask got mask={type(mask).__name__}; it needs a bool tensor of k-space's shape {units.shape}.")
    if bool((units.forced & ~mask.cpu()).any()):
        raise ValueError("refine_mask got a mask without some of the forced samples; pass mask | forced.")
    if rounds < 1 or batch_size < 1 or not 0 < share[1] <= share[0] <= 1:
        raise ValueError(f"refine_mask got rounds={rounds}, batch_size={batch_size}, share={share}; it needs whole numbers of at least 1 and 1 >= first share >= last share > 0.")
    generator, chosen, errors = torch.Generator().manual_seed(seed), units.held(mask), []
    axes, budget = tuple(range(-space.ndim, 0)), int(units.mask(chosen).sum())
    for k in range(rounds):
        part = share[0] * (share[1] / share[0]) ** (k / max(rounds - 1, 1))
        held = chosen.nonzero().flatten()
        chosen[held[torch.randperm(len(held), generator=generator)[:max(round(part * len(held)), 1)]]] = False
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size].to(images.device)]
        found = reconstruct(units.mask(chosen), batch)
        if not torch.is_tensor(found) or found.shape != batch.shape or not torch.isfinite(found).all():
            raise ValueError(f"refine_mask got {shown(found)} from reconstruct; it needs finite images of shape {tuple(batch.shape)}.")
        error = found - batch
        size = error.abs().square().sum(axes)
        errors.append(float((size / batch.abs().square().sum(axes)).mean()))
        relative = error / size.sqrt().clamp(min=torch.finfo(size.dtype).tiny).reshape(-1, *(1,) * space.ndim)
        chosen = units.fill(units.sums(transform._call(relative).abs().square()) / units.costs.clamp(min=1), budget, chosen)
    return units.mask(chosen), errors
