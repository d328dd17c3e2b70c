"""Penalties P(x, z) that tie a lifted unknown x to its layer's output z.

A penalty is bound to a potential Psi (activation sigma = prox_Psi). A new one is a class with `_value`, `_gradient_z` and `_prox_x`;
all of ours have the form P(x, z) = q |x|^2 / 2 - <x, t(z)> + c(z) + N(x), from which what else a problem asks for follows.
"""

import copy
from collections.abc import Callable

import torch

from ..arguments import checked, refuse
from .functional import Functional, device_of
from .joint_prox import JointProx
from .norms import ZeroFunctional
from .potentials import activation, activation_
from .space import SpaceLike, inner, sum_trailing

__all__ = ["Penalty", "LiftedBregman", "MAC", "Lifted", "Fenchel"]


class Penalty:
    """P(x, z) of a potential: `penalty(x, z)`, `.gradient_z(x, z)`, `.gradient_x(x, z)`, `.prox_x(v, z, tau)`, `.activation(z)`.

    A subclass defines `_value` (of the batch's shape, or with axes left to sum), `_gradient_z` and `_prox_x`, the minimiser of |x - v|^2/2 + tau P(x, z).
    `gradient_x` is the gradient of P(., z) - N, where N = `nonsmooth` has a prox: the potential where P is infinite off its domain, 0 otherwise.
    It is differentiated by torch, in x alone, unless the subclass gives `_gradient_x`. ISGM needs neither; PGD and BCD do.
    """

    zero_at_consistency = True     # P(sigma(z), z) = 0
    lipschitz_z = 1.0              # of z -> gradient_z(x, z); 1 where sigma is a proximal map
    majorised = True               # lipschitz_z is a bound; False: an estimate, so that descent must be checked
    curvature = 1.0                # of x -> gradient_x(x, z)
    passes = False                 # the sweep passes the pull on as it is, and needs neither z nor sigma(z)

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        checked(cls)

    def __init__(self, potential: Functional):
        if not isinstance(potential, Functional):
            raise TypeError(f"{type(self).__name__} got {potential!r}; it needs a potential (a Functional), for instance {type(self).__name__}(ReLU()).")
        self.potential = potential

    @property
    def ndim(self) -> int:
        return self.potential.ndim

    @property
    def nonsmooth(self) -> Functional:
        if not hasattr(self, "_finite"):
            shape = self.potential.space.shape if self.potential.space else (4,) * self.ndim
            z = 3 * torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(device_of(self.potential))
            self._finite = bool(torch.isfinite(self(-z, z)).all())
        return ZeroFunctional(self.potential.space) if self._finite else self.potential

    def on(self, space: SpaceLike) -> "Penalty":
        """A copy whose potential is bound to `space`."""
        new = copy.copy(self)
        new.potential = self.potential.on(space)
        return new

    def activation(self, z: torch.Tensor) -> torch.Tensor:
        """sigma(z); solvers give it z, which is not looked at."""
        return activation(self.potential, z)

    # ---- what a subclass defines
    def _value(self, x, z):
        raise NotImplementedError(f"{type(self).__name__} defines no _value(x, z); add it to the class.")

    def _gradient_z(self, x, z):
        raise NotImplementedError(f"{type(self).__name__} defines no _gradient_z(x, z); add it to the class.")

    def _prox_x(self, v, z, tau):
        raise NotImplementedError(f"{type(self).__name__} defines no _prox_x(v, z, tau); add it to the class.")

    # ---- what follows
    def _into_domain(self, x, z):
        """x, moved to where P is finite (an extrapolated x need not be there)."""
        off = ~torch.isfinite(self(x, z))
        return torch.where(off.reshape(off.shape + (1,) * self.ndim), self.nonsmooth._prox(x, 1e-6), x) if off.any() else x

    def _smooth_value(self, x, z):
        """P(x, z) - N(x), continued by its tangent off the domain."""
        q = self._into_domain(x, z)
        value = self(q, z) - self.nonsmooth(q)
        return value if q is x else value + inner(self._gradient_x(q, z), x - q, self.ndim)

    def _gradient_x(self, x, z):
        with torch.enable_grad():
            q = self._into_domain(x, z).detach().requires_grad_()
            return torch.autograd.grad((self(q, z.detach()) - self.nonsmooth(q)).sum(), q)[0]

    def _gradient_z_at(self, x, z, p):
        """gradient_z where p = sigma(z) is known already; may overwrite x."""
        return self._gradient_z(x, z)

    def _sweep_x(self, z, p, g, ratio=1.0):
        """x of a backward sweep, which lowers P(x, z) + ratio <g, x> from p = sigma(z): its minimiser where that exists, or a proximal step (here, of length 8)."""
        return self._prox_x(torch.sub(p, g, alpha=8 * ratio), z, 8.0)

    def _sweep(self, z, p, g, weight, rho, fresh=False):
        """(r, w) with w r = rho dP/dz(x, z) at the x that a backward sweep reaches under the pull weight * g; `fresh`: z's memory may be used."""
        return self._gradient_z_at(self._sweep_x(z, p, g, weight / rho), z, p), rho

    def plus(self, S: Functional) -> "Penalty":
        """P(x, z) + S(x) as a penalty; ValueError where its prox in x is not known."""
        raise ValueError(f"the prox of {self!r} + {S!r} is not known; use LiftedBregman, MAC or Lifted, or put the term into the penalty's own _value and _prox_x.")

    # ---- public calls
    def _fitting(self, call, *elements):
        """call(*elements), elements that fit the potential's space."""
        for x in elements:
            self.potential._fit(x)
        try:
            return call(*elements)
        except (RuntimeError, IndexError) as error:
            refuse(error, self, *elements)

    def __call__(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        value = self._fitting(self._value, x, z)
        left = value.dim() - (z.dim() - self.ndim)
        return sum_trailing(value, left) if left > 0 else value

    def gradient_z(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self._fitting(self._gradient_z, x, z)

    def gradient_x(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self._fitting(self._gradient_x, x, z)

    def prox_x(self, v: torch.Tensor, z: torch.Tensor, tau: float | torch.Tensor = 1.0) -> torch.Tensor:
        self.potential._step(tau, v)
        return self._fitting(lambda v, z: self._prox_x(v, z, tau), v, z)

    def __repr__(self):
        return f"{type(self).__name__}({self.potential!r})"


class _Quadratic(Penalty):
    """q |x|^2 / 2 - <x, t(z)> + c(z) + N(x), with q = `curvature`, t = `_target`, N = `nonsmooth`; `_smooth_value` is finite for every x."""

    regulariser = None             # S of plus(S)
    map: Callable[[torch.Tensor], torch.Tensor] | None = None      # an activation in place of the potential's

    @property
    def nonsmooth(self):
        return self._own_nonsmooth() if self.regulariser is None else self._joint

    def _own_nonsmooth(self):
        return self.potential

    def plus(self, S):
        if self.curvature != 1 or type(self)._prox_x is not _Quadratic._prox_x:
            super().plus(S)
        new = copy.copy(self)
        new.regulariser, new._joint, new.zero_at_consistency = S, JointProx(self.nonsmooth, S), False
        return new

    def on(self, space):
        new = super().on(space)
        if self.regulariser is not None:
            new.regulariser, new._joint = self.regulariser.on(space), self._joint.on(space)
        return new

    def __call__(self, x, z):
        return super().__call__(x, z) + (0 if self.regulariser is None else self.regulariser(x))

    def activation(self, z):
        return activation(self.potential, z, self.map)

    def _target(self, z):
        return z

    def _gradient_x(self, x, z):
        return self.curvature * x - self._target(z)

    def _prox_x(self, v, z, tau):
        scale = 1 + self.curvature * tau
        return self.nonsmooth._prox((v + tau * self._target(z)) / scale, tau / scale)

    def _minimiser(self, v):
        """argmin_x q |x|^2/2 + N(x) - <v, x>: sigma(z) for v = t(z); may overwrite v."""
        q = self.curvature
        return activation_(self.nonsmooth, v) if q == 1 else self.nonsmooth._prox(v / q, 1 / q)

    def _sweep_x(self, z, p, g, ratio=1.0):
        return self._minimiser(torch.sub(self._target(z), g, alpha=ratio))

    @property
    def passes(self) -> bool:  # type: ignore[override]
        return isinstance(self.potential, ZeroFunctional) and self.regulariser is None and self.map is None

    def _sweep(self, z, p, g, weight, rho, fresh=False):
        return (g, weight) if self.passes else super()._sweep(z, p, g, weight, rho, fresh)         # sigma(z) - x = (weight / rho) g, without a pass over memory

    def __repr__(self):
        return super().__repr__() + ("" if self.regulariser is None else f" + {self.regulariser!r}")


class _FenchelYoung(_Quadratic):
    """F(x) + F*(z) - <x, z> with F = q |.|^2/2 + Psi: dP/dz = sigma(z) - x, sigma = grad F*."""

    def _value(self, x, z):
        p, psi = self.activation(z), self.potential
        return self._change(x, z, p) + (psi(x) - psi(p))

    def _smooth_value(self, x, z):
        p = self.activation(z)
        return self._change(x, z, p) - self.potential(p)

    def _change(self, x, z, p):
        """q |x|^2/2 - <x, z> minus the same at p, factored, so that nothing cancels."""
        return inner(x - p, 0.5 * self.curvature * (x + p) - z, self.ndim)

    def _gradient_z(self, x, z):
        return self.activation(z) - x

    def _gradient_z_at(self, x, z, p):
        return torch.sub(p, x, out=x) if x.dtype == p.dtype else p - x


class LiftedBregman(_FenchelYoung):
    """B(x, z) = phi(x) + phi*(z) - <x, z>, phi = |.|^2/2 + Psi; dB/dz = sigma(z) - x needs no derivative of the activation.

    B >= |x - sigma(z)|^2 / 2, zero exactly at x = sigma(z), convex in x and in z. Source: Wang & Benning, JMLR 24(232), 2023.
    """

    def _sweep(self, z, p, g, weight, rho, fresh=False):
        if not fresh or isinstance(self.potential, ZeroFunctional) or z.dtype != p.dtype:
            return super()._sweep(z, p, g, weight, rho)
        return self._gradient_z_at(self._minimiser(torch.sub(z, g, alpha=weight / rho, out=z)), z, p), rho


class MAC(_Quadratic):
    """|x - sigma(z)|^2 / 2 (method of auxiliary coordinates): nonconvex in z, and the only penalty that differentiates sigma, locally.

    `activation` may replace the potential by any differentiable map (GELU, SiLU). Source: Carreira-Perpinan & Wang, AISTATS 2014.
    """

    majorised = False              # the slope 1 is Gauss and Newton's

    def __init__(self, potential: Functional | None = None, activation: Callable[[torch.Tensor], torch.Tensor] | None = None):
        super().__init__(ZeroFunctional() if potential is None else potential)
        self.map, self.free = activation, potential is None and activation is None

    def _own_nonsmooth(self):
        return ZeroFunctional(self.potential.space)

    def _target(self, z):
        return self.activation(z)

    def _value(self, x, z):
        d = x - self.activation(z)
        return 0.5 * inner(d, d, self.ndim)

    def _gradient_z(self, x, z):
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            s = self.activation(z)
            if not s.requires_grad:
                raise TypeError(f"MAC needs an activation that torch can differentiate; {self.potential!r} is not: use LiftedBregman, which does not differentiate it.")
            return torch.autograd.grad(s, z, s.detach() - x)[0]

    def __repr__(self):
        return super().__repr__() if self.map is None else f"MAC({self.map!r})"


class Lifted(_Quadratic):
    """E_z(x) = |x - z|^2/2 + Psi(x); at x = sigma(z) the Moreau envelope of Psi remains, so it also penalises z itself.

    Source: Askari, Negiar, Sambharya, El Ghaoui, arXiv 1805.01532.
    """

    zero_at_consistency = False

    def _value(self, x, z):
        return self._smooth_value(x, z) + self.potential(x)

    def _smooth_value(self, x, z):
        return 0.5 * inner(x - z, x - z, self.ndim)

    def _gradient_z(self, x, z):
        return z - x


class Fenchel(_FenchelYoung):
    """F(x) + F*(z) - <x, z> with sigma = grad F*, for activations whose slope may exceed 1.

    `F` has a value and a prox and sigma solves z in dF(sigma); without `activation` F = |.|^2/2 + Psi is taken from the potential, which
    gives LiftedBregman. `Fenchel(F, activation=..., slope=L)`: F strongly convex with constant 1/L.
    Source: Gu, Askari, El Ghaoui, AISTATS 2020.
    """

    def __init__(self, potential: Functional, activation: Callable[[torch.Tensor], torch.Tensor] | None = None, slope: float = 1.0):
        super().__init__(potential)
        self.map, self.lipschitz_z = activation, float(slope)
        self.curvature = 1.0 if activation is None else 0.0

    def _minimiser(self, v):
        return super()._minimiser(v) if self.map is None else self.map(v)
