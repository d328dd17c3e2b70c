"""Linear operators: identity, matrix, diagonal, convolution, finite differences, stacks."""

import math

import torch

from .operator import LinearOperator
from .space import Space

__all__ = ["IdentityOperator", "MatrixOperator", "DiagonalOperator", "Convolution", "Gradient", "VerticalStack"]


class IdentityOperator(LinearOperator):
    """x -> x on `space`."""

    def __init__(self, space):
        super().__init__(space, space)

    def _call(self, x):
        return x

    def _adjoint(self, y):
        return y


class MatrixOperator(LinearOperator):
    """x -> M x on the last axis: (..., n) -> (..., m) for M (m, n)."""

    def __init__(self, matrix):
        if matrix.dim() != 2:
            raise ValueError(f"MatrixOperator got a tensor of shape {tuple(matrix.shape)}; it needs two axes.")
        self.matrix = matrix
        m, n = matrix.shape
        super().__init__(Space((n,), matrix.dtype, matrix.device), Space((m,), matrix.dtype, matrix.device))

    def _call(self, x):
        return torch.mv(self.matrix, x) if x.dim() == 1 else x @ self.matrix.mT

    def _adjoint(self, y):
        return y @ (self.matrix.conj() if self.matrix.is_complex() else self.matrix)


class DiagonalOperator(LinearOperator):
    """x -> w * x, coordinatewise, with weights w of the element's shape."""

    def __init__(self, weights):
        self.weights = weights
        space = Space(tuple(weights.shape), weights.dtype, weights.device)
        super().__init__(space, space)

    def _call(self, x):
        return self.weights * x

    def _adjoint(self, y):
        return self.weights.conj() * y if self.weights.is_complex() else self.weights * y


class Convolution(LinearOperator):
    """Circular convolution with `kernel`, centred, over all axes of `space`, by FFT (real elements and kernels stay real)."""

    def __init__(self, kernel, space):
        if kernel.dim() != space.ndim or any(k > n for k, n in zip(kernel.shape, space.shape)):
            raise ValueError(f"Convolution got a kernel of shape {tuple(kernel.shape)}; the space {space.shape} needs as many axes and no longer ones.")
        super().__init__(space, space)
        padded = torch.zeros(space.shape, dtype=kernel.dtype, device=kernel.device)
        padded[tuple(slice(0, k) for k in kernel.shape)] = kernel
        self.axes = tuple(range(-space.ndim, 0))
        self.transfer = torch.fft.fftn(torch.roll(padded, [-(k // 2) for k in kernel.shape], list(range(kernel.dim()))))

    def _filter(self, x, transfer):
        y = torch.fft.ifftn(transfer * torch.fft.fftn(x, dim=self.axes), dim=self.axes)
        return y if self.domain.dtype.is_complex else y.real

    def _call(self, x):
        return self._filter(x, self.transfer)

    def _adjoint(self, y):
        return self._filter(y, self.transfer.conj())


class Gradient(LinearOperator):
    """Forward differences along every axis, zero past the end: `space.shape` -> (d, *space.shape); |Gradient|^2 < 4 d."""

    def __init__(self, space):
        space = space if isinstance(space, Space) else Space(space)
        self.d = space.ndim
        super().__init__(space, Space((self.d, *space.shape), space.dtype, space.device))

    def norm(self, iterations=0, tolerance=0.0, seed=0):
        """Exact: the eigenvalues of D*D are sums of 4 sin^2(pi k / (2 n)), k < n, over the axes."""
        return math.sqrt(sum(4 * math.sin(math.pi * (n - 1) / (2 * n)) ** 2 for n in self.domain.shape if n))

    def _call(self, x):
        out = x.new_empty(*x.shape[:x.dim() - self.d], self.d, *self.domain.shape)
        for i in range(self.d):
            axis, n, part = i - self.d, self.domain.shape[i], out.select(-self.d - 1, i)
            torch.sub(x.narrow(axis, 1, n - 1), x.narrow(axis, 0, n - 1), out=part.narrow(axis, 0, n - 1))
            part.select(axis, n - 1).zero_()
        return out

    def _adjoint(self, y):
        out = y.new_empty(*y.shape[:y.dim() - self.d - 1], *self.domain.shape)
        for i in range(self.d):
            axis, n, p = i - self.d, self.domain.shape[i], y.select(-self.d - 1, i)
            if n == 1:
                out = out.zero_() if i == 0 else out
            elif i == 0:
                torch.sub(p.narrow(axis, 0, n - 2), p.narrow(axis, 1, n - 2), out=out.narrow(axis, 1, n - 2))
                torch.neg(p.select(axis, 0), out=out.select(axis, 0))
                out.select(axis, n - 1).copy_(p.select(axis, n - 2))
            else:
                p = p.narrow(axis, 0, n - 1)
                out.narrow(axis, 1, n - 1).add_(p)
                out.narrow(axis, 0, n - 1).sub_(p)
        return out


class VerticalStack(LinearOperator):
    """x -> (A_1 x, ..., A_k x), flattened and joined on one axis."""

    def __init__(self, *operators):
        if not operators or any(op.domain.shape != operators[0].domain.shape for op in operators):
            raise ValueError(f"VerticalStack got the domains {[op.domain.shape for op in operators]}; it needs at least one operator and equal domains.")
        self.operators = operators
        self.sizes = [math.prod(op.range.shape) for op in operators]
        first = operators[0]
        super().__init__(first.domain, Space((sum(self.sizes),), first.range.dtype, first.range.device))

    def _call(self, x):
        batch = x.shape[:x.dim() - self.domain.ndim]
        return torch.cat([op._call(x).reshape(*batch, -1) for op in self.operators], -1)

    def _adjoint(self, y):
        parts = y.split(self.sizes, -1)
        return sum(op._adjoint(p.reshape(*y.shape[:-1], *op.range.shape)) for op, p in zip(self.operators, parts))
