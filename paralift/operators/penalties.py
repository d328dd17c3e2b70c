"""Penalties P(x, z) that tie a lifted unknown x to its layer's output z.

A penalty is bound to a potential Psi (activation sigma = prox_Psi). A new one is a class with `_value`, `_gradient_z` and `_prox_x`;
all of ours have the form P(x, z) = q |x|^2 / 2 - <x, t(z)> + c(z) + N(x), from which the last two follow.
"""

import torch

from .functional import Functional
from .norms import ZeroFunctional
from .potentials import activation, activation_
from .space import inner, sum_trailing

__all__ = ["Penalty", "LiftedBregman", "MAC", "Lifted", "Fenchel"]


class Penalty:
    """P(x, z) of a potential: `penalty(x, z)`, `.gradient_z(x, z)`, `.gradient_x(x, z)`, `.prox_x(v, z, tau)`, `.activation(z)`.

    `gradient_x` is the gradient of P(., z) - N, with N = `nonsmooth` (the potential by default); `prox_x(v, z, tau)` minimises
    |x - v|^2/2 + tau P(x, z). Values have the batch's shape.
    """

    zero_at_consistency = True     # P(sigma(z), z) = 0
    lipschitz_z = 1.0              # of z -> gradient_z(x, z); 1 where sigma is a proximal map
    majorised = True               # lipschitz_z is a bound; False: an estimate, so that descent must be checked
    curvature = 1.0                # q

    def __init__(self, potential):
        if not isinstance(potential, Functional):
            raise TypeError(f"{type(self).__name__} got {potential!r}; it needs a potential (a Functional), for instance {type(self).__name__}(ReLU()).")
        self.potential = potential

    @property
    def ndim(self):
        return self.potential.ndim

    @property
    def nonsmooth(self):
        return self.potential

    def on(self, space):
        """A copy whose potential is bound to `space`."""
        return type(self)(self.potential.on(space))

    def activation(self, z):
        return activation(self.potential, z)

    # ---- what a subclass defines
    def _value(self, x, z):
        raise NotImplementedError(f"{type(self).__name__} defines no _value(x, z); add it to the class.")

    def _gradient_z(self, x, z):
        raise NotImplementedError(f"{type(self).__name__} defines no _gradient_z(x, z); add it to the class.")

    def _target(self, z):
        return z

    def _smooth_value(self, x, z):
        """P(x, z) - N(x), finite for every x."""
        return self._value(x, z) - self.nonsmooth(x)

    def _gradient_z_at(self, x, z, p):
        """gradient_z where p = sigma(z) is known already; may overwrite x."""
        return self._gradient_z(x, z)

    def _gradient_x(self, x, z):
        return self.curvature * x - self._target(z)

    def _minimiser(self, v):
        """argmin_x q |x|^2/2 + N(x) - <v, x>: sigma(z) for v = t(z); may overwrite v."""
        q = self.curvature
        return activation_(self.nonsmooth, v) if q == 1 else self.nonsmooth._prox(v / q, 1 / q)

    def _prox_x(self, v, z, tau):
        scale = 1 + self.curvature * tau
        return self.nonsmooth._prox((v + tau * self._target(z)) / scale, tau / scale)

    # ---- public calls
    def __call__(self, x, z):
        value = self._value(x, z)
        left = value.dim() - (z.dim() - self.ndim)
        return sum_trailing(value, left) if left > 0 else value

    def gradient_z(self, x, z):
        return self._gradient_z(x, z)

    def gradient_x(self, x, z):
        return self._gradient_x(x, z)

    def prox_x(self, v, z, tau=1.0):
        return self._prox_x(v, z, tau)

    def __repr__(self):
        return f"{type(self).__name__}({self.potential!r})"


class LiftedBregman(Penalty):
    """B(x, z) = phi(x) + phi*(z) - <x, z>, phi = |.|^2/2 + Psi; dB/dz = sigma(z) - x needs no derivative of the activation.

    B >= |x - sigma(z)|^2 / 2, zero exactly at x = sigma(z), convex in x and in z. Source: Wang & Benning, JMLR 24(232), 2023.
    """

    def _value(self, x, z):
        n, psi = self.ndim, self.potential
        p = self.activation(z)
        # E_z(x) - E_z(p) with the quadratic part factored: (x - p)((x + p)/2 - z) does not cancel
        return inner(x - p, 0.5 * (x + p) - z, n) + (psi(x) - psi(p))

    def _smooth_value(self, x, z):
        p = self.activation(z)
        return inner(x - p, 0.5 * (x + p) - z, self.ndim) - self.potential(p)

    def _gradient_z(self, x, z):
        return self.activation(z) - x

    def _gradient_z_at(self, x, z, p):
        return torch.sub(p, x, out=x) if x.dtype == p.dtype else p - x


class MAC(Penalty):
    """|x - sigma(z)|^2 / 2 (method of auxiliary coordinates): nonconvex in z, and the only penalty that differentiates sigma, locally.

    `activation` may replace the potential by any differentiable map (GELU, SiLU). Source: Carreira-Perpinan & Wang, AISTATS 2014.
    """

    majorised = False              # the slope 1 is Gauss and Newton's

    def __init__(self, potential=None, activation=None):
        super().__init__(ZeroFunctional() if potential is None else potential)
        self._map = activation

    @property
    def nonsmooth(self):
        return ZeroFunctional(self.potential.space)

    def on(self, space):
        return MAC(self.potential.on(space), self._map)

    def activation(self, z):
        return activation(self.potential, z) if self._map is None else self._map(z)

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
        return super().__repr__() if self._map is None else f"MAC({self._map!r})"


class Lifted(Penalty):
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


class Fenchel(Penalty):
    """F(x) + F*(z) - <x, z> with sigma = grad F*, for activations whose slope may exceed 1.

    `F` has a value and a prox and sigma solves z in dF(sigma); without `activation` F = |.|^2/2 + Psi is taken from the potential, which
    gives LiftedBregman. `Fenchel(F, activation=..., slope=L)`: F strongly convex with constant 1/L.
    Source: Gu, Askari, El Ghaoui, AISTATS 2020.
    """

    def __init__(self, potential, activation=None, slope=1.0):
        super().__init__(potential)
        self._map, self.lipschitz_z = activation, float(slope)
        self.curvature = 1.0 if activation is None else 0.0

    def on(self, space):
        return Fenchel(self.potential.on(space), self._map, self.lipschitz_z)

    def activation(self, z):
        return activation(self.potential, z) if self._map is None else self._map(z)

    def _minimiser(self, v):
        return self.activation(v)

    def _value(self, x, z):
        return self._smooth_value(x, z) + self.potential(x)

    def _smooth_value(self, x, z):
        p = self.activation(z)
        return inner(x - p, 0.5 * self.curvature * (x + p) - z, self.ndim) - self.potential(p)

    def _gradient_z(self, x, z):
        return self.activation(z) - x

    def _gradient_z_at(self, x, z, p):
        return torch.sub(p, x, out=x) if x.dtype == p.dtype else p - x
