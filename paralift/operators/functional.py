"""Functionals and their algebra.

A new functional is one class with `_value` and `_prox` (and `_gradient`, `grad_lipschitz` where it is smooth).
"""

import copy
from math import inf

import torch

from .space import Space, all_finite, inner, sum_trailing

__all__ = ["Functional"]


class Functional:
    """Convex functional: `f(x)`, `f.gradient(x)`, `f.prox(x, sigma)`, `f.proximal(sigma)`, `f.convex_conj`,
    `f.translated(y)`, `a * f`, `f + g`, `f @ op`, `f.bregman(point, subgrad)`.

    Parameters
    ----------
    space : Space, int, tuple or None
        The trailing axes of an element; leading axes are batch, and values have the batch's shape. None: vectors (the last axis).
        A problem binds a functional to its unknown's space with `f.on(space)`.

    prox(x, sigma) = argmin_u |u - x|^2 / 2 + sigma f(u); `sigma` is a positive number or a tensor that broadcasts against `x`.
    These public calls raise ValueError for an element of another shape and for a negative step; solvers use `_value`, `_gradient` and `_prox`, which do not look.
    """

    convex = True
    separable = False          # a sum over coordinates: the prox takes a sigma per coordinate
    positive_homogeneous = False
    grad_lipschitz = inf       # of the gradient; finite only for smooth functionals
    strong_convexity = 0.0     # c such that f - c |.|^2 / 2 is convex
    ndim = 1
    space = None

    def __init__(self, space=None):
        if space is not None:
            self._bind(space)

    # ---- what a subclass defines
    def _value(self, x):
        raise NotImplementedError(f"{type(self).__name__} defines no _value(x); add it to the class.")

    def _gradient(self, x):
        raise NotImplementedError(f"{type(self).__name__} is not differentiable; use its prox, or MoreauEnvelope({type(self).__name__}(...), t), which is smooth.")

    def _prox(self, x, sigma):
        raise NotImplementedError(f"{type(self).__name__} has no prox; use its gradient, or give the class a _prox(x, sigma).")

    def _conj_value(self, x):
        raise NotImplementedError(f"the value of {type(self).__name__}'s conjugate is not known; give the class a _conj_value(x).")

    def _conj_prox(self, x, sigma, out=None):
        """prox of sigma f*, by Moreau; closed where a class knows better. `out`: x where its memory may be used, or None."""
        return x - sigma * self._prox(x / sigma, 1.0 / sigma)

    def _dual_ball(self, x, radius, out=None):
        """Projection onto {dual norm <= radius}, for norms: x - prox of radius f; `out` may be x."""
        return torch.sub(x, self._prox(x, radius), out=out)

    def _polar(self, x):
        raise NotImplementedError(f"the dual norm of {type(self).__name__} is not known; give the class a _polar(x).")

    # ---- attributes a solver may assume
    @property
    def smooth(self):
        return self.grad_lipschitz < inf

    @property
    def differentiable(self):
        return type(self)._gradient is not Functional._gradient

    @property
    def has_prox(self):
        return type(self)._prox is not Functional._prox

    # ---- spaces
    def _bind(self, space):
        self.space = space if isinstance(space, Space) else Space(space)
        self.ndim = self.space.ndim

    def on(self, space):
        """A copy bound to `space`: its value reduces all of the space's axes."""
        new = copy.copy(self)
        new._bind(space)
        return new

    def _sum(self, x):
        return sum_trailing(x, self.ndim)

    def _fit(self, x):
        if self.space is not None and not self.space.fits(x):
            raise ValueError(f"{type(self).__name__} got an element of shape {tuple(x.shape)}; it needs trailing axes {self.space.shape}.")

    def _step(self, sigma):
        """Refuse a step below 0 (of a tensor where looking costs no transfer)."""
        if not (sigma >= 0 if not torch.is_tensor(sigma) else sigma.device.type != "cpu" or bool((sigma >= 0).all())):
            raise ValueError(f"{type(self).__name__} got the prox step {sigma if not torch.is_tensor(sigma) else float(sigma.min())}; it needs a positive number, "
                             "or a tensor of such.")

    # ---- public calls
    def __call__(self, x):
        """The value, of the batch's shape."""
        self._fit(x)
        value = self._value(x)
        left = value.dim() - (x.dim() - self.ndim)
        return sum_trailing(value, left) if left > 0 else value

    def gradient(self, x):
        self._fit(x)
        return self._gradient(x)

    def prox(self, x, sigma=1.0):
        self._fit(x)
        self._step(sigma)
        return self._prox(x, sigma)

    def proximal(self, sigma):
        """ODL's name: the map x -> prox(x, sigma)."""
        self._step(sigma)
        return lambda x: self.prox(x, sigma)

    @property
    def convex_conj(self):
        return _Conjugate(self)

    def bregman(self, point, subgrad=None):
        from .bregman import BregmanDistance

        return BregmanDistance(self, point, subgrad)

    def translated(self, shift):
        return _Translated(self, shift)

    def __rmul__(self, a):
        if not isinstance(a, (int, float)) and not (torch.is_tensor(a) and a.dim() == 0):
            return NotImplemented
        return _Scaled(self, a)

    def __mul__(self, other):
        raise TypeError(f"{type(self).__name__} * {type(other).__name__}: write the scalar on the left, a * f (in ODL f * a is x -> f(a x), which is easy to confuse).")

    def __add__(self, other):
        return _Sum(self, other) if isinstance(other, Functional) else NotImplemented

    def __matmul__(self, op):
        return _Composed(self, op)

    def __repr__(self):
        where = "" if self.space is None else f" on {self.space.shape}"
        return f"{type(self).__name__}{where}"


class _Wrapper(Functional):
    """A functional made of others: binding reaches them."""

    parts = ("f",)

    def __init__(self, f):
        self.f, self.space, self.ndim = f, f.space, f.ndim
        self.convex, self.separable = f.convex, f.separable

    def _bind(self, space):
        super()._bind(space)
        for name in self.parts:
            setattr(self, name, getattr(self, name).on(space))

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


class _Scaled(_Wrapper):
    def __init__(self, f, a):
        if not float(a) >= 0:
            raise ValueError(f"{a} * {type(f).__name__} was asked for; the scalar must be >= 0 for the functional to stay convex.")
        super().__init__(f)
        self.a = float(a)
        self.positive_homogeneous = f.positive_homogeneous

    @property
    def grad_lipschitz(self):
        return self.a * self.f.grad_lipschitz if self.a else 0.0

    @property
    def strong_convexity(self):
        return self.a * self.f.strong_convexity

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
        return self.a * self.f._conj_prox(x / self.a, sigma / self.a)

    def _polar(self, x):
        return self.f._polar(x) / self.a

    def __repr__(self):
        return f"{self.a:g} * {self.f!r}"


class _Translated(_Wrapper):
    """x -> f(x - shift)."""

    def __init__(self, f, shift):
        super().__init__(f)
        if not torch.is_tensor(shift) and not isinstance(shift, (int, float, complex)):
            raise TypeError(f"{type(f).__name__}.translated got {type(shift).__name__}; it needs a tensor of the element's shape: torch.as_tensor(...) makes one.")
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

    def _prox(self, x, sigma):
        raise NotImplementedError(f"the prox of the sum {self!r} is not known; pass the terms apart, or write one Functional with a joint _prox.")

    def __repr__(self):
        return f"{self.f!r} + {self.g!r}"


class _Composed(Functional):
    """x -> f(op(x)); its gradient is op'(x)* grad f(op(x)). op(x) is kept, so value and gradient at one x apply op once;
    after `extrapolate` the images of the last few points are."""

    def __init__(self, f, op):
        if f.space is not None and f.space.shape != op.range.shape:
            raise ValueError(f"{f!r} @ {op!r} does not fit: the functional needs trailing axes {f.space.shape}, the operator gives {op.range.shape}.")
        super().__init__(op.domain)
        self.f, self.op, self.convex = f.on(op.range), op, f.convex and op.is_linear
        self._lipschitz, self._seen, self._room = None, [], 1

    @property
    def grad_lipschitz(self):
        if self._lipschitz is None:
            self._lipschitz = 1.02 * self.f.grad_lipschitz * self.op.norm() ** 2 if self.f.smooth and self.op.is_linear else inf
        return self._lipschitz

    @property
    def differentiable(self):
        return self.f.differentiable

    def _map(self, x):
        return self.op._call(x)

    def _image(self, x):
        if x.requires_grad or x.is_inference():
            return self._map(x)
        for seen, version, image in self._seen:
            if seen is x and version == x._version:
                return image
        image = self._map(x)
        self._seen = [(x, x._version, image), *self._seen[:self._room - 1]]
        return image

    def extrapolate(self, old, new, weight):
        """old + weight (new - old), whose image under a linear op follows from the two that are kept (points in between cost no product)."""
        x = torch.lerp(old, new, weight)
        if self.op.is_linear and not (x.requires_grad or x.is_inference()):
            a, b = self._image(old), self._image(new)
            self._seen, self._room = [(x, x._version, torch.lerp(a, b, weight)), (new, new._version, b), (old, old._version, a)], 4
        return x

    def curvature(self, x):
        """L_f |op g|^2 / |g|^2, g the gradient at x: at most `grad_lipschitz`, for one product. The images of x and of what is tried next are kept."""
        self._room = 4
        g = self._gradient(x)
        return self.f.grad_lipschitz * float((torch.linalg.vector_norm(self.op._call(g)) / torch.linalg.vector_norm(g).clamp(min=torch.finfo(g.dtype).tiny)) ** 2)

    def _value(self, x):
        return self.f(self._image(x))

    def _gradient(self, x):
        return self.op._derivative_adjoint(x, self.f._gradient(self._image(x)))

    def __getstate__(self):
        return {**vars(self), "_seen": []}

    def __repr__(self):
        return f"{self.f!r} @ {self.op!r}"
