"""What the algebra of functionals makes: conjugate, multiple, translate, sum, composition with an operator; reached through `Functional`'s methods.

By their attributes problems and solvers take functionals apart: `f` inside, the multiple `a`, `shift`, `g` of a sum, `op` and `f` of f @ op.
"""

from collections.abc import Sequence
from math import inf

import torch

from ..arguments import shown
from .elements import NUMBERS, REALS
from .functional import Functional
from .space import Space, all_finite, inner


class _Wrapper(Functional):
    """A functional made of others: binding reaches them."""

    parts: tuple[str, ...] = ("f",)
    transparent = False        # f itself, evaluated in another place

    def __init__(self, f):
        self.f, self.space, self.ndim = f, f.space, f.ndim
        self.convex, self.separable = f.convex, f.separable

    def _bind(self, space):
        super()._bind(space)
        for name in self.parts:
            setattr(self, name, getattr(self, name).on(space))

    @property
    def _dtypes(self):
        return REALS if any(getattr(self, name)._dtypes is REALS for name in self.parts) else NUMBERS

    @property
    def has_prox(self):
        return self.f.has_prox

    @property
    def differentiable(self):
        return self.f.differentiable

    @property
    def strong_convexity(self):
        return self.f.strong_convexity


class _Conjugate(_Wrapper):
    """f*(y) = sup_x <x, y> - f(x); prox by Moreau: prox_{s f*}(x) = x - s prox_{f/s}(x/s)."""

    differentiable = False

    @property
    def strong_convexity(self):
        return 1 / self.f.grad_lipschitz if self.f.convex and self.f.grad_lipschitz > 0 else 0.0

    def _value(self, x):
        return self.f._conj_value(x)

    def _prox(self, x, sigma):
        return self.f._conj_prox(x, sigma)

    def _conj_prox(self, x, sigma, out=None):
        return self.f._prox(x, sigma)

    def _conj_value(self, x):
        return self.f._value(x)

    @property
    def convex_conj(self):
        return self.f


def _on_parts(terms, product, indices):
    """Terms on some parts of a product as terms on all of it."""
    from .stacks import Selection

    return [t.f @ (t.op @ Selection(product, indices)) for t in terms]


class _Scaled(_Wrapper):
    def __init__(self, f, a):
        if not 0 <= float(a) < inf:
            raise ValueError(f"{a} * {type(f).__name__} was asked for; the scalar must be >= 0, and finite, for the functional to stay convex.")
        super().__init__(f)
        self.a = float(a)
        self.positive_homogeneous = f.positive_homogeneous

    @property
    def grad_lipschitz(self):
        return self.a * self.f.grad_lipschitz if self.a else 0.0

    @property
    def strong_convexity(self):
        return self.a * self.f.strong_convexity

    def auxiliary(self, space):
        return self.f.auxiliary(space)

    def minimisers(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        return self.f.minimisers(x)

    def feasible_duals(self, space: Space, duals: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return [self.a * y for y in self.f.feasible_duals(space, [y / self.a for y in duals])] if self.a else [torch.zeros_like(y) for y in duals]

    def split(self, space):
        return [(self.a * t.f) @ t.op for t in self.f.split(space)]

    def _value(self, x):
        return self.a * self.f._value(x)

    def _gradient(self, x):
        return self.a * self.f._gradient(x)

    def _prox(self, x, sigma):
        return self.f._prox(x, self.a * sigma) if self.a else x

    def _conj_value(self, x):
        if not self.a:                                    # the indicator of {0}
            return torch.where(inner(x, x, self.ndim) > 0, inf, 0.0)
        return self.a * self.f._conj_value(x / self.a)

    def _conj_prox(self, x, sigma, out=None):
        if not self.a:
            return torch.zeros_like(x)
        if self.positive_homogeneous and not isinstance(self.f, _Wrapper):
            return self.f._dual_ball(x, self.a, out)
        return self.a * self.f._conj_prox(x * (1 / self.a), sigma / self.a)

    def _polar(self, x):
        return self.f._polar(x) / self.a

    def __repr__(self):
        return f"{self.a:g} * {self.f!r}"


class _Translated(_Wrapper):
    """x -> f(x - shift)."""

    def __init__(self, f, shift):
        super().__init__(f)
        if not torch.is_tensor(shift) and not isinstance(shift, (int, float, complex)) or torch.is_tensor(shift) and shift.is_meta:
            raise TypeError(f"{type(f).__name__}.translated got {shown(shift)}; it needs a tensor of the element's shape: torch.as_tensor(...) makes one.")
        if not all_finite(torch.as_tensor(shift)):
            raise ValueError(f"{type(f).__name__}.translated got a shift that holds NaN or inf; remove or repair those entries of the data.")
        self.shift = shift

    def _bind(self, space):
        super()._bind(space)
        own = tuple(self.shift.shape[-self.ndim:]) if torch.is_tensor(self.shift) and self.ndim else ()
        if any(n not in (1, m) for n, m in zip(reversed(own), reversed(self.space.shape))):
            raise ValueError(f"{self.f!r} translated by a tensor of shape {tuple(self.shift.shape)} was put on elements of shape {self.space.shape}; both must agree.")

    @property
    def grad_lipschitz(self):
        return self.f.grad_lipschitz

    def auxiliary(self, space):
        return self.f.auxiliary(space)

    def minimisers(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        return self.f.minimisers(x - self.shift)

    def feasible_duals(self, space: Space, duals: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return self.f.feasible_duals(space, duals)

    def split(self, space):
        space, own = space if isinstance(space, Space) else Space(space), self.f.auxiliary(space)
        shift = self.shift + space.zero()
        if own:
            from .stacks import ProductSpace

            shift = ProductSpace(space, *own).join(shift, *(w.zero() for w in own))
        return [t.f.translated(t.op(shift)) @ t.op for t in self.f.split(space)]

    def _value(self, x):
        return self.f._value(x - self.shift)

    def _gradient(self, x):
        return self.f._gradient(x - self.shift)

    def _prox(self, x, sigma):
        return self.shift + self.f._prox(x - self.shift, sigma)

    def _conj_value(self, x):
        return self.f._conj_value(x) + inner(x, self.shift.expand_as(x), self.ndim)

    def _conj_prox(self, x, sigma, out=None):
        return self.f._conj_prox(x - sigma * self.shift, sigma)


class _Sum(_Wrapper):
    """f + g; its prox is not known (JointProx finds it for some pairs), so solvers take the terms apart."""

    parts = ("f", "g")

    def __init__(self, f, g):
        super().__init__(f)
        self.g = g
        self.convex, self.separable = f.convex and g.convex, f.separable and g.separable
        if self.space is None and g.space is not None:
            self.space, self.ndim = g.space, g.ndim

    @property
    def grad_lipschitz(self):
        return self.f.grad_lipschitz + self.g.grad_lipschitz

    @property
    def has_prox(self):
        return False

    @property
    def differentiable(self):
        return self.f.differentiable and self.g.differentiable

    @property
    def strong_convexity(self):
        return self.f.strong_convexity + self.g.strong_convexity

    def _value(self, x):
        return self.f(x) + self.g(x)

    def _gradient(self, x):
        return self.f._gradient(x) + self.g._gradient(x)

    def auxiliary(self, space):
        return (*self.f.auxiliary(space), *self.g.auxiliary(space))

    def minimisers(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        return (*self.f.minimisers(x), *self.g.minimisers(x))

    def feasible_duals(self, space: Space, duals: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        k = len(self.f.split(space))
        return [*self.f.feasible_duals(space, duals[:k]), *self.g.feasible_duals(space, duals[k:])]

    def split(self, space):
        own, other = self.f.auxiliary(space), self.g.auxiliary(space)
        terms, more = self.f.split(space), self.g.split(space)
        if own or other:
            from .stacks import ProductSpace

            product, k = ProductSpace(space if isinstance(space, Space) else Space(space), *own, *other), len(own) + 1
            terms, more = _on_parts(terms, product, range(k)), _on_parts(more, product, (0, *range(k, k + len(other))))
        return terms + more

    def _prox(self, x, sigma):
        raise NotImplementedError(f"the prox of the sum {self!r} is not known; pass the terms apart, or write one Functional with a joint _prox.")

    def __repr__(self):
        return f"{self.f!r} + {self.g!r}"


class _Composed(Functional):
    """x -> f(op(x)); its gradient is op'(x)* grad f(op(x)); its prox is op* prox_f(op x) where op is unitary. op(x) is kept, so value and gradient at one x
    apply op once; after `extrapolate` the images of the last few points are."""

    def __init__(self, f, op):
        if f.space is not None and f.space.shape != op.range.shape:
            raise ValueError(f"{f!r} @ {op!r} does not fit: the functional needs trailing axes {f.space.shape}, the operator gives {op.range.shape}.")
        super().__init__(op.domain)
        self.f, self.op, self.convex = f.on(op.range), op, f.convex and op.is_linear
        self._unitary = op.is_linear and op.unitary
        self._lipschitz, self._seen, self._room = None, [], 1

    @property
    def grad_lipschitz(self):
        if self._lipschitz is None:
            self._lipschitz = 1.02 * self.f.grad_lipschitz * self.op.norm() ** 2 if self.f.smooth and self.op.is_linear else inf
        return self._lipschitz

    @property
    def differentiable(self):
        return self.f.differentiable

    @property
    def has_prox(self):
        return type(self)._prox is not _Composed._prox or self._unitary and self.f.has_prox

    @property
    def strong_convexity(self):
        return self.f.strong_convexity if self._unitary else 0.0

    @property
    def positive_homogeneous(self):
        return self.op.is_linear and self.f.positive_homogeneous

    def auxiliary(self, space):
        return self.f.auxiliary(self.op.range)

    def minimisers(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        return self.f.minimisers(self.op._call(x))

    def feasible_duals(self, space: Space, duals: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return self.f.feasible_duals(self.op.range, duals)

    def split(self, space):
        if not self.op.is_linear:
            raise TypeError(f"{self!r} does not split into terms f @ K: its operator is not linear.")
        own, op = self.f.auxiliary(self.op.range), self.op
        if own:
            from .linear import IdentityOperator
            from .stacks import DiagonalStack

            op = DiagonalStack(op, *(IdentityOperator(w) for w in own))
        return [t.f @ (t.op @ op) for t in self.f.split(self.op.range)]

    def _prox(self, x, sigma):
        if not self.has_prox:
            raise NotImplementedError(f"the prox of {self!r} is not known: its operator is not unitary; pass it as linear= to a Composite for PDHG or ADMM.")
        if torch.is_tensor(sigma) and sigma.dim():
            if any(n != 1 for n in sigma.shape[-self.ndim:]):
                raise ValueError(f"{self!r} got a prox step of shape {tuple(sigma.shape)}; it needs one for each sample: (..., {', '.join('1' * self.ndim)}).")
            sigma = sigma.reshape(*sigma.shape[:max(sigma.dim() - self.ndim, 0)], *(1,) * self.op.range.ndim)
        return self.op._adjoint(self.f._prox(self.op._call(x), sigma))

    def _conj_value(self, x):
        return self.f._conj_value(self.op._call(x)) if self._unitary else super()._conj_value(x)

    def _polar(self, x):
        return self.f._polar(self.op._call(x)) if self._unitary else super()._polar(x)

    def _map(self, x):
        return self.op._call(x)

    def image(self, x: torch.Tensor) -> torch.Tensor:
        """op(x) (of LeastSquares op(x) - data), kept."""
        if x.requires_grad or x.is_inference():
            return self._map(x)
        for seen, version, image in self._seen:
            if seen is x and version == x._version:
                return image
        image = self._map(x)
        self._seen = [(x, x._version, image), *self._seen[:self._room - 1]]
        return image

    def extrapolate(self, old: torch.Tensor, new: torch.Tensor, weight: float) -> torch.Tensor:
        """old + weight (new - old), whose image under a linear op follows from the two that are kept (points in between cost no product)."""
        x = torch.lerp(old, new, weight)
        if self.op.is_linear and not (x.requires_grad or x.is_inference()):
            a, b = self.image(old), self.image(new)
            self._seen, self._room = [(x, x._version, torch.lerp(a, b, weight)), (new, new._version, b), (old, old._version, a)], 4
        return x

    def probe(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(g, op g), g the gradient at x, for a first step. The images of x and of what is tried next are kept."""
        self._room = 4
        g = self._gradient(x)
        return g, self.op._call(g)

    def _value(self, x):
        return self.f(self.image(x))

    def _gradient(self, x):
        return self.op._derivative_adjoint(x, self.f._gradient(self.image(x)))

    def __getstate__(self):
        return {**vars(self), "_seen": []}

    def __repr__(self):
        return f"{self.f!r} @ {self.op!r}"
