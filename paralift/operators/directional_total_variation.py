"""Total variation that spares the edges of a reference image."""


import torch

from ..arguments import Array, Count, Extended, Integers, Numbers
from .linear import Gradient
from .linear_function import linear_function
from .operator import LinearOperator
from .space import Space, SpaceLike, finite
from .variation import _Variation

__all__ = ["DirectionalGradient", "DirectionalTotalVariation"]


def edges(gradient, eta):
    """xi = g / sqrt(|g|^2 + eta^2) of a gradient field g (d, ...): its direction where |g| is far above eta, near 0 below."""
    size = torch.linalg.vector_norm(gradient, dim=0)
    eta = 0.01 * size.max() if eta is None else torch.as_tensor(eta, dtype=gradient.dtype)
    return gradient / (size.square() + eta**2).sqrt().clamp(min=torch.finfo(gradient.dtype).tiny)


class DirectionalGradient(LinearOperator):
    """(I - xi xi^T) grad x: `space.shape` -> (d, *space.shape), xi = grad v / sqrt(|grad v|^2 + eta^2) for a real reference v of the shape of the space;
    the other parameters are those of DirectionalTotalVariation."""

    def __init__(self, space: SpaceLike, reference: Array, eta: Extended | None = None, axes: Integers | None = None, spacing: Numbers = 1.0,
                 channel_axis: int | None = None):
        space = space if isinstance(space, Space) else Space(space)
        self.gradient = Gradient(space, axes, spacing)
        v = finite(reference, "DirectionalGradient", "reference").to(space.device, space.dtype.to_real())
        channel = None if channel_axis is None else channel_axis % space.ndim - space.ndim
        shape = tuple(n for a, n in zip(range(-space.ndim, 0), space.shape) if a != channel)
        if tuple(v.shape) != shape:
            raise ValueError(f"DirectionalGradient got a reference of shape {tuple(reference.shape)}; it needs {shape}, that of the image: resample it first.")
        v = v if channel is None else v.unsqueeze(channel)
        self.direction = edges(Gradient(Space.of(v), self.gradient.axes, spacing)._call(v), eta)
        super().__init__(space, self.gradient.range)

    def _project(self, g):
        d = -self.domain.ndim - 1
        return g - self.direction * (self.direction * g).sum(d, keepdim=True)

    def _call(self, x):
        return linear_function(self.gradient._call(x), self._project, self._project)

    def _adjoint(self, y):
        return self.gradient._adjoint(linear_function(y, self._project, self._project))


class DirectionalTotalVariation(_Variation):
    """sum over pixels of |(I - xi xi^T) grad x|, xi the direction of a reference's gradient: edges shared with it are free, whatever their height and sign.

    Parameters
    ----------
    reference : a real image of the element's shape (without its channels), an MR image for PET, another contrast; complex ones by their modulus.
    eta : the size of grad v that counts as an edge, in v per grid width (per mm with a spacing in mm); by default a hundredth of the largest; eta -> inf is TotalVariation.

    The others are those of TotalVariation, with the same prox. Raises ValueError for a reference of another shape or eta <= 0, TypeError for a complex one.
    Source: Ehrhardt & Betcke, SIAM J. Imaging Sci. 9(3), 2016.
    """

    positive_homogeneous = True

    def __init__(self, reference: Array, eta: Extended | None = None, space: SpaceLike | None = None, channel_axis: int | None = None, axes: Integers | None = None,
                 spacing: Numbers = 1.0, tolerance: float = 1e-6, max_iterations: Count = 2000):
        reference = finite(reference, "DirectionalTotalVariation", "reference")
        if reference.is_complex():
            raise TypeError("DirectionalTotalVariation got a complex reference; pass its modulus, reference.abs().")
        if eta is not None and not eta > 0:
            raise ValueError(f"DirectionalTotalVariation got eta = {eta}; it needs eta > 0, or None.")
        self.reference, self.eta = reference, eta
        super().__init__(space, True, channel_axis, axes, spacing, tolerance, max_iterations)

    def _dimensions(self):
        return self.reference.dim() + (self.channel_axis is not None)

    def _operator(self, space):
        channel, axes, spacing = self._grid()
        return DirectionalGradient(space, self.reference, self.eta, axes, spacing, channel)

    def _direction(self, x):
        return self._gradients_of(x).direction.flatten(1)
