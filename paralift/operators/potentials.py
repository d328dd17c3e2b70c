"""Potentials Psi of piecewise linear activations sigma = prox_Psi (smooth ones: smooth_potentials.py).

A potential is a functional; its activation is `prox(z, 1)`, which `_activation` may give in closed form. Formulas: Wang & Benning,
JMLR 24(232), 2023. Written with phi = |.|^2/2 + Psi; `_phi_conj` is phi*, where it is known better than by <p, z> - phi(p).
"""

import math
from collections.abc import Callable
from typing import NoReturn

import torch

from ..arguments import check, refuse
from .elements import REALS
from .functional import Functional
from .indicators import IndicatorBox, IndicatorNonnegative, IndicatorSimplex
from .norms import L1Norm, ZeroFunctional
from .space import SpaceLike

__all__ = ["Identity", "ReLU", "LeakyReLU", "Clip", "HardTanh", "ReLU6", "HardSigmoid", "SoftThreshold", "Sparsemax", "activation", "activation_"]


def activation(potential: Functional, z: torch.Tensor, own: Callable[[torch.Tensor], torch.Tensor] | None = None) -> torch.Tensor:
    """sigma(z) = prox_Psi(z), elementwise closed form where the potential has one; `own`: a function to compute it by."""
    try:
        special = own or getattr(potential, "_activation", None)
        return potential._prox(z, 1.0) if special is None else special(z)
    except (AttributeError, IndexError, RuntimeError, TypeError) as error:
        _refused(error, potential, z, own)


def activation_(potential: Functional, z: torch.Tensor) -> torch.Tensor:
    """sigma(z), which may overwrite z."""
    try:
        special = getattr(potential, "_activation_", None)
        return activation(potential, z) if special is None else special(z)
    except (AttributeError, IndexError, RuntimeError, TypeError) as error:
        _refused(error, potential, z)


def _refused(error, potential, z, own=None) -> NoReturn:
    """Where sigma(z) could not be computed the arguments are looked at, not before."""
    check("activation", "potential", Functional, potential)
    check("activation", "own", Callable | None, own)
    potential._fit(z)
    refuse(error, potential, z)


class Identity(ZeroFunctional):
    """Psi = 0: sigma(z) = z, and B(x, z) = |x - z|^2 / 2."""

    def _activation(self, z):
        return z

    def _phi_conj(self, z):
        return 0.5 * z * z


class ReLU(IndicatorNonnegative):
    """Psi = indicator of x >= 0: sigma(z) = max(z, 0), phi*(z) = max(z, 0)^2 / 2."""

    def _activation(self, z):
        return torch.relu(z)                            # faster than clamp

    def _activation_(self, z):
        return torch.relu_(z)

    def _phi_conj(self, z):
        return 0.5 * z.clamp(min=0).square()


class LeakyReLU(Functional):
    """Psi(x) = (1/s - 1) min(x, 0)^2 / 2, slope s in (0, 1], ValueError for another: sigma(z) = z for z > 0, s z below."""

    _dtypes = REALS
    separable = True

    def __init__(self, slope: float = 0.01, space: SpaceLike | None = None):
        if not 0 < slope <= 1:
            raise ValueError(f"LeakyReLU got the slope {slope}; a proximal map needs 0 < slope <= 1 (ReLU is the case 0).")
        super().__init__(space)
        self.slope = float(slope)

    @property
    def grad_lipschitz(self):
        return 1 / self.slope - 1

    def _value(self, x):
        return self._sum(0.5 * (1 / self.slope - 1) * x.clamp(max=0).square())

    def _gradient(self, x):
        return (1 / self.slope - 1) * x.clamp(max=0)

    def _prox(self, x, sigma):
        return torch.where(x > 0, x, x / (1 + sigma * (1 / self.slope - 1)))

    def _activation(self, z):
        return torch.nn.functional.leaky_relu(z, self.slope)

    def _phi_conj(self, z):
        return 0.5 * z.clamp(min=0).square() + 0.5 * self.slope * z.clamp(max=0).square()


class Clip(IndicatorBox):
    """Psi = indicator of [lower, upper]: sigma(z) = min(max(z, lower), upper). Raises ValueError where lower > upper."""

    def _activation(self, z):
        return z.clamp(self.lower, self.upper)

    def _activation_(self, z):
        return z.clamp_(self.lower, self.upper)


class HardTanh(Clip):
    """Clip to [-1, 1]."""

    def __init__(self, space: SpaceLike | None = None):
        super().__init__(-1.0, 1.0, space=space)


class ReLU6(Clip):
    """Clip to [0, 6]."""

    def __init__(self, space: SpaceLike | None = None):
        super().__init__(0.0, 6.0, space=space)


class HardSigmoid(Functional):
    """Psi(x) = 5 x^2 / 2 - 3 x on [0, 1]: sigma(z) = z/6 + 1/2 cut to [0, 1] (torch's Hardsigmoid)."""

    _dtypes = REALS
    separable = True
    strong_convexity = 5.0

    def _value(self, x):
        return self._sum(torch.where((x >= 0) & (x <= 1), 2.5 * x * x - 3 * x, math.inf))

    def _prox(self, x, sigma):
        return ((x + 3 * sigma) / (1 + 5 * sigma)).clamp(0, 1)

    def _activation(self, z):
        return torch.nn.functional.hardsigmoid(z)

    def _phi_conj(self, z):
        return torch.where(z > 3, z, 3 * (z / 6 + 0.5).clamp(min=0).square())


class SoftThreshold(L1Norm):
    """Psi = a |x|_1, a >= 0, ValueError otherwise: sigma(z) = sign(z) max(|z| - a, 0), phi*(z) = max(|z| - a, 0)^2 / 2."""

    def __init__(self, threshold: float = 1.0, space: SpaceLike | None = None):
        if not threshold >= 0:
            raise ValueError(f"SoftThreshold got the threshold {threshold}; it needs a number >= 0.")
        super().__init__(space)
        self.threshold = float(threshold)

    def _value(self, x):
        return self.threshold * super()._value(x)

    def _dual_ball(self, x, radius, out=None):
        return super()._dual_ball(x, self.threshold * radius, out)

    def _polar(self, x):
        return (super()._polar(x) / self.threshold).nan_to_num(nan=0.0, posinf=math.inf)

    def _phi_conj(self, z):
        return 0.5 * (z.abs() - self.threshold).clamp(min=0).square()


class Sparsemax(IndicatorSimplex):
    """Psi = indicator of the simplex (last axis): sigma(z) = projection onto it (Martins & Astudillo, 2016)."""

    def __init__(self, space: SpaceLike | None = None):
        super().__init__(1.0, space=space)
