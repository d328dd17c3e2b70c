"""`Wavelet`: the orthogonal wavelet transform."""

import math
from typing import Any

import torch

from ..arguments import Integers
from .linear import grid
from .linear_function import linear_function
from .operator import LinearOperator
from .space import Space, SpaceLike

__all__ = ["Wavelet"]


class Wavelet(LinearOperator):
    """x -> its coefficients for an orthogonal wavelet, periodic at the ends, in one tensor of the same shape: unitary, so `L1Norm() @ Wavelet(space)` has an exact prox.

    Along every axis the coarse half comes first; the next level splits the corner that is coarse in all axes (the layout of `pywt.coeffs_to_array`, the numbers of
    `pywt.wavedecn(x, wavelet, mode="periodization", level=levels)`).

    Parameters
    ----------
    space : of real or complex elements with any number of axes; batch axes lead.
    wavelet : a name that PyWavelets knows ("haar", "db4", "sym8", "coif2", ...) or a `pywt.Wavelet`, whose filters are taken.
    levels : by default the most that the sizes allow with a coarse part no shorter than the filter.
    axes : those to transform (all by default); the others are coils, slices or frames.

    `wavelet.details` is 0 at the coarsest approximation and 1 elsewhere: `WeightedL1Norm(W.details) @ W` leaves the approximation free.
    Raises ValueError where the wavelet is not orthogonal or an axis is not divisible by 2^levels, ImportError without PyWavelets.
    Source: Mallat, A Wavelet Tour of Signal Processing, 3rd ed., 2009, ch. 7.
    """

    unitary = True

    def __init__(self, space: SpaceLike, wavelet: Any = "db4", levels: int | None = None, axes: Integers | None = None):
        space = space if isinstance(space, Space) else Space(space)
        super().__init__(space, space)
        self.axes = grid(space.ndim, axes, 1.0, "Wavelet")[0]
        low, self.name = _filter(wavelet)
        n = len(low)
        high = [(-1) ** (j + 1) * low[n - 1 - j] for j in range(n)]
        sizes = [space.shape[a] for a in self.axes]
        fits = min((s & -s).bit_length() - 1 for s in sizes) if min(sizes, default=0) else 0
        if levels is None:
            levels = min(fits, max(int(math.log2(max(min(sizes) / max(n - 1, 1), 1))), 1)) if fits else 0
        if not isinstance(levels, int) or not 1 <= levels <= fits:
            unit = 2 ** (levels if isinstance(levels, int) and levels > 0 else 1)
            raise ValueError(f"Wavelet got levels={levels} for the sizes {sizes}, which halve {fits} times; it needs 1 <= levels <= {fits}, "
                             f"or an element padded to {[-(-s // unit) * unit for s in sizes]}.")
        self.levels, self.taps = levels, [[], []]
        for band, h in enumerate((low, high)):
            for j, c in enumerate(h):                              # band[k] = sum_j h_j x[2 k + n/2 - j]; x[2 k + m] is phase m % 2 at k + m // 2
                m = n // 2 - j
                self.taps[band].append((m % 2, m // 2, c))
        self.back = [[(band, -shift, c) for band in (0, 1) for phase, shift, c in self.taps[band] if phase == p] for p in (0, 1)]

    @property
    def details(self) -> torch.Tensor:
        """1 where a coefficient is a detail, 0 at the coarsest approximation."""
        mask = torch.ones(self.domain.shape, dtype=self.domain.dtype.to_real(), device=self.domain.device)
        self._corner(mask, self.levels).zero_()
        return mask

    def _corner(self, x, level):
        for a in self.axes:
            x = x.narrow(a, 0, self.domain.shape[a] >> level)
        return x

    def _call(self, x):
        return linear_function(x, self._analysis, self._synthesis)

    def _adjoint(self, y):
        return linear_function(y, self._synthesis, self._analysis)

    def _analysis(self, x):
        out = x.clone(memory_format=torch.contiguous_format)
        for level in range(self.levels):
            corner = block = self._corner(out, level)
            for a in self.axes:
                block = _combine(block.unflatten(a, (-1, 2)).unbind(a), self.taps, a, False)
            corner.copy_(block)
        return out

    def _synthesis(self, y):
        out = y.clone(memory_format=torch.contiguous_format)
        for level in reversed(range(self.levels)):
            corner = block = self._corner(out, level)
            for a in reversed(self.axes):
                block = _combine(block.chunk(2, a), self.back, a, True)
            corner.copy_(block)
        return out


def _combine(parts, taps, axis, interleave):
    """Two periodic sequences from two: out_i[k] = sum over (part, shift, c) of taps_i of c part[k + shift], one after the other along `axis`, or entry by entry in turn."""
    n = parts[0].shape[axis]
    pad = max(abs(shift) for t in taps for _, shift, _ in t)
    index = torch.arange(-pad, n + pad, device=parts[0].device) % n
    parts = [p.index_select(axis, index) for p in parts]
    shape = list(parts[0].shape)
    shape[axis] = 2 * n
    out = parts[0].new_empty(shape)
    for i, t in enumerate(taps):
        half = parts[0].new_zeros([*shape[:axis], n, *shape[axis:][1:]])
        for part, shift, c in t:
            half.add_(parts[part].narrow(axis, pad + shift, n), alpha=c)
        (out.unflatten(axis, (n, 2)).select(axis, i) if interleave else out.narrow(axis, i * n, n)).copy_(half)
    return out


def _filter(wavelet):
    """(the low-pass filter of the analysis, the name)."""
    try:
        import pywt
    except ImportError as error:
        raise ImportError("Wavelet takes its filters from PyWavelets; install it by `pip install paralift[imaging]`.") from error
    if isinstance(wavelet, str):
        if wavelet not in pywt.wavelist(kind="discrete"):
            raise ValueError(f"Wavelet got {wavelet!r}; it needs an orthogonal wavelet of PyWavelets: haar, db2 ... db38, sym2 ... sym20, coif1 ... coif17, dmey.")
        wavelet = pywt.Wavelet(wavelet)
    if not getattr(wavelet, "orthogonal", False):
        raise ValueError(f"Wavelet got {getattr(wavelet, 'name', wavelet)!r}, which is not orthogonal; choose haar, db2 ... db38, sym2 ... sym20 or coif1 ... coif17.")
    return wavelet.dec_lo, wavelet.name
