"""Orthonormal transforms in which images are sampled: Fourier, with a mask or without, and Walsh-Hadamard."""

import math
from collections.abc import Callable

import torch

from ..arguments import Integers
from .operator import LinearOperator
from .space import Space, SpaceLike

__all__ = ["FourierTransform", "HadamardTransform"]


class FourierTransform(LinearOperator):
    """x -> mask * F x, F the centred orthonormal discrete Fourier transform over all axes of `space`: `space` -> complex, the same shape, zero frequency at n // 2.

    A real space stays real: the adjoint is Re F* (mask * y). Images (..., *space.shape) and k-space have the same unit. `mask` is a bool tensor of the space's shape, as seen
    with the zero frequency in the centre. Coils, weights, frames and trajectories: `MRI`. Raises ValueError for a mask of another shape, TypeError for one that is not bool.
    """

    def __init__(self, space: SpaceLike, mask: torch.Tensor | None = None):
        space = space if isinstance(space, Space) else Space(space)
        if not space.ndim:
            raise ValueError("FourierTransform got a space without axes; it needs an image of at least one axis.")
        if mask is not None and (not torch.is_tensor(mask) or mask.dtype != torch.bool):
            raise TypeError(f"FourierTransform got a mask of {mask.dtype if torch.is_tensor(mask) else type(mask).__name__}; it needs a bool tensor: mask > 0 makes one.")
        if mask is not None and tuple(mask.shape) != space.shape:
            raise ValueError(f"FourierTransform got a mask of shape {tuple(mask.shape)}; the space needs {space.shape}.")
        self.real = not space.dtype.is_complex
        super().__init__(space, Space(space.shape, space.dtype.to_complex() if self.real else space.dtype, space.device))
        self.axes, self.mask, self.unitary = tuple(range(-space.ndim, 0)), None if mask is None else mask.to(space.device), mask is None and not self.real
        self._signs = None                                        # on even axes a factor (-1)^i on the image moves the zero frequency to n // 2
        if all(n % 2 == 0 for n in space.shape):
            parity = sum(torch.arange(n, device=space.device).reshape([-1 if i == a else 1 for i in range(space.ndim)]) for a, n in enumerate(space.shape)) % 2
            self._signs = (1 - 2 * parity).to(space.dtype.to_real())
        self._natural = None if mask is None else torch.fft.ifftshift(self.mask, dim=self.axes)                  # the zero frequency first
        self._half = self._rest = None
        if mask is not None and self.real:                        # A*A in half the spectrum, without the columns behind the last sample
            natural = self._natural.to(space.dtype)
            weight = self.half(natural + mirrored(natural, self.axes)) / 2
            self.columns = 1 + int(weight.reshape(-1, weight.shape[-1]).any(0).nonzero().max()) if mask.any() else 1
            self._half = weight[..., :self.columns].to(space.dtype.to_complex())                            # real factors would be converted in every product
            if self.columns > 0.75 * weight.shape[-1]:
                self._rest = (1 - weight).to(space.dtype.to_complex())

    def _fit(self, x):
        super()._fit(x)
        if self.real and x.is_complex():
            raise TypeError(f"FourierTransform got complex numbers on a real space, whose spectrum it takes for symmetric; use a Space of dtype {self.range.dtype}.")

    def half(self, natural: torch.Tensor) -> torch.Tensor:
        """The part of a natural-order array over k-space that `torch.fft.rfftn` gives."""
        return natural.narrow(-1, 0, self.domain.shape[-1] // 2 + 1)

    def _spectrum(self, x, columns=None):
        """Half the spectrum of real x, zero frequency first: all of it, or its first columns."""
        if columns is None or len(self.axes) == 1:
            return torch.fft.rfftn(x, dim=self.axes, norm="ortho")[..., :columns]
        return torch.fft.fftn(torch.fft.rfft(x, norm="ortho")[..., :columns], dim=self.axes[:-1], norm="ortho")

    def _image(self, w):
        """Real x from half its spectrum, or from the first columns of it where the others are 0; irfftn would go over memory in the wrong order."""
        y = torch.fft.ifftn(w, dim=self.axes[:-1], norm="ortho").contiguous() if len(self.axes) > 1 else w
        return torch.fft.irfft(y, n=self.domain.shape[-1], norm="ortho")

    def _normal(self, x):
        if self.mask is None:
            return x
        if self.real:
            return self._image(self._spectrum(x, self.columns).mul_(self._half))
        return torch.fft.ifftn(torch.fft.fftn(x, dim=self.axes).mul_(self._natural), dim=self.axes)

    def _complement(self, x):
        if self._rest is not None:
            return self._image(self._spectrum(x).mul_(self._rest))
        y = self._normal(x)
        return x - y if y is x else torch.sub(x, y, out=y)

    def _resolvent(self, x, s):
        if self.mask is None:
            return x * (1 / (1 + s))
        if self.real:
            weight = s * self._half
            return x - self._image(self._spectrum(x, self.columns) * (weight / (1 + weight)))
        return torch.fft.ifftn(torch.fft.fftn(x, dim=self.axes).mul_(1 / (1 + s * self._natural.to(x.real.dtype))), dim=self.axes)

    def compact(self) -> tuple[LinearOperator, Callable[[torch.Tensor], torch.Tensor]]:
        """(B, expand) for a real space: B* B = A*A in half the numbers or less, B B* y = weight * back * y for y = B x, and expand, with expand(B x) = A x, keeps norms."""
        column = torch.arange(self.domain.shape[-1] // 2 + 1, device=self.domain.device)
        own = (column == 0) | (2 * column == self.domain.shape[-1])                    # columns that hold their mirror images themselves
        ones = torch.ones(self.domain.shape, dtype=self.domain.dtype, device=self.domain.device)
        natural = ones if self.mask is None else self._natural.to(self.domain.dtype)
        here, there = self.half(natural), self.half(mirrored(natural, self.axes))
        weight, columns = torch.where(own, (here + there) / 2, here + there).sqrt(), len(column) if self.mask is None else self.columns
        weight, own = weight[..., :columns], own[:columns]

        def expand(y):
            full = y.new_zeros(*y.shape[:y.dim() - len(self.axes)], *self.domain.shape)
            full[..., :columns] = torch.where(weight > 0, y / weight.clamp(min=0.5), 0)
            rest = slice(len(column), None)
            full[..., rest] = mirrored(full, self.axes).conj()[..., rest]
            return torch.fft.fftshift(full * natural, dim=self.axes)

        return _HalfFourier(self, weight, torch.where(own, weight, 0.5 * weight)), expand

    def norm(self, iterations=100, tolerance=1e-6, seed=0):
        return 1.0 if self.mask is None else math.sqrt(float(self._half.real.max())) if self.real else float(self.mask.any())

    def _call(self, x):
        if self._signs is not None:
            y = torch.fft.fftn(x * self._signs, dim=self.axes, norm="ortho")
        else:
            y = torch.fft.fftshift(torch.fft.fftn(x, dim=self.axes, norm="ortho"), dim=self.axes)
        return y if self.mask is None else y * self.mask

    def _adjoint(self, y):
        y = y if self.mask is None else y * self.mask
        x = torch.fft.ifftn(y if self._signs is not None else torch.fft.ifftshift(y, dim=self.axes), dim=self.axes, norm="ortho")
        x = x.real if self.real else x
        return x if self._signs is None else x * self._signs


class _HalfFourier(LinearOperator):
    """x -> weight * the half spectrum of real x (its first columns), in natural order; its adjoint by `back`, which counts columns once or twice."""

    def __init__(self, transform, weight, back):
        dtype = transform.range.dtype
        super().__init__(transform.domain, Space(tuple(weight.shape), dtype, transform.domain.device))
        self.transform, self.weight, self.back = transform, weight.to(dtype), back.to(dtype)

    def _call(self, x):
        return self.transform._spectrum(x, self.weight.shape[-1]).mul_(self.weight)

    def _adjoint(self, y):
        return self.transform._image(y * self.back)


def mirrored(natural, axes):
    """The array over k-space, zero frequency first, at the opposite frequencies."""
    return natural.flip(axes).roll([1] * len(axes), axes)


class HadamardTransform(LinearOperator):
    """x -> H x / sqrt(n) along `axes` of `space` (all by default), n their number of points, H Sylvester's matrix of +1 and -1: `space` -> `space`, its own inverse.

    With `orthonormal=False` x -> H x, whose inverse is H / n. Fast: O(n log n). Raises ValueError where a transformed axis is no power of two.
    """

    def __init__(self, space: SpaceLike, axes: Integers | None = None, orthonormal: bool = True):
        space = space if isinstance(space, Space) else Space(space)
        axes = range(space.ndim) if axes is None else (axes,) if isinstance(axes, int) else axes
        if any(not -space.ndim <= a < space.ndim for a in axes):
            raise ValueError(f"HadamardTransform got axes={tuple(axes)}; the space {space.shape} has the axes 0 to {space.ndim - 1}.")
        self.axes = tuple(sorted({a % space.ndim for a in axes}))
        lengths = [space.shape[a] for a in self.axes]
        if any(n < 1 or n & (n - 1) for n in lengths):
            raise ValueError(f"HadamardTransform got axes of lengths {lengths}; each needs a power of two: pad or crop the image.")
        super().__init__(space, space)
        self.orthonormal = self.unitary = orthonormal
        self._norm = 1.0 if orthonormal else math.sqrt(math.prod(lengths))

    def norm(self, iterations=0, tolerance=0.0, seed=0):
        return self._norm

    def _call(self, x):
        shape, y = x.shape, x
        for a in self.axes:
            left = self.domain.shape[a]
            while left > 1:                                       # H of 2^k is a Kronecker product: factors of at most 16, one product each
                f = min(16, left)
                left //= f
                size = left * math.prod(self.domain.shape[a + 1:])
                y = torch.matmul(_sylvester(f, self.orthonormal, x), y.reshape(-1, f, size))
        return y.reshape(shape)

    _adjoint = _call


def _sylvester(n, orthonormal, like):
    H = torch.ones(1, 1, dtype=like.dtype, device=like.device)
    while len(H) < n:
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
    return H / math.sqrt(n) if orthonormal else H
