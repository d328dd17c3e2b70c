"""Linear operators: identity, matrix, diagonal, convolution, finite differences."""

import math
from typing import Literal

import torch

from ..arguments import Array, Integers, Numbers
from .linear_function import linear_function
from .operator import LinearOperator, check_rows
from .space import Space, SpaceLike, finite

__all__ = ["IdentityOperator", "MatrixOperator", "DiagonalOperator", "Convolution", "Gradient"]


class IdentityOperator(LinearOperator):
    """x -> x on `space`."""

    unitary = True

    def __init__(self, space: SpaceLike):
        space = space if isinstance(space, Space) else Space(space)
        super().__init__(space, space)

    def _call(self, x):
        return x

    def _adjoint(self, y):
        return y

    def __matmul__(self, other):
        return other if isinstance(other, LinearOperator) and other.range.shape == self.domain.shape else super().__matmul__(other)


class MatrixOperator(LinearOperator):
    """x -> M x on the last axis: (..., n) -> (..., m) for M (m, n). Raises ValueError unless M has two axes and finite entries."""

    def __init__(self, matrix: Array):
        matrix = finite(matrix, "MatrixOperator", "matrix")
        if matrix.dim() != 2:
            raise ValueError(f"MatrixOperator got a tensor of shape {tuple(matrix.shape)}; it needs two axes.")
        self.matrix = matrix
        m, n = matrix.shape
        super().__init__(Space((n,), matrix.dtype, matrix.device), Space((m,), matrix.dtype, matrix.device))

    def _call(self, x):
        return torch.mv(self.matrix, x) if x.dim() == 1 else x @ self.matrix.mT

    def _adjoint(self, y):
        return y @ (self.matrix.conj() if self.matrix.is_complex() else self.matrix)

    def rows(self, index):
        check_rows(self, index)
        return MatrixOperator(self.matrix[index])


class DiagonalOperator(LinearOperator):
    """x -> w * x, coordinatewise, with weights w of the element's shape."""

    def __init__(self, weights: Array):
        self.weights = weights = finite(weights, "DiagonalOperator", "tensor of weights")
        space = Space(tuple(weights.shape), weights.dtype, weights.device)
        super().__init__(space, space)

    def _call(self, x):
        return self.weights * x

    def _adjoint(self, y):
        return self.weights.conj() * y if self.weights.is_complex() else self.weights * y

    def _resolvent(self, x, s):
        return x / (1 + s * self.weights.abs().square())

    def _rows_after(self, right, index):
        check_rows(self, index)
        return DiagonalOperator(self.weights[index]) @ right.rows(index)


class Convolution(LinearOperator):
    """(k * x)_i = sum_j k_j x_{i - j + c}, c = (kernel lengths) // 2, over all axes of `space`, by FFT: `space` -> `space`.

    `padding` says what x is past its ends: "circular" (periodic) or "zero". Raises ValueError where the kernel has other axes than the
    space or longer ones, or is complex on a real space.
    """

    def __init__(self, kernel: Array, space: SpaceLike, padding: Literal["circular", "zero"] = "circular"):
        kernel, space = finite(kernel, "Convolution", "kernel"), space if isinstance(space, Space) else Space(space)
        if kernel.dim() != space.ndim or not space.ndim or any(k > n for k, n in zip(kernel.shape, space.shape)):
            raise ValueError(f"Convolution got a kernel of shape {tuple(kernel.shape)}; the space {space.shape} needs as many axes and no longer ones.")
        if kernel.is_complex() and not space.dtype.is_complex:
            raise ValueError(f"Convolution got a kernel of dtype {kernel.dtype}; it needs a real one on the space of dtype {space.dtype}.")
        super().__init__(space, space)
        # k // 2 zeros after the end keep every wrapped term out of the part that is returned
        self.sizes = [n + (k // 2 if padding == "zero" else 0) for n, k in zip(space.shape, kernel.shape)]
        self.axes, self.inside = tuple(range(-space.ndim, 0)), (..., *(slice(n) for n in space.shape))
        self.fft, self.ifft = (torch.fft.fftn, torch.fft.ifftn) if space.dtype.is_complex else (torch.fft.rfftn, torch.fft.irfftn)
        padded = torch.zeros(self.sizes, dtype=space.dtype, device=space.device)
        padded[tuple(slice(k) for k in kernel.shape)] = kernel.to(space.dtype)
        self.transfer = self.fft(torch.roll(padded, [-(k // 2) for k in kernel.shape], self.axes))

    def _filter(self, x, transfer):
        return self.ifft(transfer * self.fft(x, self.sizes, self.axes), self.sizes, self.axes)[self.inside]

    def _call(self, x):
        return self._filter(x, self.transfer)

    def _adjoint(self, y):
        return self._filter(y, self.transfer.conj())


class Gradient(LinearOperator):
    """Forward differences along `axes` (all by default), zero past the end: `space.shape` -> (d, *space.shape), d = len(axes).

    `spacing` is the grid width along each of the axes (mm where they are mm: the values are then per mm), a number or one for each. |Gradient|^2 < sum 4 / spacing^2.
    Raises ValueError where an axis is not there or named twice, or a spacing is not positive.
    """

    def __init__(self, space: SpaceLike, axes: Integers | None = None, spacing: Numbers = 1.0):
        space = space if isinstance(space, Space) else Space(space)
        self.axes, self.spacing = grid(space.ndim, axes, spacing, "Gradient")
        self.d, self.n = len(self.axes), space.ndim
        super().__init__(space, Space((self.d, *space.shape), space.dtype, space.device))

    def norm(self, iterations=0, tolerance=0.0, seed=0):
        """Exact: the eigenvalues of D*D are sums of 4 sin^2(pi k / (2 n)) / spacing^2, k < n, over the axes."""
        return math.sqrt(sum((2 * math.sin(math.pi * (n - 1) / (2 * n)) / h) ** 2 for h, n in zip(self.spacing, (self.domain.shape[a] for a in self.axes)) if n))

    def _call(self, x):
        return linear_function(x, self._differences, self._sums)

    def _adjoint(self, y):
        return linear_function(y, self._sums, self._differences)

    def _differences(self, x):
        out = x.new_empty(*x.shape[:x.dim() - self.n], self.d, *self.domain.shape)
        for i, (a, h) in enumerate(zip(self.axes, self.spacing)):
            n, part = self.domain.shape[a], out.select(-self.n - 1, i)
            torch.sub(x.narrow(a, 1, n - 1), x.narrow(a, 0, n - 1), out=part.narrow(a, 0, n - 1))
            part.select(a, n - 1).zero_()
            if h != 1:
                part.div_(h)
        return out

    def _add_to(self, out, x):
        for i, (a, h) in enumerate(zip(self.axes, self.spacing)):
            n, part = self.domain.shape[a], out.select(-self.n - 1, i)
            part.narrow(a, 0, n - 1).add_(x.narrow(a, 1, n - 1), alpha=1 / h).sub_(x.narrow(a, 0, n - 1), alpha=1 / h)
        return out

    def _sums(self, y):
        out = y.new_empty(*y.shape[:y.dim() - self.n - 1], *self.domain.shape)
        for i, (a, h) in enumerate(zip(self.axes, self.spacing)):
            n, p = self.domain.shape[a], y.select(-self.n - 1, i)
            p = p if h == 1 else p / h
            if n == 1:
                out = out.zero_() if i == 0 else out
            elif i == 0:
                torch.sub(p.narrow(a, 0, n - 2), p.narrow(a, 1, n - 2), out=out.narrow(a, 1, n - 2))
                torch.neg(p.select(a, 0), out=out.select(a, 0))
                out.select(a, n - 1).copy_(p.select(a, n - 2))
            else:
                p = p.narrow(a, 0, n - 1)
                out.narrow(a, 1, n - 1).add_(p)
                out.narrow(a, 0, n - 1).sub_(p)
        return out


def grid(ndim, axes, spacing, who):
    """(axes counted from the end, the spacing along each), of elements with `ndim` axes."""
    axes = tuple(range(ndim)) if axes is None else (axes,) if isinstance(axes, int) else tuple(axes)
    spacing = tuple(float(h) for h in spacing) if isinstance(spacing, (tuple, list)) or torch.is_tensor(spacing) and spacing.dim() else (float(spacing),) * len(axes)
    if any(not -ndim <= a < ndim for a in axes) or len({a % ndim for a in axes}) < len(axes):
        raise ValueError(f"{who} got axes={axes} for elements with {ndim} axes; it needs different ones of {-ndim} to {ndim - 1}.")
    if len(spacing) != len(axes) or any(not 0 < h < math.inf for h in spacing):
        raise ValueError(f"{who} got spacing={spacing} for {len(axes)} axes; it needs a positive number, or one for each axis.")
    return tuple(a % ndim - ndim for a in axes), spacing
