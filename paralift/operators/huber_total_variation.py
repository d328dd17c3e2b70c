"""Total variation with Huber's function in place of the modulus."""


from ..arguments import Count, Integers, Numbers
from .norms import GroupHuber, Huber
from .space import SpaceLike
from .variation import _Variation

__all__ = ["HuberTotalVariation"]


class HuberTotalVariation(_Variation):
    """sum over pixels of h(|grad x|), h(t) = t^2 / (2 delta) for t <= delta, t - delta/2 beyond: smooth slopes below delta (in units of x per grid width) are no stairs.

    `delta` comes first, the other parameters are those of TotalVariation, with the same prox. It is smooth too: `gradient(x)` = D* (D x / max(|D x|, delta)), with the
    Lipschitz constant |D|^2 / delta, for gradient methods; `split(space)` = [GroupHuber(delta) @ Gradient(space)].
    Raises ValueError unless delta > 0. Source: Huber, Robust Statistics, 1981, as in Chambolle & Pock, J. Math. Imaging Vis. 40, 2011 (section 6.2.3).
    """

    def __init__(self, delta: float, space: SpaceLike | None = None, isotropic: bool = True, channel_axis: int | None = None, axes: Integers | None = None,
                 spacing: Numbers = 1.0, tolerance: float = 1e-6, max_iterations: Count = 2000):
        if not delta > 0:
            raise ValueError(f"HuberTotalVariation got delta = {delta}; it needs delta > 0 (delta -> 0 is TotalVariation).")
        self.delta = float(delta)
        super().__init__(space, isotropic, channel_axis, axes, spacing, tolerance, max_iterations)

    def _norm(self):
        return GroupHuber(self.delta, self._groups()) if self._groups() else Huber(self.delta)

    @property
    def grad_lipschitz(self):
        return sum(4 / h**2 for h in self._grid()[2]) / self.delta

    def _gradient(self, x):
        D = self._gradients_of(x)
        return D._adjoint(self._norm().on(D.range)._gradient(D._call(x)))
