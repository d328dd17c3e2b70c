"""Operators, their algebra and their derivatives.

A linear operator defines `_call` and `_adjoint`; a nonlinear one defines `_call` and may leave its derivative to a
*local* vector-Jacobian product (torch.func on this operator alone).
"""

import cmath
from collections.abc import Callable
from typing import TYPE_CHECKING, overload

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..arguments import Count, Seed, checked, refuse, shown
from .elements import NUMBERS, misfit, no_samples
from .space import Space, inner, norm

__all__ = ["Operator", "LinearOperator", "push_forward"]


def push_forward(f: Callable[..., torch.Tensor], x: torch.Tensor | tuple, dx: torch.Tensor | tuple) -> torch.Tensor:
    """f'(x) dx (tuples for several arguments); attention by its plain formula, as its fused kernels know no forward derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        return torch.func.jvp(f, *((x, dx) if isinstance(x, tuple) else ((x,), (dx,))))[1]


def check_rows(op, index, n=None):
    """ValueError where `index` takes no rows of the first axis of op's range (of n rows)."""
    n = n if n is not None else op.range.shape[0] if op.range.ndim else 0
    try:
        good = torch.arange(n)[index.cpu() if torch.is_tensor(index) else index].dim() == 1
    except (IndexError, RuntimeError, TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{op!r} was asked for the rows {shown(index)}; it needs a slice, or a tensor of numbers below {n}.")


def _number(a):
    return isinstance(a, (int, float, complex)) or (torch.is_tensor(a) and a.dim() == 0)


def _conjugate(a):
    return a.conj() if torch.is_tensor(a) else a.conjugate()


class Operator:
    """Map between two spaces: `op(x)`, `op.derivative(x).adjoint(y)`, `op1 @ op2`, `a * op`, `op1 + op2`.

    Leading axes of `x` beyond `domain.shape` are batch axes. A shape that does not fit, of `x` or of two operators, raises ValueError.
    """

    is_linear = False

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        checked(cls)

    def __init__(self, domain: Space, range: Space):
        for name, space in (("domain", domain), ("range", range)):
            if not isinstance(space, Space):
                raise TypeError(f"{type(self).__name__} got {space!r} as {name}; it needs a Space.")
        self.domain, self.range = domain, range

    def _call(self, x):
        raise NotImplementedError(f"{type(self).__name__} defines no _call(x); add it to the class.")

    def _derivative(self, x, dx):
        return push_forward(self._call, x, dx)

    def _derivative_adjoint(self, x, y):
        return torch.func.vjp(self._call, x)[1](y)[0]

    def _fit(self, x):
        """Refuse what is no element of the domain; an operator says itself which other dtypes it takes."""
        try:
            good = (x.dtype in NUMBERS or x.dtype == self.domain.dtype) and self.domain.fits(x)
        except AttributeError:
            good = False
        if not good:
            raise misfit(self, x, self.domain.shape)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self._fit(x)
        try:
            return self._call(x)
        except (RuntimeError, IndexError) as error:
            if no_samples(x, self.domain.ndim):
                return x.new_empty(*x.shape[:x.dim() - self.domain.ndim], *self.range.shape, dtype=self.range.dtype)
            refuse(error, self, x)

    def derivative(self, x: torch.Tensor) -> "LinearOperator":
        """The derivative at `x`, a LinearOperator (the operator itself where it is linear)."""
        self._fit(x)
        return self if self.is_linear else _Derivative(self, x)  # type: ignore[return-value]

    def __matmul__(self, other: "Operator") -> "Operator":
        return _made(_Composition, self, other) if isinstance(other, Operator) else NotImplemented

    def __rmul__(self, a: complex | torch.Tensor) -> "Operator":
        if not _number(a):
            return NotImplemented
        if not (cmath.isfinite(a) if not torch.is_tensor(a) else not a.is_meta and bool(torch.isfinite(a))):
            raise ValueError(f"{shown(a)} * {self!r} was asked for; it needs a finite number.")
        return _made(_Scaled, self, a)

    def __mul__(self, other):
        raise TypeError(f"{type(self).__name__} * {type(other).__name__} is ambiguous; write the scalar on the left (a * op), or op1 @ op2 to compose.")

    def __add__(self, other: "Operator") -> "Operator":
        return _made(_Sum, self, other) if isinstance(other, Operator) else NotImplemented

    def __neg__(self) -> "Operator":
        return -1 * self

    def __sub__(self, other: "Operator") -> "Operator":
        return self + (-1 * other) if isinstance(other, Operator) else NotImplemented

    def __repr__(self):
        return f"{type(self).__name__}({self.domain.shape} -> {self.range.shape})"


class LinearOperator(Operator):
    """An operator with an adjoint: <A x, y> = <x, A* y>. `unitary` says that A*A and AA* are the identity: its norm is 1, and f @ A has the prox A* prox_f(A x)."""

    is_linear, unitary = True, False
    _such_as = "MatrixOperator(m)"

    if TYPE_CHECKING:          # what the algebra makes of linear parts is linear
        def __rmul__(self, a: complex | torch.Tensor) -> "LinearOperator": ...
        def __neg__(self) -> "LinearOperator": ...
        @overload  # type: ignore[no-overload-impl]
        def __matmul__(self, other: "LinearOperator") -> "LinearOperator": ...
        @overload
        def __matmul__(self, other: Operator) -> Operator: ...
        @overload  # type: ignore[no-overload-impl]
        def __add__(self, other: "LinearOperator") -> "LinearOperator": ...
        @overload
        def __add__(self, other: Operator) -> Operator: ...

    def _adjoint(self, y):
        raise NotImplementedError(f"{type(self).__name__} defines no _adjoint(y); add it to the class.")

    def _derivative(self, x, dx):
        return self._call(dx)

    def _derivative_adjoint(self, x, y):
        return self._adjoint(y)

    @property
    def adjoint(self) -> "LinearOperator":
        return _Adjoint(self)

    fast_normal: bool = False        # _normal is cheaper than the adjoint: `LeastSquares` takes its gradient from it

    def _normal(self, x):
        return self._adjoint(self._call(x))

    def _complement(self, x):
        """x - A*A x."""
        return x - self._normal(x)

    def _resolvent(self, x, s):
        """(I + s A*A)^-1 x, s >= 0 a number or a tensor that broadcasts, where it is known in closed form; None elsewhere."""
        return x * (1 / (1 + s)) if self.unitary else None

    def _add_to(self, out, x):
        """out + A x, in the memory of `out`."""
        return out.add_(self._call(x))

    @property
    def normal(self) -> "LinearOperator":
        """x -> A*A x, as a LinearOperator; a class that knows a cheaper way overrides `_normal`."""
        return _Normal(self)

    def rows(self, index: torch.Tensor | slice) -> "LinearOperator":
        """x -> (A x)[index], `index` (a tensor or a slice) on the first axis of the range. A class that can compute these rows alone overrides this."""
        check_rows(self, index)
        return _Rows(self, index)

    def _rows_after(self, right, index):
        """Rows of self @ right; a class whose rows need the same rows of `right` only overrides this."""
        return self.rows(index) @ right

    @checked
    def norm(self, iterations: Count = 100, tolerance: float = 1e-6, seed: Seed = 0) -> float:
        """The operator norm, by the Lanczos process on A*A (a lower bound that grows to the norm).

        Stops once an iteration changes it by less than `tolerance` and the residual of A*A's top vector is below a thousandth, relatively. Returns a float.
        """
        if self.unitary:
            return 1.0
        x = self.domain.randn(generator=torch.Generator().manual_seed(seed))
        x = x / norm(x).clamp(min=1e-30)
        old, diagonal, off, value = torch.zeros_like(x), [], [], 0.0
        for _ in range(iterations):
            y = self._normal(x)
            diagonal.append(inner(x, y).item())
            y = y - diagonal[-1] * x - (off[-1] if off else 0.0) * old
            beta, last = norm(y).item(), value
            T = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
            if off:
                T += torch.diag(torch.tensor(off, dtype=torch.float64), -1)               # eigh reads the lower triangle
            squares, vectors = torch.linalg.eigh(T)
            top, value = float(squares[-1]), max(float(squares[-1]), 0.0) ** 0.5
            if beta <= 1e-12 * top or abs(value - last) <= tolerance * value and beta * abs(float(vectors[-1, -1])) <= 1e-3 * top:
                break
            off.append(beta)
            old, x = x, y / beta
        return value


class _Adjoint(LinearOperator):
    def __init__(self, op):
        super().__init__(op.range, op.domain)
        self.op, self.unitary = op, op.unitary

    def _call(self, y):
        return self.op._adjoint(y)

    def _adjoint(self, x):
        return self.op._call(x)

    def norm(self, iterations=100, tolerance=1e-6, seed=0):
        return self.op.norm(iterations, tolerance, seed)

    @property
    def adjoint(self):
        return self.op


class _Normal(LinearOperator):
    def __init__(self, op):
        super().__init__(op.domain, op.domain)
        self.op = op

    def _call(self, x):
        return self.op._normal(x)

    def _adjoint(self, y):
        return self.op._normal(y)

    def norm(self, iterations=100, tolerance=1e-6, seed=0):
        return self.op.norm(iterations, tolerance, seed) ** 2


class _Rows(LinearOperator):
    """Some rows of what `op` computes in full."""

    def __init__(self, op, index):
        size = len(torch.arange(op.range.shape[0])[index.cpu() if torch.is_tensor(index) else index])
        super().__init__(op.domain, Space((size, *op.range.shape[1:]), op.range.dtype, op.range.device))
        self.op, self.inside = op, (..., index, *[slice(None)] * (op.range.ndim - 1))

    def _call(self, x):
        return self.op._call(x)[self.inside]

    def _adjoint(self, y):
        full = y.new_zeros(*y.shape[:y.dim() - self.range.ndim], *self.op.range.shape)
        full[self.inside] = y
        return self.op._adjoint(full)


class _Derivative(LinearOperator):
    def __init__(self, op, x):
        super().__init__(op.domain, op.range)
        self.op, self.x = op, x

    def _call(self, dx):
        return self.op._derivative(self.x, dx)

    def _adjoint(self, y):
        return self.op._derivative_adjoint(self.x, y)


class _Composition(Operator):
    def __init__(self, left, right):
        if left.domain.shape != right.range.shape:
            raise ValueError(f"{left!r} @ {right!r} does not fit: the right one ends in {right.range.shape}, the left one starts from {left.domain.shape}.")
        super().__init__(right.domain, left.range)
        self.left, self.right = left, right
        self.unitary = left.is_linear and right.is_linear and left.unitary and right.unitary

    def _call(self, x):
        return self.left._call(self.right._call(x))

    def _adjoint(self, y):
        return self.right._adjoint(self.left._adjoint(y))

    def _normal(self, x):
        return self.right._adjoint(self.left._normal(self.right._call(x)))

    @property
    def fast_normal(self):
        return self.left.fast_normal

    def rows(self, index):
        return self.left._rows_after(self.right, index)

    def _derivative(self, x, dx):
        return self.left._derivative(self.right._call(x), self.right._derivative(x, dx))

    def _derivative_adjoint(self, x, y):
        return self.right._derivative_adjoint(x, self.left._derivative_adjoint(self.right._call(x), y))


class _Scaled(Operator):
    def __init__(self, op, a):
        super().__init__(op.domain, op.range)
        self.op, self.a = op, a

    def _call(self, x):
        return self.a * self.op._call(x)

    def _adjoint(self, y):
        return _conjugate(self.a) * self.op._adjoint(y)

    def _normal(self, x):
        return (_conjugate(self.a) * self.a) * self.op._normal(x)

    def _resolvent(self, x, s):
        return self.op._resolvent(x, abs(self.a) ** 2 * s)

    @property
    def fast_normal(self):
        return self.op.fast_normal

    def rows(self, index):
        return self.a * self.op.rows(index)

    def _derivative(self, x, dx):
        return self.a * self.op._derivative(x, dx)

    def _derivative_adjoint(self, x, y):
        return _conjugate(self.a) * self.op._derivative_adjoint(x, y)


class _Sum(Operator):
    def __init__(self, left, right):
        if left.domain.shape != right.domain.shape or left.range.shape != right.range.shape:
            raise ValueError(f"{left!r} + {right!r} does not fit; both operators need the same domain and range.")
        super().__init__(left.domain, left.range)
        self.left, self.right = left, right

    def _call(self, x):
        return self.left._call(x) + self.right._call(x)

    def _adjoint(self, y):
        return self.left._adjoint(y) + self.right._adjoint(y)

    def _derivative(self, x, dx):
        return self.left._derivative(x, dx) + self.right._derivative(x, dx)

    def _derivative_adjoint(self, x, y):
        return self.left._derivative_adjoint(x, y) + self.right._derivative_adjoint(x, y)


_LINEAR = {kind: type(kind.__name__, (kind, LinearOperator), {}) for kind in (_Composition, _Scaled, _Sum)}


def _made(kind, *parts):
    """The algebra's operator, a LinearOperator where all its parts are linear."""
    return (_LINEAR[kind] if all(p.is_linear for p in parts if isinstance(p, Operator)) else kind)(*parts)
