"""Off-resonance by time segmentation: exp(-2 pi i f(x) t) as a short sum of products."""

import math

import torch

from .space import finite

__all__ = ["time_segments"]


def time_segments(field_map: torch.Tensor, readout_times: torch.Tensor, tolerance: float = 1e-4, bins: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    """(phases (L, *field_map.shape), weights (L, *readout_times.shape)), complex128, with exp(-2 pi i f(x) t_k) = sum_l weights_l(k) phases_l(x).

    phases_l(x) = exp(-2 pi i f(x) tau_l), tau_l equally spaced over the readout; for every t the weights are the least-squares ones over the histogram of f (`bins` bins).
    L is the smallest number for which the root mean square error over the pixels, at the worst time, is at most `tolerance`.
    Units: f in Hz, t in s. Raises ValueError where more than 200 segments would be needed (other units?), and for NaN.
    Source: Sutton, Noll & Fessler, IEEE Trans. Med. Imaging 22(2), 2003.
    """
    f, t = (finite(v, "MRI", name).double() for v, name in ((field_map, "field_map"), (readout_times, "tensor of readout_times")))
    if not 0 < tolerance < 1:
        raise ValueError(f"MRI got field_tolerance={tolerance}; it needs a number between 0 and 1.")
    times, inverse = t.unique(return_inverse=True)
    low, high = float(f.min()), float(f.max())
    index = ((f.flatten() - low) * ((bins - 1) / max(high - low, 1e-30))).round().long()
    count = torch.bincount(index, minlength=bins).double()
    centre = torch.bincount(index, f.flatten(), minlength=bins)[count > 0] / count[count > 0]
    share = (count[count > 0] / count.sum()).sqrt()[:, None]
    wave = lambda a, b: torch.polar(torch.ones(len(a), len(b), dtype=torch.float64, device=f.device), -2 * math.pi * a[:, None] * b)
    exact = share * wave(centre, times)
    cycles = (high - low) * float(times[-1] - times[0])
    for L in range(1, 201):
        tau = torch.linspace(float(times[0]), float(times[-1]), L, dtype=torch.float64, device=f.device) if L > 1 else times.mean()[None]
        if L + 1 < cycles:                                              # fewer than one segment a cycle
            continue
        basis = share * wave(centre, tau)
        U, S, V = torch.linalg.svd(basis, full_matrices=False)
        keep = S > 1e-12 * S[0]
        weights = (V.mH[:, keep] / S[keep]) @ (U[:, keep].mH @ exact)
        if float(torch.linalg.vector_norm(basis @ weights - exact, dim=0).max()) <= tolerance:
            phases = wave(tau, f.flatten()).reshape(L, *f.shape)
            return phases, weights[:, inverse.flatten()].reshape(L, *t.shape)
    raise ValueError(f"MRI needs more than 200 time segments for a field map from {low:.4g} to {high:.4g} Hz and times from {float(times[0]):.4g} to {float(times[-1]):.4g} s; "
                     "pass Hz and s.")
