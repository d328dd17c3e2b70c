"""Functionals and their algebra.

A new functional is one class with `_value` and `_prox` (and `_gradient`, `grad_lipschitz` where it is smooth).
"""

import copy
from collections.abc import Callable, Sequence
from math import inf

import torch

from ..arguments import checked, refuse, shown
from .elements import NUMBERS, REALS, misfit, no_samples
from .operator import Operator
from .space import Space, SpaceLike, sum_trailing

__all__ = ["Functional"]


def device_of(*functionals: "Functional") -> torch.device:
    """Where the tensors in these functionals are; the CPU where they hold none."""
    todo: list = list(functionals)
    while todo:
        for value in vars(todo.pop()).values():
            if torch.is_tensor(value):
                return value.device
            if isinstance(value, (Functional, Operator)):
                todo.append(value)
    return torch.device("cpu")


class Functional:
    """Convex functional: `f(x)`, `f.gradient(x)`, `f.prox(x, sigma)`, `f.proximal(sigma)`, `f.convex_conj`,
    `f.translated(y)`, `a * f`, `f + g`, `f @ op`, `f.bregman(point, subgrad)`.

    Parameters
    ----------
    space : Space, int, tuple or None: the trailing axes of an element; leading axes are batch, and values have the batch's shape. None: vectors (the last axis).
        A problem binds a functional to its unknown's space with `f.on(space)`.

    prox(x, sigma) = argmin_u |u - x|^2 / 2 + sigma f(u); `sigma` is a positive number or a tensor that broadcasts against `x`.
    These public calls raise ValueError for an element of another shape and for a negative step; solvers use `_value`, `_gradient` and `_prox`, which do not look.
    """

    convex: bool = True
    separable: bool = False           # a sum over coordinates: the prox takes a sigma per coordinate
    positive_homogeneous: bool = False
    grad_lipschitz: float = inf       # of the gradient; finite only for smooth functionals
    strong_convexity: float = 0.0     # c such that f - c |.|^2 / 2 is convex
    ndim: int = 1
    space: Space | None = None
    _such_as = "L1Norm()"
    _dtypes = NUMBERS                 # of elements; REALS where these have an order, or a real argument of exp and log

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        checked(cls)

    def __init__(self, space: SpaceLike | None = None):
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
        return x - sigma * self._prox(x * (1.0 / sigma), 1.0 / sigma)

    def _dual_ball(self, x, radius, out=None):
        """Projection onto {dual norm <= radius}, for norms: x - prox of radius f; `out` may be x."""
        return torch.sub(x, self._prox(x, radius), out=out)

    def _polar(self, x):
        raise NotImplementedError(f"the dual norm of {type(self).__name__} is not known; give the class a _polar(x).")

    # ---- attributes a solver may assume
    @property
    def smooth(self) -> bool:
        return self.grad_lipschitz < inf

    @property
    def curvature(self) -> float:
        """c > 0 where the functional is c/2 |x - m|^2 and a constant, which equal bounds say; 0.0 elsewhere."""
        return self.grad_lipschitz if 0 < self.strong_convexity == self.grad_lipschitz else 0.0

    @property
    def differentiable(self) -> bool:
        return type(self)._gradient is not Functional._gradient

    @property
    def has_prox(self) -> bool:
        return type(self)._prox is not Functional._prox

    # ---- spaces
    def _bind(self, space):
        self.space = space if isinstance(space, Space) else Space(space)
        if self.space.dtype.is_complex and self._dtypes is REALS:
            raise misfit(self, self.space.zero(), self.space.shape)
        self.ndim = self.space.ndim

    def on(self, space: SpaceLike) -> "Functional":
        """A copy bound to `space`: its value reduces all of the space's axes."""
        new = copy.copy(self)
        new._bind(space if isinstance(space, Space) else Space(space))
        return new

    def auxiliary(self, space: SpaceLike) -> tuple:
        """The spaces of the unknowns that the value minimises over by itself (TGV: a vector field), for elements of `space`; () for most."""
        return ()

    def minimisers(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Those unknowns, of `auxiliary(space)`, at x: the functional's value is that of its terms there. () where there are none."""
        return ()

    def feasible_duals(self, space: Space, duals: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Duals y of the terms of `split(space)`, near `duals` and in the domains of the conjugates, with sum_j (K_j* y_j) = 0 in the unknowns of `auxiliary(space)`, so that
        <., sum_j (K_j* y_j)> minus the conjugates is below the functional. As they are where there are no such unknowns."""
        return duals

    def split(self, space: SpaceLike) -> list['Functional']:
        """Terms f @ K, f of known prox and K linear, whose sum is this functional: what `Composite(linear=...)`, PDHG and ADMM take. Total variation gives
        [GroupL1Norm() @ Gradient(space)], a functional with no form but its prox [self @ IdentityOperator(space)]; a * f and f + g scale and join the terms.

        The terms act on `space`; where `auxiliary(space)` = (W, ...) is not empty, on ProductSpace(space, W, ...): the functional is then their sum, minimised over W, ...
        Raises TypeError where a term has no prox.
        """
        from .linear import IdentityOperator

        space = space if isinstance(space, Space) else Space(space)
        if not self.has_prox:
            raise TypeError(f"{self!r} does not split into terms f @ K: it has no prox; pass it as a smooth part, or give its class a split(space).")
        return [self.on(space) @ IdentityOperator(space)]

    def _sum(self, x):
        return sum_trailing(x, self.ndim)

    def _max(self, x):
        """Over the element."""
        return x.flatten(-self.ndim).amax(-1) if self.ndim else x

    def _fit(self, x):
        """Refuse what is no element."""
        try:
            good = x.dtype in self._dtypes and (x.dim() >= self.ndim if self.space is None else self.space.fits(x))
        except AttributeError:
            good = False
        if not good:
            raise misfit(self, x, None if self.space is None else self.space.shape, self.ndim)

    def _step(self, sigma, x=None):
        """Refuse a step below 0 (of a tensor where looking costs no transfer), and a tensor that would enlarge x."""
        if isinstance(sigma, torch.Tensor):
            good = not sigma.is_complex() and (sigma.device.type != "cpu" or bool((sigma >= 0).all()))
            if good and sigma.dim() and x is not None and (sigma.dim() > x.dim() or any(n not in (1, m) for n, m in zip(reversed(sigma.shape), reversed(x.shape)))):
                raise ValueError(f"{type(self).__name__} got prox steps of shape {tuple(sigma.shape)} for an element of shape {tuple(x.shape)}; they need to broadcast to it.")
        else:
            good = isinstance(sigma, (int, float)) and 0 <= sigma < inf
        if not good:
            raise ValueError(f"{type(self).__name__} got the prox step {shown(sigma)}; it needs a positive number, or a tensor of such.")

    # ---- public calls
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The value, of the batch's shape."""
        self._fit(x)
        try:
            value = self._value(x)
        except (RuntimeError, IndexError) as error:
            if no_samples(x, self.ndim):
                return x.real.new_empty(x.shape[:x.dim() - self.ndim])
            refuse(error, self, x)
        left = value.dim() - (x.dim() - self.ndim)
        return sum_trailing(value, left) if left > 0 else value

    def gradient(self, x: torch.Tensor) -> torch.Tensor:
        self._fit(x)
        try:
            return self._gradient(x)
        except (RuntimeError, IndexError) as error:
            if no_samples(x, self.ndim):
                return torch.empty_like(x)
            refuse(error, self, x)

    def prox(self, x: torch.Tensor, sigma: float | torch.Tensor = 1.0) -> torch.Tensor:
        self._fit(x)
        self._step(sigma, x)
        try:
            return self._prox(x, sigma)
        except (RuntimeError, IndexError) as error:
            if no_samples(x, self.ndim):
                return torch.empty_like(x)
            refuse(error, self, x, sigma)

    def proximal(self, sigma: float | torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """ODL's name: the map x -> prox(x, sigma)."""
        self._step(sigma)
        return lambda x: self.prox(x, sigma)

    @property
    def convex_conj(self) -> "Functional":
        return _Conjugate(self)

    def bregman(self, point: torch.Tensor, subgrad: torch.Tensor | None = None) -> "Functional":
        from .bregman import BregmanDistance

        return BregmanDistance(self, point, subgrad)

    def translated(self, shift: torch.Tensor | complex) -> "Functional":
        return _Translated(self, shift)

    def __rmul__(self, a: float | torch.Tensor) -> "Functional":
        if not isinstance(a, (int, float)) and not (torch.is_tensor(a) and a.dim() == 0 and not a.is_complex() and not a.is_meta):
            return NotImplemented
        return _Scaled(self, a)

    def __mul__(self, other):
        raise TypeError(f"{type(self).__name__} * {type(other).__name__}: write the scalar on the left, a * f (in ODL f * a is x -> f(a x), which is easy to confuse).")

    def __add__(self, other: "Functional") -> "Functional":
        return _Sum(self, other) if isinstance(other, Functional) else NotImplemented

    def __matmul__(self, op: Operator) -> "Functional":
        return _Composed(self, op) if isinstance(op, Operator) else NotImplemented

    def __repr__(self):
        where = "" if self.space is None else f" on {self.space.shape}"
        return f"{type(self).__name__}{where}"


from .functional_algebra import _Composed, _Conjugate, _Scaled, _Sum, _Translated, _Wrapper  # noqa: E402, F401  (they derive from Functional)
