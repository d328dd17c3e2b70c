"""The error bound of perceptron inversion under a source condition."""

import math
from typing import Any

import torch

from ..arguments import Quantity, checked, shown
from ..operators.functional import Functional
from ..operators.space import all_finite, inner

__all__ = ["inversion_error_bound", "inversion_weight"]


@checked
def inversion_error_bound(potential: Functional, output: torch.Tensor, source: torch.Tensor, weight: Quantity, noise: Quantity) -> torch.Tensor:
    """Bound on D_J^p(x_alpha, u), p = A* v in dJ(u): the error of x_alpha = argmin B(y, A x + b) + alpha J(x) from a noisy output y with B(y, A u + b) <= d^2,

        2 d^2 / alpha + alpha |v|^2 + (Psi(y + alpha v) + Psi(y - alpha v) - 2 Psi(y)) / alpha.

    The bracket is the Burbea-Rao divergence of Psi: inf where y +- alpha v leaves its domain, 0 for ReLU where alpha |v| <= y.

    potential : Psi of the last activation. output : y, source : v, (..., m), a bound for each sample. weight : alpha > 0. noise : d >= 0; numbers, or tensors of the batch's shape.
    Raises ValueError where alpha or d is out of range or y lies outside the domain of Psi. Source: Wang & Benning, Front. Appl. Math. Stat. 9:1176850, 2023.
    """
    if output.shape[-1:] != source.shape[-1:]:
        raise ValueError(f"inversion_error_bound got an output of shape {tuple(output.shape)} and a source element of shape {tuple(source.shape)}; both need the output's shape.")
    alpha, d = (torch.as_tensor(a, dtype=output.dtype, device=output.device) for a in (weight, noise))
    if not all_finite(source) or not (alpha > 0).all() or not (d >= 0).all() or not all_finite(alpha) or not all_finite(d):
        raise ValueError(f"inversion_error_bound got weight={shown(weight)}, noise={shown(noise)} and a source of norm {float(torch.linalg.vector_norm(source)):g}; it needs "
                         "weights > 0, noise levels >= 0 and finite numbers throughout.")
    own = potential(output)
    if not torch.isfinite(own).all():
        raise ValueError(f"inversion_error_bound got an output outside the domain of {potential!r}.")
    move = alpha.reshape(alpha.shape + (1,) * potential.ndim) * source if alpha.dim() else alpha * source
    gap = potential(output + move) + potential(output - move) - 2 * own
    return 2 * d.square() / alpha + alpha * inner(source, source, potential.ndim) + gap / alpha


@checked
def inversion_weight(source: torch.Tensor, noise: float) -> Any:
    """alpha = sqrt(2) d / |v|, which balances the first two terms of `inversion_error_bound`: 2 sqrt(2) |v| d."""
    size = float(torch.linalg.vector_norm(source))
    if not size > 0 or not 0 < noise < math.inf:
        raise ValueError(f"inversion_weight got |v| = {size:g}, noise={noise}; both need to be positive and finite.")
    return math.sqrt(2) * noise / size
