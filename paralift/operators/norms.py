"""Norms and their relatives. Proxes: Combettes & Pesquet, Proximal splitting methods in signal processing, 2011; Parikh & Boyd, Found. Trends Optim. 1(3), 2014."""

import math

import torch

from ..arguments import Array, Integers
from .functional import Functional
from .space import Space, SpaceLike, finite, inner, parts, squares, sum_trailing

__all__ = ["ZeroFunctional", "L1Norm", "WeightedL1Norm", "L2Norm", "L2NormSquared", "GroupL1Norm", "GroupHuber", "SupNorm", "NuclearNorm", "Huber", "QuadraticForm"]


def _tiny(x):
    return torch.finfo(x.dtype).tiny


def onto_discs(x, radius, out=None):
    """Complex x, coordinate by coordinate at the nearest point of |x_i| <= radius."""
    return torch.mul(x, (radius**2 / squares(x).clamp_(min=_tiny(x))).clamp_(max=1).sqrt_(), out=out)


def _over(value, ndim):
    """A per-sample value shaped to broadcast against the element."""
    return value.reshape(value.shape + (1,) * ndim)


def _unit_ball(polar):
    """The conjugate of a norm: 0 where the dual norm is at most 1, inf beyond."""
    return torch.where(polar > 1 + 1e-6, torch.inf, 0.0)


class ZeroFunctional(Functional):
    """f = 0; prox(x) = x."""

    separable = True
    grad_lipschitz = 0.0

    def _value(self, x):
        return self._sum(torch.zeros_like(x.real if x.is_complex() else x))

    def _gradient(self, x):
        return torch.zeros_like(x)

    def _prox(self, x, sigma):
        return x

    def _conj_value(self, x):
        return torch.where(sum_trailing((x != 0).to(torch.float32), self.ndim) > 0, torch.inf, 0.0)


class L1Norm(Functional):
    """sum |x|; prox: soft thresholding (complex: of the modulus)."""

    separable = True
    positive_homogeneous = True

    def _value(self, x):
        return self._sum(x.abs())

    def _prox(self, x, sigma):
        return x - self._dual_ball(x, sigma)

    def _conj_prox(self, x, sigma, out=None):
        return self._dual_ball(x, 1.0, out)

    def _dual_ball(self, x, radius, out=None):
        return onto_discs(x, radius, out) if x.is_complex() else torch.clamp(x, -radius, radius, out=out)

    def _conj_value(self, x):
        return _unit_ball(self._polar(x))

    def _polar(self, x):
        return self._max(x.abs())


class WeightedL1Norm(Functional):
    """sum w |x| with weights w >= 0 of the element's shape; prox: soft thresholding by sigma w. Weights of 0 leave entries free.

    Raises ValueError for negative, infinite or NaN weights, TypeError for complex ones.
    """

    separable = True
    positive_homogeneous = True

    def __init__(self, weights: Array, space: SpaceLike | None = None):
        weights = finite(weights, "WeightedL1Norm", "tensor of weights")
        if weights.is_complex():
            raise TypeError("WeightedL1Norm got complex weights; it needs real ones >= 0.")
        if bool((weights < 0).any()):
            raise ValueError(f"WeightedL1Norm got a weight of {float(weights.min()):g}; it needs weights >= 0.")
        super().__init__(Space.of(weights) if space is None else space)
        self.weights = weights

    def _value(self, x):
        return self._sum(self.weights * x.abs())

    def _prox(self, x, sigma):
        return x - self._dual_ball(x, sigma)

    def _conj_prox(self, x, sigma, out=None):
        return self._dual_ball(x, 1.0, out)

    def _dual_ball(self, x, radius, out=None):
        radius = radius * self.weights
        return onto_discs(x, radius, out) if x.is_complex() else torch.clamp(x, -radius, radius, out=out)

    def _conj_value(self, x):
        beyond = x.abs() - (1 + 1e-6) * self.weights > 1e-6 * self.weights.amax()
        return torch.where(self._max(beyond), torch.inf, 0.0)

    def _polar(self, x):
        size = x.abs()
        return self._max(torch.where(size > 0, size / self.weights, 0.0))


class L2Norm(Functional):
    """|x| = sqrt(sum |x|^2) over the element; prox shrinks its length by sigma."""

    positive_homogeneous = True

    def _value(self, x):
        return inner(x, x, self.ndim).sqrt()

    def _prox(self, x, sigma):
        size = _over(self._value(x), self.ndim)
        return x * (1 - sigma / size.clamp(min=_tiny(x))).clamp(min=0)

    def _conj_value(self, x):
        return _unit_ball(self._polar(x))

    def _polar(self, x):
        return self._value(x)


class L2NormSquared(Functional):
    """|x|^2 = sum |x|^2; gradient 2 x, prox x / (1 + 2 sigma)."""

    separable = True
    grad_lipschitz = 2.0
    strong_convexity = 2.0

    def _value(self, x):
        return inner(x, x, self.ndim)

    def _gradient(self, x):
        return 2 * x

    def _prox(self, x, sigma):
        return x * (1 / (1 + 2 * sigma))

    def _conj_prox(self, x, sigma, out=None):
        return x * (1 / (1 + 0.5 * sigma))

    def _conj_value(self, x):
        return inner(x, x, self.ndim) / 4


class _Groups(Functional):
    """A functional of the Euclidean norms of groups of entries, along one or several axes of the element."""

    def __init__(self, axis: Integers = 0, space: SpaceLike | None = None):
        self.axis = axis if isinstance(axis, int) else tuple(axis)
        super().__init__(space)
        if space is None:
            self.ndim = 2

    def _dims(self):
        return [a - self.ndim if a >= 0 else a for a in (self.axis if isinstance(self.axis, tuple) else (self.axis,))]

    def _squares(self, x):
        dims, pieces = self._dims(), [x]
        if x.is_complex():
            dims, pieces = [d - 1 for d in dims] + [-1], [parts(x)]
        if math.prod(pieces[0].shape[d] for d in dims) > 8:
            total = torch.linalg.vector_norm(pieces[0], dim=dims, keepdim=True).square_()
        else:
            for d in dims:
                pieces = [v for p in pieces for v in p.split(1, d)]
            total = pieces[0].square()
            for v in pieces[1:]:
                total.addcmul_(v, v)
        return total.squeeze(-1) if x.is_complex() else total

    def _size(self, x):
        return self._squares(x).sqrt_()


class GroupL1Norm(_Groups):
    """Sum over groups of the Euclidean norm along `axis` of the element (0 its first axis, without a space that of a matrix; (0, 1) groups over two axes);
    prox shrinks each group."""

    positive_homogeneous = True

    def _value(self, x):
        return self._sum(self._size(x))

    def _prox(self, x, sigma):
        return x * (1 - sigma / self._size(x).clamp(min=_tiny(x))).clamp(min=0)

    def _conj_prox(self, x, sigma, out=None):
        return self._dual_ball(x, 1.0, out)

    def _inside(self, x, radius=1.0):
        """1 / max(|x_g| / radius, 1), the factor that projects onto a dual ball."""
        squares = self._squares(x)
        return (squares if isinstance(radius, float) and radius == 1 else squares.div_(radius**2)).clamp_(min=1).rsqrt_()

    def _dual_ball(self, x, radius, out=None):
        return torch.mul(x, self._inside(x, radius), out=out)

    def _conj_value(self, x):
        return _unit_ball(self._polar(x))

    def _polar(self, x):
        return self._max(self._size(x))


class GroupHuber(_Groups):
    """sum over groups g of h(|x_g|), h(t) = t^2 / (2 delta) for t <= delta, t - delta/2 beyond: the Moreau envelope of GroupL1Norm.

    prox shrinks each group by min(sigma, sigma |x_g| / (sigma + delta)). Raises ValueError unless delta > 0.
    """

    def __init__(self, delta: float = 1.0, axis: Integers = 0, space: SpaceLike | None = None):
        if not delta > 0:
            raise ValueError(f"GroupHuber got delta = {delta}; it needs delta > 0 (delta -> 0 is GroupL1Norm).")
        super().__init__(axis, space)
        self.delta = float(delta)

    @property
    def grad_lipschitz(self):
        return 1 / self.delta

    def _value(self, x):
        a = self._size(x)
        return self._sum(torch.where(a <= self.delta, a.square() / (2 * self.delta), a - self.delta / 2))

    def _gradient(self, x):
        return x / self._size(x).clamp(min=self.delta)

    def _prox(self, x, sigma):
        size = self._size(x)
        return x * ((size - sigma).clamp(min=self.delta) / size.clamp(min=sigma + self.delta))

    def _conj_prox(self, x, sigma, out=None):
        y = torch.mul(x, 1 / (1 + sigma * self.delta), out=out)
        return torch.mul(y, self._squares(y).clamp_(min=1).rsqrt_(), out=out)

    def _conj_value(self, x):
        a = self._size(x)
        return self._sum(torch.where(a <= 1 + 1e-6, self.delta / 2 * a.square(), torch.inf))


class SupNorm(Functional):
    """max |x|; prox by Moreau: x minus the projection onto the l1 ball of radius sigma."""

    positive_homogeneous = True

    def _value(self, x):
        return self._max(x.abs())

    def _prox(self, x, sigma):
        from .indicators import project_l1_ball

        return x - project_l1_ball(x, sigma, self.ndim)

    def _conj_value(self, x):
        return _unit_ball(self._polar(x))

    def _polar(self, x):
        return self._sum(x.abs())


class NuclearNorm(Functional):
    """Sum of the singular values over the last two axes; prox: soft thresholding of them.

    The prox X f(X*X), f(s^2) = max(1 - sigma/s, 0), comes from the eigenvectors of the smaller Gram matrix in double precision, at half the cost of singular vectors;
    its error is of order eps |X| max(1, |X|/sigma), so sigma < 1e-6 |X| takes the singular vectors.
    """

    positive_homogeneous = True
    ndim = 2

    def _value(self, x):
        return sum_trailing(torch.linalg.svdvals(x).sum(-1), self.ndim - 2)

    def _prox(self, x, sigma):
        if torch.is_tensor(sigma) and sigma.dim():
            sigma = sigma.squeeze(-1)                  # (..., 1, 1) per sample -> (..., 1) per singular value
        size = inner(x, x, 2).sqrt().unsqueeze(-1)
        if not (sigma > 1e-6 * size).all():
            U, s, Vh = torch.linalg.svd(x, full_matrices=False)
            return (U * (s - sigma).clamp(min=0).unsqueeze(-2)) @ Vh
        X = x.to(torch.complex128 if x.is_complex() else torch.float64)
        X = X.mH if x.shape[-2] < x.shape[-1] else X
        squares, V = torch.linalg.eigh(X.mH @ X)
        factor = (1 - sigma / squares.clamp(min=_tiny(X)).sqrt()).clamp(min=0)
        if X.dim() == 2:
            rank = int((factor > 0).sum())             # the largest come last
            V, factor = V[:, len(factor) - rank:], factor[len(factor) - rank:]
        new = ((X @ V) * factor.unsqueeze(-2)) @ V.mH
        return (new.mH if x.shape[-2] < x.shape[-1] else new).to(x.dtype)

    def _conj_value(self, x):
        return _unit_ball(self._polar(x))

    def _polar(self, x):
        top = torch.linalg.svdvals(x).amax(-1)
        return top.flatten(2 - self.ndim).amax(-1) if self.ndim > 2 else top


class Huber(Functional):
    """sum h(x), h(x) = |x|^2 / (2 delta) for |x| <= delta, |x| - delta/2 beyond: the Moreau envelope of the l1 norm.

    prox shrinks x by min(sigma, sigma |x| / (sigma + delta)). Raises ValueError unless delta > 0.
    """

    separable = True

    def __init__(self, delta: float = 1.0, space: SpaceLike | None = None):
        if not delta > 0:
            raise ValueError(f"Huber got delta = {delta}; it needs delta > 0 (delta -> 0 is L1Norm).")
        super().__init__(space)
        self.delta = float(delta)

    @property
    def grad_lipschitz(self):
        return 1 / self.delta

    def _value(self, x):
        a = x.abs()
        return self._sum(torch.where(a <= self.delta, a.square() / (2 * self.delta), a - self.delta / 2))

    def _gradient(self, x):
        return x / x.abs().clamp(min=self.delta)

    def _prox(self, x, sigma):
        size = x.abs()
        return x * ((size - sigma).clamp(min=self.delta) / size.clamp(min=sigma + self.delta))

    def _conj_value(self, x):
        inside = self.delta / 2 * (x * x.conj()).real if x.is_complex() else self.delta / 2 * x * x
        return self._sum(torch.where(x.abs() <= 1 + 1e-6, inside, torch.inf))


class QuadraticForm(Functional):
    """<x, Q x>/2 + <b, x> + c on vectors, Q symmetric positive semidefinite (n, n), b (n,); prox solves (I + sigma Q) u = x - sigma b.

    Raises ValueError where Q is not square, not symmetric or has a negative eigenvalue.
    """

    def __init__(self, matrix: Array, vector: Array | None = None, constant: float = 0.0):
        matrix, vector = finite(matrix, "QuadraticForm", "matrix"), vector if vector is None else finite(vector, "QuadraticForm", "vector")
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"QuadraticForm got a matrix of shape {tuple(matrix.shape)}; it needs a square one.")
        if vector is not None and vector.shape != matrix.shape[:1]:
            raise ValueError(f"QuadraticForm got a vector of shape {tuple(vector.shape)} with a matrix of shape {tuple(matrix.shape)}; it needs ({len(matrix)},).")
        if not torch.allclose(matrix, matrix.mT, rtol=1e-4, atol=1e-6):
            raise ValueError("QuadraticForm got a matrix that is not symmetric; pass (Q + Q.T) / 2.")
        super().__init__(Space.of(matrix[0]))
        self.values, self.vectors = torch.linalg.eigh(matrix)
        if self.values[0] < -1e-5 * self.values[-1].abs():
            raise ValueError(f"QuadraticForm got a matrix with the eigenvalue {self.values[0]:.3g}; a convex form needs none below 0.")
        self.matrix, self.vector, self.constant = matrix, torch.zeros_like(matrix[0]) if vector is None else vector, constant
        self.grad_lipschitz, self.strong_convexity = float(self.values[-1]), max(float(self.values[0]), 0.0)

    def _value(self, x):
        return inner(x, 0.5 * (x @ self.matrix) + self.vector, 1) + self.constant

    def _gradient(self, x):
        return x @ self.matrix + self.vector

    def _prox(self, x, sigma):
        return ((x - sigma * self.vector) @ self.vectors / (1 + sigma * self.values)) @ self.vectors.mT
