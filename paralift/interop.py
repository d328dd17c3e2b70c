"""Doors to ODL, pyproximal, pylops and torch modules. The libraries load on first use; nothing here is on a hot path."""

from typing import Any

import numpy as np
import torch

from .arguments import checked
from .operators.functional import Functional
from .operators.module import ModuleOperator
from .operators.operator import LinearOperator, Operator
from .operators.space import Space, SpaceLike, inner

__all__ = ["from_odl", "to_odl", "from_pyproximal", "to_pylops", "from_module"]


def _odl(who):
    try:
        import odl
    except ModuleNotFoundError:
        raise ImportError(f"{who} needs odl 1.0, which is there for Python 3.11 and newer; install it with: pip install odl") from None
    return odl


def _numpy(x):
    return x.detach().cpu().numpy().copy()


def _tensor(values, like, dtype=None):
    """Numbers of another library where `like` lies, in its dtype unless told."""
    return torch.as_tensor(np.asarray(values), dtype=dtype or like.dtype, device=like.device)


class _Batched:
    """Applies a one-element map over the batch axes by a Python loop."""

    def _each(self, x, ndim, f):
        if x.dim() == ndim:
            return f(x)
        flat = x.reshape(-1, *x.shape[x.dim() - ndim:])
        out = torch.stack([f(part) for part in flat])
        return out.reshape(*x.shape[:x.dim() - ndim], *out.shape[1:])

    def _each_prox(self, x, sigma, prox):
        """prox(element, step) for every element; `sigma` is a number, or one for each sample: (..., 1, .., 1)."""
        if not torch.is_tensor(sigma) or sigma.dim() == 0:
            return self._each(x, self.ndim, lambda t: prox(t, float(sigma)))
        if sigma.dim() < self.ndim or any(n != 1 for n in sigma.shape[sigma.dim() - self.ndim:]):
            raise ValueError(f"{type(self).__name__[1:]} got a prox step of shape {tuple(sigma.shape)}; another library's prox takes one for each sample: "
                             f"(..., {', '.join('1' * self.ndim)}).")
        steps = iter(sigma.expand(*x.shape[:x.dim() - self.ndim], *(1,) * self.ndim).flatten().tolist())
        return self._each(x, self.ndim, lambda t: prox(t, next(steps)))


def _odl_space(space):
    """(Space, weight) of a tensor space; of n equal ones, as the range of a gradient is, with a first axis of n."""
    weight = getattr(space.weighting, "const", None)
    if weight is not None and getattr(space, "is_power_space", False) and len(space):
        part, w = _odl_space(space[0])
        return Space((len(space), *part.shape), part.dtype), float(weight) * w
    if weight is None or not hasattr(space, "dtype_identifier"):
        raise ValueError(f"from_odl got the space {space!r}; it needs a tensor space with a constant weighting, or a product of equal ones.")
    return Space(tuple(space.shape), getattr(torch, str(np.dtype(space.dtype_identifier)))), float(weight)


def _array(element):
    """The numbers of an ODL element."""
    return np.stack([_array(part) for part in element.parts]) if hasattr(element, "parts") else np.asarray(element.data)


class _FromODLFunctional(_Batched, Functional):
    """An ODL functional on torch tensors, with the Euclidean inner product."""

    def __init__(self, f):
        space, self.weight = _odl_space(f.domain)
        super().__init__(space)
        self.odl, self._cache = f, (None, None)
        lipschitz = float(f.grad_lipschitz)
        self.grad_lipschitz = self.weight * lipschitz if lipschitz == lipschitz else float("inf")

    def on(self, space):
        return self

    def _value(self, x):
        return self._each(x, self.ndim, lambda t: _tensor(float(self.odl(self.odl.domain.element(_numpy(t)))), x))

    def _gradient(self, x):
        return self.weight * self._each(x, self.ndim, lambda t: _tensor(_array(self.odl.gradient(self.odl.domain.element(_numpy(t)))), x))

    def _prox(self, x, sigma):
        def one(t, step):
            if self._cache[0] != step:
                self._cache = (step, self.odl.proximal(step * self.weight))
            return _tensor(_array(self._cache[1](self.odl.domain.element(_numpy(t)))), x)

        return self._each_prox(x, sigma, one)


class _FromODLOperator(_Batched, LinearOperator):
    def __init__(self, op):
        (domain, w), (range_, v) = _odl_space(op.domain), _odl_space(op.range)
        super().__init__(domain, range_)
        self.odl, self.scale = op, v / w
        g = torch.Generator().manual_seed(0)
        x, y = domain.randn(generator=g), range_.randn(generator=g)
        left, right = inner(self._call(x), y), inner(x, self._adjoint(y))
        if abs(left - right) > 1e-3 * self._call(x).norm() * y.norm():
            raise ValueError(f"{type(op).__name__}: the adjoint fails the dot test, <Ax, y> = {left:.6g} but <x, A*y> = {right:.6g}; give the operator a right adjoint.")

    def _call(self, x):
        return self._each(x, self.domain.ndim, lambda t: _tensor(_array(self.odl(self.odl.domain.element(_numpy(t)))), x, self.range.dtype))

    def _adjoint(self, y):
        return self._each(y, self.range.ndim, lambda t: _tensor(_array(self.odl.adjoint(self.odl.range.element(_numpy(t)))), y, self.domain.dtype) * self.scale)


def from_odl(obj: Any) -> Functional | LinearOperator:
    """An ODL functional or linear operator (constant weighting) as ours, on torch tensors."""
    odl = _odl("from_odl")
    if isinstance(obj, odl.functionals.Functional):
        return _FromODLFunctional(obj)
    if isinstance(obj, odl.Operator) and obj.is_linear:
        return _FromODLOperator(obj)
    raise TypeError(f"from_odl got {type(obj).__name__}; it needs an ODL Functional or a linear ODL Operator.")


def to_odl(obj: Functional | LinearOperator) -> Any:
    """Our functional (bound to a space) or linear operator as an ODL object on an unweighted numpy space.

    Of ODL 1.0's own solvers accelerated_proximal_gradient fails under NumPy 2, whose scalars it multiplies elements by; proximal_gradient and pdhg work.
    """
    odl = _odl("to_odl")

    linear = isinstance(obj, Operator) and obj.is_linear
    if not linear and (not isinstance(obj, Functional) or obj.space is None):
        raise TypeError(f"to_odl got {obj!r}; it needs a linear operator, or a functional bound to a space: f.on(shape).")
    anything: Any = obj
    device = (anything.domain if linear else anything.space).device

    def space(s):
        return odl.rn(s.shape, dtype=str(s.dtype).split(".")[-1])

    def tensor(x):
        return torch.as_tensor(np.asarray(x.data), device=device)

    class Map(odl.Operator):  # type: ignore[name-defined]
        def __init__(self, f, domain, range_, linear=False, adjoint=None):
            super().__init__(domain, range_, linear=linear)
            self.f, self.back = f, adjoint

        def _call(self, x):
            return self.range.element(_numpy(self.f(tensor(x))))

        @property
        def adjoint(self):
            return Map(self.back, self.range, self.domain, True, self.f)

    if linear:
        return Map(anything._call, space(anything.domain), space(anything.range), True, anything._adjoint)

    class Wrapped(odl.functionals.Functional):  # type: ignore[name-defined]
        def __init__(self, f):
            super().__init__(space(f.space), grad_lipschitz=f.grad_lipschitz)
            self.f = f

        def _call(self, x):
            return float(self.f(tensor(x)))

        @property
        def gradient(self):
            return Map(self.f._gradient, self.domain, self.domain)

        @property
        def proximal(self):
            return lambda sigma: Map(lambda x: self.f._prox(x, float(sigma)), self.domain, self.domain)

        @property
        def convex_conj(self):
            return Wrapped(self.f.convex_conj)

    return Wrapped(obj)


class _FromPyproximal(_Batched, Functional):
    def __init__(self, operator, space):
        super().__init__(space)
        self.operator = operator

    def on(self, space):
        return self

    def _value(self, x):
        def one(t):
            v = self.operator(_numpy(t).ravel())
            return _tensor((0.0 if v else float("inf")) if isinstance(v, (bool, np.bool_)) else float(v), x)

        return self._each(x, self.ndim, one)

    def _prox(self, x, sigma):
        return self._each_prox(x, sigma, lambda t, step: _tensor(self.operator.prox(_numpy(t).ravel(), step), x).reshape(t.shape))


@checked
def from_pyproximal(operator: Any, space: SpaceLike) -> Functional:
    """A pyproximal operator as our functional on `space` (a numpy round trip a call; batch axes by a Python loop)."""
    return _FromPyproximal(operator, space)


@checked
def to_pylops(op: LinearOperator) -> Any:
    """Our linear operator as a pylops one, on flat numpy vectors."""
    import pylops

    class Wrapped(pylops.LinearOperator):
        def __init__(self):
            super().__init__(dtype=np.dtype(str(op.domain.dtype).split(".")[-1]), shape=(op.range.size, op.domain.size))

        def _matvec(self, x):
            return _numpy(op._call(torch.as_tensor(np.ascontiguousarray(x), device=op.domain.device).reshape(op.domain.shape)).reshape(-1))

        def _rmatvec(self, y):
            return _numpy(op._adjoint(torch.as_tensor(np.ascontiguousarray(y), device=op.range.device).reshape(op.range.shape)).reshape(-1))

    return Wrapped()


@checked
def from_module(module: torch.nn.Module, input_shape: SpaceLike) -> ModuleOperator:
    """A torch module as an operator with parameters, `ModuleOperator`."""
    return ModuleOperator(module, input_shape)
