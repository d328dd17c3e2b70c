"""Indicators of convex sets: 0 inside (up to rounding), inf outside; their prox is the projection, whatever sigma.

Sources: Parikh & Boyd, Found. Trends Optim. 1(3), 2014; simplex and l1 ball: Duchi, Shalev-Shwartz, Singer & Chandra, ICML 2008.
"""

import torch

from ..arguments import Array, Quantity
from .elements import REALS
from .functional import Functional
from .norms import onto_discs
from .space import Space, SpaceLike, finite, inner

__all__ = ["IndicatorBox", "IndicatorNonnegative", "IndicatorSimplex", "IndicatorL1Ball", "IndicatorL2Ball", "IndicatorLinfBall", "IndicatorAffine"]


def _slack(x):
    return 1e2 * torch.finfo(x.dtype).eps


def project_simplex(x, radius):
    """Projection of the last axis onto {u >= 0, sum u = radius}, exact, by sorting; half precision, which cannot count, is widened."""
    if x.dtype in (torch.bfloat16, torch.float16):
        return project_simplex(x.float(), radius).to(x.dtype)
    u = x.sort(-1, descending=True).values
    k = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=x.dtype)
    shift = (u.cumsum(-1) - radius) / k
    last = (u > shift).sum(-1, keepdim=True).clamp(min=1) - 1
    return (x - shift.gather(-1, last)).clamp(min=0)


def project_l1_ball(x, radius, ndim):
    """Projection onto {|u|_1 <= radius} over the last `ndim` axes; radius a number or per sample (broadcasting against x)."""
    flat = x.flatten(-ndim) if ndim else x.unsqueeze(-1)
    if torch.is_tensor(radius) and radius.dim():
        radius = radius.expand(*x.shape[:x.dim() - ndim], *(1,) * ndim).flatten(-ndim)
    size = flat.abs()
    shrunk = project_simplex(size, radius)
    inside = size.sum(-1, keepdim=True) <= radius
    sign = torch.where(size > 0, flat / size.clamp(min=torch.finfo(x.dtype).tiny), 0) if x.is_complex() else flat.sign()
    return torch.where(inside, flat, sign * shrunk).reshape(x.shape)


class _Set(Functional):
    """0 on a set, inf off it (up to rounding)."""

    def _inside(self, x):
        raise NotImplementedError(f"{type(self).__name__} defines no _inside(x).")

    def _all(self, good):
        """Over the element."""
        return good.flatten(-self.ndim).all(-1) if self.ndim else good

    def _value(self, x):
        return torch.where(self._inside(x), 0.0, torch.inf).to(x.real.dtype if x.is_complex() else x.dtype)


class IndicatorBox(_Set):
    """lower <= x <= upper, coordinatewise; numbers or tensors of the element's shape. Raises ValueError where lower > upper."""

    _dtypes = REALS
    separable = True

    def __init__(self, lower: Quantity = 0.0, upper: Quantity = 1.0, space: SpaceLike | None = None):
        if torch.is_tensor(lower) or torch.is_tensor(upper):
            dtype = Space.of(lower if torch.is_tensor(lower) else upper).dtype  # type: ignore[arg-type]
            lower, upper = torch.broadcast_tensors(*(v if torch.is_tensor(v) else torch.as_tensor(v, dtype=dtype) for v in (lower, upper)))
        if not torch.all(torch.as_tensor(lower) <= torch.as_tensor(upper)):
            raise ValueError(f"IndicatorBox got lower = {lower} and upper = {upper}; it needs lower <= upper.")
        super().__init__(space)
        self.lower, self.upper = lower, upper

    def _inside(self, x):
        t = _slack(x)
        return self._all((x >= self.lower - t) & (x <= self.upper + t))

    def _prox(self, x, sigma):
        return x.clamp(self.lower, self.upper)

    def _conj_value(self, x):
        return self._sum(torch.where(x > 0, x * self.upper, torch.where(x < 0, x * self.lower, torch.zeros_like(x))))


class IndicatorNonnegative(_Set):
    """x >= 0, coordinatewise."""

    _dtypes = REALS
    separable = True

    def _inside(self, x):
        return self._all(x >= -_slack(x))

    def _prox(self, x, sigma):
        return x.clamp(min=0)

    def _conj_value(self, x):
        return self._sum(torch.where(x <= _slack(x), 0.0, torch.inf).to(x.dtype))


class IndicatorSimplex(_Set):
    """x >= 0 and sum x = radius on the last axis; projection by sorting. Raises ValueError unless radius > 0."""

    _dtypes = REALS
    def __init__(self, radius: float = 1.0, space: SpaceLike | None = None):
        if not radius > 0:
            raise ValueError(f"IndicatorSimplex got radius = {radius}; it needs a number > 0.")
        super().__init__(space)
        self.radius = float(radius)

    def _inside(self, x):
        good = (x >= -_slack(x)).all(-1) & ((x.sum(-1) - self.radius).abs() <= _slack(x) * x.shape[-1] * max(1.0, self.radius))
        return good.flatten(1 - self.ndim).all(-1) if self.ndim > 1 else good

    def _prox(self, x, sigma):
        return project_simplex(x, self.radius)

    def _conj_value(self, x):
        top = self.radius * x.amax(-1)
        return top.flatten(1 - self.ndim).sum(-1) if self.ndim > 1 else top


class _Ball(_Set):
    def __init__(self, radius: float = 1.0, space: SpaceLike | None = None):
        if not radius >= 0:
            raise ValueError(f"{type(self).__name__} got radius = {radius}; it needs a number >= 0.")
        super().__init__(space)
        self.radius = float(radius)


class IndicatorL1Ball(_Ball):
    """sum |x| <= radius over the element; projection by sorting. Raises ValueError where radius < 0, as all balls do."""

    def _inside(self, x):
        return self._sum(x.abs()) <= self.radius * (1 + 10 * _slack(x)) + _slack(x)

    def _prox(self, x, sigma):
        return project_l1_ball(x, self.radius, self.ndim)

    def _conj_value(self, x):
        return self.radius * self._max(x.abs())


class IndicatorL2Ball(_Ball):
    """|x| <= radius, Euclidean over the element; projection x min(1, radius / |x|)."""

    def _inside(self, x):
        return inner(x, x, self.ndim).sqrt() <= self.radius * (1 + _slack(x)) + _slack(x)

    def _prox(self, x, sigma):
        size = inner(x, x, self.ndim).sqrt()
        return x * (self.radius / size.clamp(min=torch.finfo(x.dtype).tiny)).clamp(max=1).reshape(size.shape + (1,) * self.ndim)

    def _conj_value(self, x):
        return self.radius * inner(x, x, self.ndim).sqrt()


class IndicatorLinfBall(_Ball):
    """|x_i| <= radius for every coordinate (complex: moduli)."""

    separable = True

    def _inside(self, x):
        return self._all(x.abs() <= self.radius * (1 + _slack(x)) + _slack(x))

    def _prox(self, x, sigma):
        return onto_discs(x, self.radius) if x.is_complex() else x.clamp(-self.radius, self.radius)

    def _conj_value(self, x):
        return self.radius * self._sum(x.abs())


class IndicatorAffine(_Set):
    """{x : A x = b}, A (m, n), b (m,); projection x - A^+ (A x - b). Raises ValueError where shapes do not fit or there is no such x."""

    def __init__(self, matrix: Array, rhs: Array):
        matrix, rhs = finite(matrix, "IndicatorAffine", "matrix"), finite(rhs, "IndicatorAffine", "right side")
        if matrix.dim() != 2 or tuple(rhs.shape) != (matrix.shape[0],):
            raise ValueError(f"IndicatorAffine got a matrix {tuple(matrix.shape)} and a right side {tuple(rhs.shape)}; it needs (m, n) and (m,).")
        super().__init__(Space.of(matrix[0]))
        self.matrix, self.rhs, self.pinv = matrix, rhs, torch.linalg.pinv(matrix)
        if torch.linalg.vector_norm(matrix @ (self.pinv @ rhs) - rhs) > 1e-4 * (1 + torch.linalg.vector_norm(rhs)):
            raise ValueError("IndicatorAffine got a system A x = b without a solution; project b onto the range of A first.")

    def _inside(self, x):
        return (x @ self.matrix.mT - self.rhs).abs().amax(-1) <= 1e2 * _slack(x) * (1 + self.rhs.abs().max())

    def _prox(self, x, sigma):
        return x - (x @ self.matrix.mT - self.rhs) @ self.pinv.mT
